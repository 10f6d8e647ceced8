"""A week of a service's life, with 21 incidents: everything is checked each virtual minute, and the same for the same seed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from resilience import subscribe
from tests.soak.sizes import by_length
from tests.soak.week import FLOOR, Schedule, Service

pytestmark = [pytest.mark.soak, pytest.mark.slow]


def lived(schedule: Schedule, seed: int) -> tuple[Service, str]:
    """A service after its time, and the digest of all its decisions."""
    service = Service(schedule, seed)
    unsubscribe = subscribe(service)
    try:
        return service, service.run()
    finally:
        unsubscribe()


def test_a_week(caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]) -> None:
    caplog.set_level("CRITICAL")
    days, incidents = by_length((1, 3), (7, 21))
    service, _ = lived(Schedule.draw(7, days, incidents), 7)
    calls = sum(service.books.ends.values())
    record_property("size", f"{days} virtual day(s), {incidents} incidents, {calls:,} calls")
    ends = service.books.ends
    assert service.signal.incidents == incidents
    assert service.signal.factor == 1.0
    assert min(ends[end] for end in ("ok", "open", "down", "limited quota", "limited cut")) > 1_000 * incidents, ends
    climbs = [FLOOR, *range(FLOOR + 5, 101, 5)]
    steps = [(round(old * 100), round(new * 100)) for old, new in service.books.factors]
    assert steps == [(100, FLOOR), *itertools.pairwise(climbs)] * incidents


def test_the_same_seed_decides_the_same_and_another_does_not(
    caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    caplog.set_level("CRITICAL")
    record_property("size", "2 virtual hours, 1 incident, twice with one seed and once with another")
    schedule = Schedule.draw(7, 2 / 24, 1, surge_per_s=by_length(30, 100))
    first, again, other = (lived(schedule, seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other
