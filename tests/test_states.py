"""State over a change of configuration: what is kept, to the token, and that no call sees two configurations at once."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import Call, CircuitOpen, ConfigLoaded, Outcome, Quota, RateLimited, Toolkit
from resilience.call import Permit
from resilience.config import LayerReference, parse
from resilience.pipeline import Pipeline
from resilience.states import Active, States
from resilience.testing import ManualClock, RecordingObserver

FAILED, OK = Outcome.FAILED, Outcome.OK


class Service:
    """A toolkit with one pipeline `api` of the layers that a test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self._toolkit: Toolkit | None = None

    @property
    def toolkit(self) -> Toolkit:
        """The toolkit; there is none before `put`."""
        assert self._toolkit is not None
        return self._toolkit

    def put(self, sections: str, layers: str, more: str = "") -> None:
        """Put a configuration in force."""
        self.path.write_text(f"version: 1\n{sections}\npipelines:\n  api: [{layers}]\n{more}", encoding="utf-8")
        if self._toolkit is None:
            self._toolkit = resilience.load(self.path, clock=self.clock)
        else:
            self._toolkit.reload()

    def limiter(self, settings: str) -> None:
        """One limiter."""
        self.put(f"limiters: {{l: {{{settings}}}}}", "{limiter: l}")

    def breaker(self, settings: str) -> None:
        """One breaker."""
        self.put(f"breakers: {{b: {{{settings}}}}}", "{breaker: b}")

    def admit(self, key: str | None = None) -> Permit:
        """One call, as far as its admission. Raises Rejected."""
        pipeline = self.toolkit.resolve("api")
        call = Call("test", key=key)
        pipeline.begin(call)
        return pipeline.outer.admit(call)

    def admitted(self, count: int, key: str | None = None) -> int:
        """How many of `count` calls are let through the limiter."""
        got = 0
        for _ in range(count):
            with contextlib.suppress(RateLimited):
                self.admit(key)
                got += 1
        return got

    def settle(self, outcome: Outcome, count: int = 1, key: str | None = None) -> None:
        """So many calls that end so."""
        for _ in range(count):
            self.admit(key).settle(outcome)

    def state(self) -> str:
        """Of the breaker."""
        return str(self.toolkit.status()["breakers"]["b"]["state"])

    def is_refused(self, key: str | None = None) -> bool:
        """Whether the breaker lets nobody through."""
        try:
            self.admit(key).settle(Outcome.IGNORED)
        except CircuitOpen:
            return True
        return False


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Nothing yet."""
    service = Service(tmp_path / "resilience.yaml")
    yield service
    service.toolkit.close()


# --- buckets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 1, 30, 100])
@pytest.mark.parametrize(("rate", "burst"), [(50, 100), (50, 50), (10, 200), (100, 100), (400, 1000)])
def test_the_next_second_admits_what_was_left_and_one_second_of_the_new_rate(
    left: int, rate: int, burst: int, service: Service
) -> None:
    service.limiter("rate: 100/s, burst: 100")
    assert service.admitted(100 - left) == 100 - left
    service.limiter(f"rate: {rate}/s, burst: {burst}")
    left = min(left, burst)
    assert service.admitted(500) == left
    admitted = 0
    for _ in range(10):
        service.clock.advance(0.1)
        admitted += service.admitted(500)
    assert admitted == rate


def test_a_reload_every_four_milliseconds_gives_no_token_away_and_takes_none(service: Service) -> None:
    service.limiter("rate: 7/s, burst: 20")
    assert service.admitted(20) == 20
    admitted = 0
    for number in range(250):
        service.clock.advance(0.004)
        service.limiter(f"rate: 7/s, burst: 20, status: {(429, 503)[number % 2]}")
        admitted += service.admitted(2)
    assert admitted == 7


def test_to_and_fro_refills_nothing(service: Service) -> None:
    for _ in range(20):
        service.limiter("rate: 1/h, burst: 1")
        service.limiter("rate: 1000/s, burst: 1000")
    assert service.admitted(1_000) == 1, "the bucket has once been as small as that"


def test_each_key_keeps_its_level(service: Service) -> None:
    service.limiter("rate: 10/s, burst: 10, key: client_address")
    for spent in range(11):
        assert service.admitted(spent, key=f"key {spent}") == spent
    service.limiter("rate: 1/h, burst: 10, key: client_address, max_keys: 50")
    assert [service.admitted(20, key=f"key {spent}") for spent in range(11)] == [10 - spent for spent in range(11)]
    assert service.toolkit.status()["limiters"]["l"]["keys"] == 11


def test_a_place_in_the_queue_is_kept(service: Service) -> None:
    service.limiter("rate: 1/s, burst: 1, max_wait: 10s")
    pipeline = service.toolkit.resolve("api")
    for wait_s in (0, 1, 2):
        pipeline.call(str)
        assert sum(service.clock.slept_s) == sum(range(wait_s + 1))
        service.clock.step_back(wait_s)
        service.limiter(f"rate: 1/s, burst: 1, max_wait: {10 + wait_s}s")


# --- breakers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["open_for: 10s", "probes: 1", "half_open_for: 5s", "failed_statuses: [500]", ""])
def test_the_window_is_kept_by_changes_of_anything_else(changed: str, service: Service) -> None:
    service.breaker("window: 30s, min_calls: 10")
    service.settle(FAILED, 5)
    service.settle(OK, 4)
    service.breaker(f"window: 30s, min_calls: 10, {changed}")
    assert service.toolkit.status()["breakers"]["b"]["failure_rate"] == pytest.approx(5 / 9)
    service.settle(OK)
    assert service.state() == "open"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("30s", "1m", "window 30 s -> 60 s, it starts empty"),
        ("30s", "20", "window 30 s -> 20 calls, it starts empty"),
        ("20", "30", "window 20 calls -> 30 calls, it starts empty"),
        ("20", "30s", "window 20 calls -> 30 s, it starts empty"),
    ],
)
def test_another_window_starts_empty_and_that_is_told(
    before: str, after: str, told: str, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.breaker(f"window: {before}, min_calls: 10")
    service.settle(FAILED, 9)
    with RecordingObserver() as observer, caplog.at_level(logging.WARNING, "resilience"):
        service.breaker(f"window: {after}, min_calls: 10")
    (event,) = observer.events
    assert isinstance(event, ConfigLoaded)
    assert (event.added, event.removed, event.restarted) == ((), (), (f"breaker b: {told}",))
    assert f"restarts in part: breaker b: {told}" in caplog.text
    assert service.toolkit.status()["breakers"]["b"]["failure_rate"] == 0.0
    service.settle(FAILED, 9)
    assert service.state() == "closed"
    service.settle(FAILED)
    assert service.state() == "open"


def test_another_window_leaves_state_and_timer(service: Service) -> None:
    service.breaker("min_calls: 1, open_for: 30s, window: 30s")
    service.settle(FAILED)
    opens_for_s = service.toolkit.status()["breakers"]["b"]["opens_for_s"]
    service.breaker("min_calls: 1, open_for: 1h, window: 60s")
    assert service.toolkit.status()["breakers"]["b"]["opens_for_s"] == opens_for_s
    service.clock.advance(opens_for_s - 0.001)
    assert service.is_refused()
    service.clock.advance(0.001)
    assert not service.is_refused()


def test_half_open_probes_in_flight_are_kept_and_counted(service: Service) -> None:
    settings = "min_calls: 1, probes: 3, open_for: 10s"
    service.breaker(settings)
    service.settle(FAILED)
    service.clock.advance(10.0)
    first, second = service.admit(), service.admit()
    first.settle(OK)
    service.breaker(f"{settings}, open_growth: 2")
    third = service.admit()
    assert service.is_refused(), "three probes, over the change too"
    third.settle(OK)
    assert service.state() == "half_open"
    second.settle(OK)
    assert service.state() == "closed"


@pytest.mark.parametrize(("probes", "state"), [(1, "closed"), (2, "half_open"), (5, "half_open")])
def test_another_number_of_probes(probes: int, state: str, service: Service) -> None:
    service.breaker("min_calls: 1, probes: 3, open_for: 10s")
    service.settle(FAILED)
    service.clock.advance(10.0)
    service.settle(OK)
    service.breaker(f"min_calls: 1, probes: {probes}, open_for: 10s")
    assert service.state() == state
    if state == "half_open":
        service.settle(OK, probes - 1)
    assert service.state() == "closed"


def test_each_breaker_of_a_keyed_one_keeps_its_state(service: Service) -> None:
    service.breaker("min_calls: 1, key: host")
    service.settle(FAILED, key="dead")
    service.settle(OK, key="well")
    service.breaker("min_calls: 1, key: host, probes: 2, max_keys: 10")
    assert (service.is_refused("dead"), service.is_refused("well")) == (True, False)
    assert service.toolkit.status()["breakers"]["b"]["keys"] == 2


def test_a_call_is_slow_by_the_settings_it_began_with(service: Service) -> None:
    service.breaker("min_calls: 1, slow_call: 10s")
    permits = [service.admit() for _ in range(2)]
    service.breaker("min_calls: 1, slow_call: 1s")
    service.clock.advance(5.0)
    permits.pop().settle(OK)
    assert service.state() == "closed"
    permits.append(service.admit())
    service.breaker("min_calls: 1, slow_call: 10s")
    service.clock.advance(5.0)
    permits.pop().settle(OK)
    assert service.state() == "open"


# --- retries and health -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "left"), [(20, 14.0), (10, 7.0), (5, 3.5), (1000, 700.0)])
def test_the_budget_is_kept_as_a_share(tokens: int, left: float, service: Service) -> None:
    def configured(tokens: int) -> None:
        service.put(f"retries: {{r: {{attempts: 2, backoff: 1ms, budget: {{tokens: {tokens}, ratio: 0.1}}}}}}", "{retry: r}")

    def budget() -> float:
        return float(service.toolkit.status()["retries"]["r"]["budget_tokens"])

    def fail() -> None:
        raise OSError

    configured(10)
    for _ in range(2):
        with contextlib.suppress(OSError):
            service.toolkit.pipeline("api").call(fail)
    for _ in range(10):
        service.toolkit.pipeline("api").call(str)
    assert budget() == 7.0
    configured(tokens)
    assert budget() == left


def test_an_incident_and_its_factor_are_kept_and_a_new_cut_waits_for_the_next(service: Service) -> None:
    layers, policies = "{limiter: l}, {breaker: b}", "limiters: {l: {rate: 100/s}}\nbreakers: {b: {min_calls: 1, open_for: 10s}}"
    service.put(policies, layers)
    service.settle(FAILED)
    service.put(f"health: {{default: {{cut: 50%}}}}\n{policies}", layers)
    assert service.toolkit.status()["health"]["default"] == {"factor": 0.3, "in_incident": True, "incidents": 1}
    assert service.toolkit.status()["limiters"]["l"]["rate_per_s"] == 30.0


# --- what comes and goes ------------------------------------------------------------------------------------------------------


def test_a_renamed_policy_starts_fresh_and_says_so(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.limiter("rate: 1/h, burst: 2")
    assert service.admitted(5) == 2
    with RecordingObserver() as observer, caplog.at_level(logging.INFO, "resilience"):
        service.put("limiters: {renamed: {rate: 1/h, burst: 2}}", "{limiter: renamed}")
    (event,) = observer.events
    assert isinstance(event, ConfigLoaded)
    assert (event.added, event.removed, event.restarted) == (("limiter renamed",), ("limiter l",), ())
    (record,) = (record for record in caplog.records if "is in force" in record.getMessage())
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("\n  starts fresh: limiter renamed\n  is removed: limiter l")
    assert service.admitted(5) == 2


def test_what_is_only_added_is_told_without_alarm(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.limiter("rate: 1/s")
    with caplog.at_level(logging.INFO, "resilience"):
        service.put(
            "limiters: {l: {rate: 1/s}, m: {rate: 1/s}}\nhealth: {out: {}}\ndeadlines: {d: {}}", "{limiter: l}, {limiter: m}"
        )
    (record,) = (record for record in caplog.records if "is in force" in record.getMessage())
    assert record.levelno == logging.INFO
    assert record.getMessage().split("\n")[1:] == [
        "  starts fresh: health signal out",
        "  starts fresh: deadline d",
        "  starts fresh: limiter m",
    ]


@pytest.mark.parametrize(
    ("section", "layer", "told"),
    [
        ("limiters: {p: {rate: 1/s%s}}", "limiter", "limiter p: key none -> client_address, each bucket starts full"),
        ("breakers: {p: {min_calls: 1%s}}", "breaker", "breaker p: key none -> host, each breaker starts closed"),
    ],
)
def test_another_key_means_other_buckets_and_breakers(section: str, layer: str, told: str, service: Service) -> None:
    service.put(section % "", f"{{{layer}: p}}")
    with RecordingObserver() as observer:
        service.put(section % f", key: {told.partition('-> ')[2].partition(',')[0]}", f"{{{layer}: p}}")
    (event,) = observer.events
    assert isinstance(event, ConfigLoaded)
    assert event.restarted == (told,)


def test_breakers_that_no_call_reaches_any_more_hold_no_signal(service: Service) -> None:
    settings = "min_calls: 1, open_for: 1h, health: default"
    for key in ("", ", key: host", "", ", key: method"):
        service.breaker(settings + key)
        assert service.toolkit.health().in_incident is False
        assert not service.is_refused("one")
        service.settle(Outcome.FAILED, key="one")
        assert service.is_refused("one")
        assert service.toolkit.health().in_incident is True
    counted = service.toolkit.status()["breakers"]["b"]
    assert counted["rejected"] == 4, "what they decided stays counted"


def test_another_key_does_not_release_what_an_operator_holds_open(service: Service) -> None:
    for key in ("", ", key: host"):
        service.breaker(f"force: open{key}")
        assert service.is_refused("one")


def test_calls_in_a_removed_pipeline_settle_where_they_were_admitted(service: Service) -> None:
    service.breaker("min_calls: 1")
    permit, pool = service.admit(), service.toolkit.active.states.breakers["b"]
    service.put("limiters: {l: {rate: 1/s}}", "{limiter: l}")
    with RecordingObserver() as observer:
        permit.settle(FAILED)
    assert pool.single.state.value == "open"
    assert [type(event).__name__ for event in observer.events] == ["BreakerChanged"]
    assert service.toolkit.health().factor == 1.0, "it writes no signal any more"


# --- all or nothing -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_built_has_changed_nothing(service: Service) -> None:
    """Every state but the one that fails could have followed already: the pipelines are built first."""
    service.put("limiters: {l: {rate: 1/s, burst: 5}}\nbreakers: {b: {min_calls: 1}}", "{limiter: l}, {breaker: b}")
    before = service.toolkit.active
    text = service.path.read_text(encoding="utf-8").replace("burst: 5", "burst: 50").replace("min_calls: 1", "force: open")
    retries = "\nretries: {one: {}, two: {}}\n"
    document = parse(text + retries, "broken.yaml")
    twice = tuple(LayerReference("retry", name) for name in ("one", "two"))
    broken = dataclasses.replace(document, pipelines={**document.pipelines, "twice": twice})
    with RecordingObserver() as observer, pytest.raises(ValueError, match="has 2 retries"):
        Active(2, States(broken, service.clock, before.states), before)
    assert observer.events == []
    assert service.admitted(10) == 5
    assert service.state() == "closed"
    assert service.toolkit.health().factor == 1.0


def test_the_order_of_all_or_nothing_is_that_of_the_pipelines_own_layers(service: Service) -> None:
    """A fresh breaker that is forced open by the file writes its signal when it is in force, and not before."""
    service.limiter("rate: 100/s")
    before = service.toolkit.active
    document = parse("version: 1\nbreakers: {b: {force: open}}\npipelines: {api: [{breaker: b}]}\n", "next.yaml")
    with RecordingObserver() as observer:
        states = States(document, service.clock, before.states)
        assert (observer.events, service.toolkit.health().factor) == ([], 1.0)
        Active(2, states, before)
    assert [type(event).__name__ for event in observer.events] == ["BreakerChanged", "HealthChanged"]
    assert states.signals["default"].factor == 0.3


# --- no mixture ---------------------------------------------------------------------------------------------------------------


def admitted_by(pipeline: Pipeline, count: int = 500) -> int:
    """How many calls get through a pipeline that was found before."""
    return sum(ask(pipeline) is None for _ in range(count))


@pytest.mark.parametrize("changes", [1, 2, 5])
def test_a_call_that_found_its_pipeline_before_a_change_is_decided_by_what_was_there(changes: int, service: Service) -> None:
    service.limiter("rate: 1/h, burst: 3")
    assert service.admitted(2) == 2
    found = service.toolkit.resolve("api")
    for number in range(changes):
        service.limiter(f"rate: 1000/s, burst: {1000 + number}")
    service.clock.advance(0.4)
    assert admitted_by(found) == 1
    assert ask(found) == (pytest.approx(-service.clock.now_us() / 1e6), "l", 3, 10_800, 1)
    assert service.admitted(500) == 400, "the present ones have it otherwise, and lose what the late one took"
    service.clock.advance(0.2)
    assert admitted_by(found) == 200, "a pipeline that is held on to goes by what is in force"


@pytest.mark.parametrize(("before", "after", "burst"), [(1, 1000, 100), (1000, 1, 100), (1, 1000, 40)])
@pytest.mark.parametrize("late_first", [True, False])
def test_late_calls_and_present_ones_hold_the_bound_together(
    before: int, after: int, burst: int, late_first: bool, service: Service
) -> None:
    service.limiter(f"rate: {before}/s, burst: 100")
    found = service.toolkit.resolve("api")
    service.limiter(f"rate: {after}/s, burst: {burst}")
    service.clock.advance(0.4)
    turns: list[Callable[[], int]] = [lambda: admitted_by(found), lambda: service.admitted(500)]
    got = [take() for take in (turns if late_first else turns[::-1])]
    assert sum(got) <= 100, "at one instant, a burst and no more"
    assert sum(got) == max(burst, 100 if after == 1 else burst)


def test_a_late_call_that_the_present_settings_refuse_too_is_told_of_these(service: Service) -> None:
    service.limiter("rate: 1000/s, burst: 10000")
    found = service.toolkit.resolve("api")
    service.limiter("rate: 1/h, burst: 1")
    assert service.admitted(2) == 1
    with pytest.raises(RateLimited) as refused:
        found.call(str)
    assert refused.value.quota is not None
    assert (refused.value.quota.limit, refused.value.rate_per_s) == (1, 1 / 3600)


def test_what_a_late_call_is_told_never_lies_in_the_past(service: Service) -> None:
    service.limiter("rate: 1/s, burst: 1")
    found = service.toolkit.resolve("api")
    assert admitted_by(found) == 1
    service.limiter("rate: 1000/s, burst: 1")
    service.clock.advance(0.09)
    with pytest.raises(RateLimited) as refused:
        found.call(str)
    assert refused.value.quota is not None
    assert refused.value.quota.available_in_s >= 0


def test_a_late_call_may_wait_for_its_turn_in_the_queue(service: Service) -> None:
    service.limiter("rate: 1/h, burst: 1, max_wait: 1s")
    service.toolkit.pipeline("api").call(str)
    found = service.toolkit.resolve("api")
    service.limiter("rate: 10/s, burst: 10, max_wait: 1s")
    found.call(str)
    assert service.clock.slept_s == [0.1]


LOOSE, TIGHT = "rate: 1000000/s, burst: 1000000", "rate: 1/h, burst: 1"
PAIRS = {
    "one": f"deadlines: {{d: {{default: 1s}}}}\nlimiters: {{x: {{{TIGHT}}}, y: {{{LOOSE}}}}}",
    "two": f"deadlines: {{d: {{default: 2s}}}}\nlimiters: {{x: {{{LOOSE}}}, y: {{{TIGHT}}}}}",
}
"""Either refuses nearly everything, by another limiter and with another deadline; half of each would admit nearly everything."""
LIMITS = {"tight": (1, 3600, 1), "loose": (1_000_000, 1, 3_600_000_000)}
USUAL = {(1.0, "x", *LIMITS["tight"]), (2.0, "y", *LIMITS["tight"])}
AT_FIRST = {(2.0, "x", *LIMITS["loose"]), (1.0, "y", *LIMITS["loose"])}
"""The bucket that becomes the loose one begins with what was left, and fills within a second."""
LATE = {(2.0, "x", *LIMITS["tight"]), (1.0, "y", *LIMITS["tight"])}
"""A call that found its pipeline just before a change and comes to the limiter just after it: the limit in force goes first, and a
refusal is told by it. What it had besides, its deadline, goes to nobody with a refusal."""


def ask(pipeline: Pipeline) -> tuple[Any, ...] | None:
    """What one call sees of its configuration: None where it is admitted."""
    call = Call("test")
    pipeline.begin(call)
    try:
        pipeline.outer.admit(call).settle(OK)
    except RateLimited as refusal:
        quota = refusal.quota or Quota("", 0, 0, 0, 0.0)
        deadline_s = ((call.deadline_us or 0) - call.now_us) / 1e6
        return deadline_s, refusal.policy, quota.limit, quota.window_s, round((refusal.rate_per_s or 0) * 3600)
    return None


def test_no_call_sees_a_mixture_of_two_configurations(tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    texts = [
        f"version: 1\n{pair}\npipelines:\n"
        f"  xy: [{{deadline: d}}, {{limiter: x}}, {{limiter: y}}]\n  yx: [{{deadline: d}}, {{limiter: y}}, {{limiter: x}}]\n"
        for pair in PAIRS.values()
    ]
    path.write_text(texts[0], encoding="utf-8")
    over, reloads = threading.Event(), 60
    seen: list[tuple[Any, ...] | None] = []

    def hammer(name: str) -> None:
        own: list[tuple[Any, ...] | None] = []
        while not over.is_set():
            own.append(ask(toolkit.resolve(name)))
        seen.extend(own)

    interval_s = sys.getswitchinterval()
    with resilience.load(path) as toolkit:
        threads = [threading.Thread(target=hammer, args=(name,)) for name in ("xy", "yx", "xy", "yx")]
        sys.setswitchinterval(1e-5)  # a thread is interrupted in the midst of a call, and of a reload, all the time
        try:
            for thread in threads:
                thread.start()
            for number in range(1, reloads + 1):
                path.write_text(texts[number % 2], encoding="utf-8")
                toolkit.reload()
        finally:
            over.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval_s)
    sights = {sight for sight in seen if sight is not None}
    assert sights >= USUAL
    assert sights <= USUAL | AT_FIRST | LATE
    assert seen.count(None) <= 1 + reloads, "what was left in the bucket that becomes the tight one"
    assert len(seen) > reloads
