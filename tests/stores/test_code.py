"""A limit and a health that processes share, made in code."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilience import Call, CircuitBreaker, HealthSignal, Pipeline, RateLimited, SharedRateLimiter
from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigError
from resilience.fleet_health import FleetHealthSignal
from resilience.health import HealthSettings, Hold
from resilience.stores import HostStoreSettings, RedisStoreSettings, SharedStore, give_up, open_store, shared_health
from tests.stores.limits import eventually
from tests.stores.servers import Server

HOUR = 1 / 3600
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "fleet.md").read_text(encoding="utf-8")


@pytest.fixture(params=["redis", "host"])
def store(request: pytest.FixtureRequest, server: Server, name: str, tmp_path: Path) -> Iterator[SharedStore]:
    settings: Any = RedisStoreSettings(server.url, name=name)
    if request.param == "host":
        settings = HostStoreSettings(name, str(tmp_path))
    store = open_store(settings)
    yield store
    give_up(store)


def admitted(pipeline: Pipeline, count: int, **call: Any) -> int:
    found = 0
    for _ in range(count):
        try:
            with pipeline.guard(**call):
                found += 1
        except RateLimited:
            continue
    return found


def test_limiters_of_one_name_share_their_bucket(store: SharedStore) -> None:
    one, other = (Pipeline("p", SharedRateLimiter(store, HOUR, 10, name="api")) for _ in range(2))
    assert admitted(one, 4) + admitted(other, 20) == 10
    assert admitted(Pipeline("p", SharedRateLimiter(store, HOUR, 10, name="other")), 20) == 10


def test_the_options_are_those_of_a_limiter(store: SharedStore) -> None:
    limiter = SharedRateLimiter(
        store, HOUR, 10, name="api", key=lambda call: f"of {call.name}", cost=lambda call: 2, status=503, fields="never"
    )
    pipeline = Pipeline("p", limiter)
    assert [admitted(pipeline, 10, name=name) for name in ("a", "b")] == [5, 5]

    assert limiter.quota(Call(key="nobody")).remaining == 10


def test_event_loops_ask_it_too(store: SharedStore) -> None:
    pipeline = Pipeline("p", SharedRateLimiter(store, HOUR, 3, name="api"))

    async def one() -> int:
        try:
            async with pipeline.guard():
                return 1
        except RateLimited:
            return 0

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(one() for _ in range(10))))

    assert asyncio.run(all_of_them()) == 3


def test_health_of_the_store_cuts_its_limits(store: SharedStore) -> None:
    health = shared_health(store)
    breaker = CircuitBreaker(consecutive_failures=1, health=health, name="payments")
    pipeline = Pipeline("p", SharedRateLimiter(store, HOUR, 100, name="api", health=health))
    eventually(lambda: health.status()["shared"])
    assert admitted(pipeline, 1) == 1
    with pytest.raises(ZeroDivisionError):
        Pipeline("payments", breaker).call(lambda: 1 / 0)
    assert health.factor == pytest.approx(0.3)
    eventually(lambda: health.status()["fleet_incident"] == 1)
    assert admitted(pipeline, 100) == 30


def test_a_signal_is_one_however_often_it_is_asked_for(store: SharedStore) -> None:
    first = shared_health(store, every_s=60.0)
    assert shared_health(store, every_s=30.0) is first
    assert first.settings.every_s == 30.0
    assert shared_health(store, name="other") is not first
    assert isinstance(first, HealthSignal)


def test_what_cannot_work_is_told(server: Server, name: str) -> None:
    with pytest.raises(ValueError, match="name: must be given"):
        open_store(HostStoreSettings())
    with pytest.raises(ConfigError, match="url cannot be read"):
        open_store(RedisStoreSettings("redis://127.0.0.1:port/0"))
    with pytest.raises(ValueError, match=r"such as RedisStoreSettings\(url\), got str$"):
        open_store("redis://:s3cret@127.0.0.1")  # type: ignore[arg-type]
    for wrong in (RedisStoreSettings(server.url), server.url, None):
        with pytest.raises(ValueError, match=f"store: must be what open_store has opened, got {type(wrong).__name__}$"):
            SharedRateLimiter(wrong, 10.0, name="api")  # type: ignore[arg-type]
    store = open_store(RedisStoreSettings(server.url, name=name))
    for nameless in ("", None, 7):
        with pytest.raises(ValueError, match="name: must be text"):
            SharedRateLimiter(store, 10.0, name=nameless)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="name: must be text"):
            shared_health(store, name=nameless)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_store_error: must be one of local, open, closed, got 'shut'"):
        SharedRateLimiter(store, 10.0, name="api", on_store_error="shut")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rate_per_s"):
        SharedRateLimiter(store, 0.0, name="api")
    give_up(store)
    with pytest.raises(ValueError, match="is not open"):
        shared_health(store)


def test_the_program_on_the_page_runs(server: Server, name: str, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    path = tmp_path / "program.py"
    path.write_text(program.replace("redis://127.0.0.1:6379/0", server.url).replace('"shop"', f'"{name}"'), encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("3 of 5\n", "")


def test_two_signals_of_one_name_in_one_process_do_not_speak_for_each_other(store: SharedStore) -> None:
    """Such as those of two files, or of a file and of code: a breaker that is open for one of them is not closed by the other."""
    signals = [FleetHealthSignal(store, settings=HealthSettings(), name="default", clock=SYSTEM_CLOCK) for _ in range(2)]
    first, second = signals
    hold = Hold()
    for signal in signals:
        store.join(signal)
    try:
        for opener in (first, second):
            eventually(lambda: not any(signal.in_incident for signal in signals))
            before = first.status()["fleet_incident"]
            opener.opened(hold, SYSTEM_CLOCK.now_us(), None)
            eventually(lambda before=before: all(signal.status()["fleet_incident"] == before + 1 for signal in signals))  # type: ignore[misc]
            time.sleep(1.2)  # both have told what they have to tell
            assert all(signal.in_incident for signal in signals)
            opener.closed(hold, SYSTEM_CLOCK.now_us())
        eventually(lambda: not any(signal.in_incident for signal in signals))
        store.leave(first)
        second.opened(hold, SYSTEM_CLOCK.now_us(), None)
        eventually(lambda: second.status()["fleet_incident"] == before + 2)
        time.sleep(1.2)
        assert second.in_incident
    finally:
        for signal in signals:
            store.leave(signal)
