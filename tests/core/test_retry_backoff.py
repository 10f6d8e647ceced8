"""Waits between tries: where each kind of jitter draws from, and that every process draws its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import Pipeline, Retry
from resilience.layers.retry import RetrySettings
from resilience.layers.retry.backoff import delay_s
from resilience.layers.retry.settings import JITTERS
from resilience.testing import ManualClock
from tests.core.helpers import Drive

ALMOST_ONE = math.nextafter(1.0, 0.0)


def waits(settings: RetrySettings, draws: list[float]) -> list[float]:
    """The waits after the first, second, ... try, for these draws."""
    previous_s, found = 0.0, []
    for tries, drawn in enumerate(draws, start=1):
        previous_s = delay_s(settings, tries, previous_s, lambda drawn=drawn: drawn)  # type: ignore[misc]
        found.append(previous_s)
    return found


@pytest.mark.parametrize(
    ("jitter", "least_s", "most_s"),
    [
        ("none", [1, 2, 4, 8, 10, 10], [1, 2, 4, 8, 10, 10]),
        ("full", [0, 0, 0, 0, 0, 0], [1, 2, 4, 8, 10, 10]),
        ("equal", [0.5, 1, 2, 4, 5, 5], [1, 2, 4, 8, 10, 10]),
        ("decorrelated", [1, 1, 1, 1, 1, 1], [3, 9, 10, 10, 10, 10]),
    ],
)
def test_where_each_jitter_draws_from(jitter: str, least_s: list[float], most_s: list[float]) -> None:
    settings = RetrySettings(backoff_base_s=1.0, backoff_max_s=10.0, jitter=jitter)
    assert waits(settings, [0.0] * 6) == pytest.approx(least_s)
    assert waits(settings, [ALMOST_ONE] * 6) == pytest.approx(most_s)


@pytest.mark.parametrize("jitter", ["full", "equal", "decorrelated"])
def test_even_the_first_wait_is_spread(jitter: str) -> None:
    """Callers that failed together must not come back together."""
    settings = RetrySettings(jitter=jitter)
    assert len({delay_s(settings, 1, 0.0, lambda drawn=drawn: drawn) for drawn in (0.0, 0.3, 0.6, 0.9)}) == 4  # type: ignore[misc]


@pytest.mark.parametrize(("jitter", "wait_s"), [("none", 0.25), ("full", 0.125), ("equal", 0.1875), ("decorrelated", 0.25)])
def test_equal_ends_bound_every_wait_alike(jitter: str, wait_s: float) -> None:
    settings = RetrySettings(backoff_base_s=0.25, backoff_max_s=0.25, jitter=jitter)
    assert waits(settings, [0.5] * 5) == [wait_s] * 5


@given(
    st.sampled_from(JITTERS),
    st.floats(0, 3600),
    st.floats(0, 3600),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=100, max_size=100),
)
def test_a_hundred_waits_never_leave_their_bounds(jitter: str, one_s: float, other_s: float, draws: list[float]) -> None:
    base_s, most_s = sorted((one_s, other_s))
    found = waits(RetrySettings(attempts=100, backoff_base_s=base_s, backoff_max_s=most_s, jitter=jitter), draws)
    least_s = {"none": base_s, "full": 0.0, "equal": base_s / 2, "decorrelated": base_s}[jitter]
    assert all(least_s <= wait_s <= most_s for wait_s in found)


@pytest.mark.parametrize("jitter", JITTERS)
def test_a_hundred_tries_through_a_pipeline(clock: ManualClock, drive: Drive, jitter: str) -> None:
    retry = Retry(100, backoff_s=(1e-6, 3_600.0), jitter=jitter, budget=(1_000, 1.0), clock=clock, uniform=lambda: ALMOST_ONE)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise OSError

    with pytest.raises(OSError) as raised:
        drive(Pipeline("p", retry), work)
    assert len(runs) == 100
    assert max(clock.slept_s) == pytest.approx(3_600.0)
    (note,) = raised.value.__notes__
    assert note.startswith("retry: gave up after 100 attempts in ")


FORKING = """
import json, os, random
from resilience import Pipeline, Retry
from resilience.testing import ManualClock

clock = ManualClock()
retry = Retry(4, backoff_s=(1.0, 10.0), budget=(100, 1.0), clock=clock)

def fail():
    raise OSError

def waits():
    del clock.slept_s[:]
    try:
        Pipeline("p", retry).call(fail)
    except OSError:
        return list(clock.slept_s)

random.seed(7)
here = waits()
random.seed(7)
assert waits() == here, "the process's own random numbers decide"
random.seed(7)
pipes = []
for _ in range(2):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps(waits()).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    pipes.append(os.read(reader, 10_000).decode())
print(json.dumps(here), *pipes, sep="\\n")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_workers_that_fork_from_one_process_draw_their_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, check=True, timeout=60)
    parent, *children = (json.loads(line) for line in done.stdout.splitlines())
    assert [len(waits) for waits in (parent, *children)] == [3, 3, 3]
    assert parent != children[0] != children[1] != parent
