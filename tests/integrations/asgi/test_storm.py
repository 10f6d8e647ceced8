"""A thousand requests that end in every way there is leave nothing behind: no permit, no timer, no task, no token too many."""

from __future__ import annotations

import contextlib

import pytest

from resilience import Call, CircuitOpen, Pipeline
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import answering
from tests.integrations.asgi.conversation import Conversation, run
from tests.integrations.asgi.storm import PROBES, REQUESTS, Storm


@pytest.mark.may_leak("permits")  # the probes that it takes to see that it can
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_storm_leaves_nothing_behind(seed: int) -> None:
    storm = Storm(seed)
    run(storm.run())
    assert sum(storm.ends.values()) == REQUESTS
    assert {"200", "429", "503", "504", "cancelled", "raised", "cut off"} <= set(storm.ends), storm.ends
    assert storm.clock.pending_timers == 0
    machine = storm.breaker.pool.single
    assert machine._probes == {}
    _every_probe_can_be_had(storm)
    _the_whole_bucket_is_back(storm)


def _every_probe_can_be_had(storm: Storm) -> None:
    """Half-open, exactly so many get through as there are probes: no permit is still out."""
    storm.breaker.force("open")
    storm.breaker.force(None)
    direct = Pipeline("direct", storm.breaker)
    for _ in range(50):
        with contextlib.suppress(OSError):
            direct.call(_fail)
    storm.clock.advance(0.5)
    let_through = 0
    with contextlib.suppress(CircuitOpen):
        for _ in range(2 * PROBES):
            storm.breaker.admit(Call(now_us=storm.clock.now_us()))
            let_through += 1
    assert let_through == PROBES


def _the_whole_bucket_is_back(storm: Storm) -> None:
    storm.clock.advance(60.0)
    alone = ResilienceMiddleware(answering(), pipeline=Pipeline("api", storm.limiter))

    async def scenario() -> list[int | None]:
        return [(await Conversation(alone).run()).status for _ in range(50)]

    assert run(scenario()) == [200] * 50


def _fail() -> None:
    raise OSError("the dependency is down")
