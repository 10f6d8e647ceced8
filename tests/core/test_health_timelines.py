"""What happens to the signal over time, as a table: at each second something is done, and the factor is what it says.

Breakers open at the first failure, stay open for 30 s, and close at one successful probe. Signals cut to 0.30 and climb by 0.05
every 60 s. A breaker that nobody reaches any more therefore lets go 90 s after it opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from resilience import Call, CircuitBreaker, HealthSignal, Pipeline
from resilience.call import FunctionCall
from resilience.health import HealthSettings
from resilience.testing import ManualClock
from tests.core.helpers import Desk, Drive, abandon, attempt, fail, no_jitter, succeed

OPEN_FOR_S = 30.0


def _key(call: Call) -> str:
    assert isinstance(call, FunctionCall)
    return str(call.kwargs["key"])


class World:
    """Two signals, and breakers that are made when they are first named."""

    def __init__(self, clock: ManualClock, drive: Drive) -> None:
        self.clock = clock
        self.signals = {name: HealthSignal(name=name, clock=clock) for name in ("default", "other")}
        self._drive = drive
        self._breakers: dict[str, CircuitBreaker] = {}
        self._keyed = CircuitBreaker(
            consecutive_failures=1, probes=1, key=_key, max_keys=2, health=self.signals["default"],
            name="keyed", clock=clock, uniform=no_jitter,
        )  # fmt: skip

    def breaker(self, name: str) -> CircuitBreaker:
        if name not in self._breakers:
            self._breakers[name] = CircuitBreaker(
                consecutive_failures=1, probes=1, health=self.signals["default"], name=name, clock=self.clock, uniform=no_jitter
            )
        return self._breakers[name]

    def call(self, name: str, work: Callable[[], Any]) -> None:
        attempt(Pipeline("world", self.breaker(name)), work, self._drive)

    def call_key(self, key: str, work: Callable[[], Any]) -> None:
        def keyed(*, key: str) -> Any:
            return work()

        attempt(Pipeline("world", self._keyed), work, lambda pipeline, _: pipeline.call(keyed, key=key))

    def change(self, name: str, health: str | None = "default", **settings: Any) -> None:
        pool = self.breaker(name).pool
        signal = None if health is None else self.signals[health]
        pool.configure(replace(pool.settings, **settings), signal, self.clock.now_us())

    def set_health(self, **settings: Any) -> None:
        self.signals["default"].configure(HealthSettings(**settings))


Action = Callable[[World], None]


def fails(name: str) -> Action:
    return lambda world: world.call(name, fail)


def succeeds(name: str) -> Action:
    return lambda world: world.call(name, succeed)


def is_reached(name: str) -> Action:
    """A call comes that ends without evidence: its caller goes."""
    return lambda world: world.call(name, abandon)


def key_fails(key: str) -> Action:
    return lambda world: world.call_key(key, fail)


def forced(name: str, state: str | None) -> Action:
    return lambda world: world.breaker(name).force(state)


def changed(name: str, health: str | None = "default", **settings: Any) -> Action:
    return lambda world: world.change(name, health, **settings)


def removed(name: str) -> Action:
    return lambda world: world.breaker(name).pool.retire(world.clock.now_us())


def health_set(**settings: Any) -> Action:
    return lambda world: world.set_health(**settings)


def nothing(world: World) -> None:
    """Time passes."""


# (second, what is done, the factor after it); a pair is (default, other).
TIMELINES: dict[str, list[tuple[float, Action, float | tuple[float, float]]]] = {
    "opens, is probed, recovers to the full": [
        (0, nothing, 1.0), (10, fails("a"), 0.3), (39, nothing, 0.3), (40, succeeds("a"), 0.3), (99, nothing, 0.3),
        (100, nothing, 0.35), (159, nothing, 0.35), (160, nothing, 0.4), (820, nothing, 0.95), (880, nothing, 1.0),
        (5000, nothing, 1.0),
    ],
    # --- nothing stays cut for ever ---
    "not reached any more: lets go one step after its open time": [
        (0, fails("a"), 0.3), (89.9, nothing, 0.3), (90, nothing, 0.3), (149.9, nothing, 0.3), (150, nothing, 0.35),
        (930, nothing, 1.0),
    ],
    "not looked at for ten minutes: the same": [(0, fails("a"), 0.3), (690, nothing, 0.8)],
    "reached before it lets go: holds one step more from then": [
        (0, fails("a"), 0.3), (80, is_reached("a"), 0.3), (139.9, nothing, 0.3), (199.9, nothing, 0.3),
        (200, nothing, 0.35),
    ],
    "reached again and again: never lets go": [
        (0, fails("a"), 0.3), (85, is_reached("a"), 0.3), (140, is_reached("a"), 0.3), (195, is_reached("a"), 0.3),
        (254, nothing, 0.3), (255, nothing, 0.3), (315, nothing, 0.35),
    ],
    "a call refused while it is open is no reaching": [
        (0, fails("a"), 0.3), (29, succeeds("a"), 0.3), (150, nothing, 0.35),
    ],
    "reached at the very instant it lets go: too late": [
        (0, fails("a"), 0.3), (90, is_reached("a"), 0.3), (150, nothing, 0.35), (210, nothing, 0.4),
    ],
    "reached after it let go: holds nothing": [
        (0, fails("a"), 0.3), (160, is_reached("a"), 0.35), (210, nothing, 0.4), (220, is_reached("a"), 0.4),
        (270, nothing, 0.45),
    ],
    "reached after it let go, and closed: recovery goes on from when it let go": [
        (0, fails("a"), 0.3), (160, succeeds("a"), 0.35), (209, nothing, 0.35), (210, nothing, 0.4),
    ],
    "reached after it let go, and a probe fails: a new incident": [
        (0, fails("a"), 0.3), (330, nothing, 0.5), (335, fails("a"), 0.3), (424, nothing, 0.3), (425, nothing, 0.3),
        (485, nothing, 0.35),
    ],
    "a probe fails before it let go: the same incident, held anew from the end of the new open time": [
        (0, fails("a"), 0.3), (80, fails("a"), 0.3), (169, nothing, 0.3), (229, nothing, 0.3), (230, nothing, 0.35),
    ],
    "after it let go another breaker opens: a new incident": [
        (0, fails("a"), 0.3), (330, nothing, 0.5), (331, fails("b"), 0.3), (420, nothing, 0.3), (421, nothing, 0.3),
        (481, nothing, 0.35),
    ],
    # --- two breakers ---
    "the later one to let go decides": [
        (0, fails("a"), 0.3), (20, fails("b"), 0.3), (90, nothing, 0.3), (150, nothing, 0.3), (170, nothing, 0.35),
    ],
    "one lets go, the other closes later": [
        (0, fails("a"), 0.3), (60, fails("b"), 0.3), (120, succeeds("b"), 0.3), (179, nothing, 0.3), (180, nothing, 0.35),
    ],
    "one closes, the other lets go later": [
        (0, fails("a"), 0.3), (20, fails("b"), 0.3), (50, succeeds("a"), 0.3), (110, nothing, 0.3), (169, nothing, 0.3),
        (170, nothing, 0.35),
    ],
    "one let go alone and is reached: only the other holds": [
        (0, fails("a"), 0.3), (60, fails("b"), 0.3), (100, is_reached("a"), 0.3), (150, nothing, 0.3), (210, nothing, 0.35),
    ],
    "one let go alone and fails a probe while the other holds: the same incident": [
        (0, forced("a", "open"), 0.3), (1, fails("b"), 0.3), (100, fails("b"), 0.3), (110, forced("a", None), 0.3),
        (189, nothing, 0.3), (249, nothing, 0.3), (250, nothing, 0.35),
    ],
    # --- forced ---
    "forced open: held until it is lifted": [
        (0, forced("a", "open"), 0.3), (100_000, nothing, 0.3), (100_001, forced("a", None), 0.3), (100_060, nothing, 0.3),
        (100_061, nothing, 0.35),
    ],
    "forced open while it is open: no second cut, and never let go": [
        (0, fails("a"), 0.3), (10, forced("a", "open"), 0.3), (1_000, nothing, 0.3), (1_000, forced("a", None), 0.3),
        (1_060, nothing, 0.35),
    ],
    "forced open half-way up: a new incident": [
        (0, fails("a"), 0.3), (30, succeeds("a"), 0.3), (270, nothing, 0.5), (270, forced("a", "open"), 0.3),
        (271, forced("a", None), 0.3),
        (331, nothing, 0.35),
    ],
    "lifted, it counts afresh": [
        (0, forced("a", "open"), 0.3), (10, forced("a", None), 0.3), (20, fails("a"), 0.3), (110, nothing, 0.3),
        (170, nothing, 0.35),
    ],
    "forced closed while open: counts as closed": [
        (0, fails("a"), 0.3), (10, forced("a", "closed"), 0.3), (70, nothing, 0.35),
    ],
    "forced closed: never writes": [(0, forced("a", "closed"), 1.0), (1, fails("a"), 1.0), (100, fails("a"), 1.0)],
    "forced closed, lifted: what failed meanwhile is forgotten, the next failure counts": [
        (0, forced("a", "closed"), 1.0), (1, fails("a"), 1.0), (2, forced("a", None), 1.0), (3, fails("a"), 0.3),
    ],
    "forced by the file: the same": [
        (0, changed("a", force="open"), 0.3), (500, nothing, 0.3), (500, changed("a", force=None), 0.3),
        (560, nothing, 0.35),
    ],
    # --- shadow ---
    "shadow: never writes": [(0, changed("a", shadow=True), 1.0), (1, fails("a"), 1.0), (31, fails("a"), 1.0)],
    "shadow put on while open: counts as closed": [(0, fails("a"), 0.3), (10, changed("a", shadow=True), 0.3),
    (70, nothing, 0.35)],
    "shadow taken off while open: an opening": [
        (0, changed("a", shadow=True), 1.0), (1, fails("a"), 1.0), (11, changed("a", shadow=False), 0.3),
        (90, nothing, 0.3),
        (91, nothing, 0.3), (151, nothing, 0.35),
    ],
    "shadow, forced open: writes nothing": [(0, changed("a", shadow=True), 1.0), (1, forced("a", "open"), 1.0)],
    # --- removed, moved ---
    "removed while open: counts as closed": [(0, fails("a"), 0.3), (10, removed("a"), 0.3), (69, nothing, 0.3),
    (70, nothing, 0.35)],
    "removed while forced open: counts as closed": [(0, forced("a", "open"), 0.3), (10, removed("a"), 0.3),
    (70, nothing, 0.35)],
    "removed while open, then a late probe fails: writes nothing any more": [
        (0, fails("a"), 0.3), (10, removed("a"), 0.3), (70, fails("a"), 0.35), (71, forced("a", "open"), 0.35),
        (130, nothing, 0.4),
    ],
    "removed while closed: nothing": [(0, succeeds("a"), 1.0), (10, removed("a"), 1.0)],
    "moved while open: closed on the old, an opening on the new": [
        (0, fails("a"), (0.3, 1.0)), (10, changed("a", "other"), (0.3, 0.3)), (70, nothing, (0.35, 0.3)),
        (90, nothing, (0.35, 0.3)),
        (150, nothing, (0.4, 0.35)),
    ],
    "moved while closed: nothing": [(0, succeeds("a"), 1.0), (1, changed("a", "other"), (1.0, 1.0)), (2, fails("a"),
    (1.0, 0.3))],
    "moved while half-open and reached: holds the new one from the move": [
        (0, fails("a"), (0.3, 1.0)), (80, is_reached("a"), (0.3, 1.0)), (130, is_reached("a"), (0.3, 1.0)),
        (135, changed("a", "other"), (0.3, 0.3)), (190, is_reached("a"), (0.3, 0.3)), (195, nothing, (0.35, 0.3)),
        (249, nothing, (0.35, 0.3)), (309, nothing, (0.4, 0.3)), (310, nothing, (0.4, 0.35)),
    ],
    "moved to a signal in an incident: no second cut": [
        (0, changed("b", "other"), (1.0, 1.0)), (0, fails("b"), (1.0, 0.3)), (1, fails("a"), (0.3, 0.3)),
        (2, changed("a", "other"), (0.3, 0.3)), (62, nothing, (0.35, 0.3)),
    ],
    "moved to none while open: counts as closed": [(0, fails("a"), 0.3), (10, changed("a", None), 0.3),
    (70, nothing, 0.35)],
    "moved and forced open at once: the old signal hears nothing": [
        (0, changed("a", "other", force="open"), (1.0, 0.3)), (5, changed("a", "default", force=None), (1.0, 0.3)),
        (65, nothing, (1.0, 0.35)),
    ],
    "moved and put in the shadow at once: the new signal hears nothing": [
        (0, fails("a"), (0.3, 1.0)), (10, changed("a", "other", shadow=True), (0.3, 1.0)), (70, nothing, (0.35, 1.0)),
    ],
    "another probe limit, threshold and window: nothing moves": [
        (0, fails("a"), 0.3), (5, changed("a", probes=2, window_s=5.0, failure_rate=0.9), 0.3), (90, nothing, 0.3),
        (150, nothing, 0.35),
    ],
    # --- keyed, at most two ---
    "an evicted breaker counts as closed": [
        (0, key_fails("x"), 0.3), (10, key_fails("y"), 0.3), (20, key_fails("z"), 0.3), (99, nothing, 0.3),
        (110, nothing, 0.3),
        (169, nothing, 0.3), (170, nothing, 0.35),
    ],
    "evicted while it alone holds": [
        (0, key_fails("x"), 0.3), (1, lambda world: world.call_key("y", succeed), 0.3),
        (2, lambda world: world.call_key("z", succeed), 0.3),
        (61, nothing, 0.3), (62, nothing, 0.35),
    ],
    # --- settings changed on the way up ---
    "every: steps count from the change": [
        (0, fails("a"), 0.3), (30, succeeds("a"), 0.3), (100, nothing, 0.35), (110, health_set(every_s=10.0), 0.35),
        (119, nothing, 0.35),
        (120, nothing, 0.4), (130, nothing, 0.45),
    ],
    "recover: the factor reached is the new start": [
        (0, fails("a"), 0.3), (30, succeeds("a"), 0.3), (149, health_set(recover=0.2), 0.35), (208, nothing, 0.35),
        (209, nothing, 0.55),
        (269, nothing, 0.75), (329, nothing, 0.95), (389, nothing, 1.0),
    ],
    "cut and floor: from the next incident": [
        (0, fails("a"), 0.3), (30, succeeds("a"), 0.3), (90, health_set(cut=0.5, floor=0.01), 0.35), (150, nothing, 0.4),
        (160, fails("a"), 0.2),
    ],
    "cut changed during the incident: the factor stays": [
        (0, fails("a"), 0.3), (10, health_set(cut=0.2), 0.3), (30, succeeds("a"), 0.3), (90, nothing, 0.35),
    ],
    "every changed during the incident: the next letting go and the steps go by it": [
        (0, fails("a"), 0.3), (10, health_set(every_s=10.0), 0.3), (40, nothing, 0.3), (49, nothing, 0.3),
        (50, nothing, 0.35),
    ],
    "every shortened so that it should have let go already: it lets go now": [
        (0, fails("a"), 0.3), (80, health_set(every_s=20.0), 0.3), (99, nothing, 0.3), (100, nothing, 0.35),
    ],
    "the same settings again: nothing restarts": [
        (0, fails("a"), 0.3), (30, succeeds("a"), 0.3), (80, health_set(), 0.3), (90, nothing, 0.35),
    ],
    "set while well: nothing": [(0, health_set(recover=0.5), 1.0), (100, nothing, 1.0), (101, fails("a"), 0.3)],
}  # fmt: skip


@pytest.mark.parametrize("timeline", TIMELINES.values(), ids=TIMELINES)
def test_timeline(clock: ManualClock, drive: Drive, timeline: list[tuple[float, Action, float | tuple[float, float]]]) -> None:
    world = World(clock, drive)
    start_s = clock.now_us() / 1e6
    for at_s, act, expected in timeline:
        clock.advance(start_s + at_s - clock.now_us() / 1e6)
        act(world)
        factors = {name: signal.factor for name, signal in world.signals.items()}
        default, other = expected if isinstance(expected, tuple) else (expected, 1.0)
        assert factors == {"default": default, "other": other}, f"at {at_s} s"


def test_a_hung_probe_that_is_noticed_late_starts_its_incident_when_it_is_noticed(clock: ManualClock) -> None:
    """It opened in the past, but the factor that everybody has seen since is not taken back."""
    health = HealthSignal(floor=0.05, clock=clock)
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, health=health, clock=clock, uniform=no_jitter)
    pipeline = Pipeline("p", breaker)
    attempt(pipeline, fail)
    clock.advance(30.0)
    Desk(breaker, clock).admit()  # and is never settled
    clock.advance(60.0 + 14 * 60.0)
    assert health.factor == 1.0, "nobody came for a long time"
    attempt(pipeline, abandon)  # finds the probe expired 14 minutes ago, the open time after it over, and probes anew
    assert (health.factor, health.incidents) == (0.3, 2)
