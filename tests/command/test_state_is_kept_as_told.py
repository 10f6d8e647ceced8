"""What `resilience diff` says of the state is what a live toolkit does when the file changes so."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import BreakerState
from resilience.command.changes import policy_changes
from resilience.config import parse
from resilience.testing import ManualClock
from tests.soak.sizes import by_length

LIMITER = "limiters: {{p: {{{0}}}}}\npipelines: {{it: [{{limiter: p}}]}}\n"
BREAKER = "health: {{x: {{}}}}\nbreakers: {{p: {{{0}}}}}\npipelines: {{it: [{{breaker: p}}]}}\n"
SIGNAL = (
    "health: {{p: {{{0}}}}}\nbreakers: {{b: {{min_calls: 1, open_for: 30s, probes: 1, health: p}}}}\n"
    "pipelines: {{it: [{{breaker: b}}]}}\n"
)
RETRY = "retries: {{p: {{{0}}}}}\npipelines: {{it: [{{retry: p}}]}}\n"


class Service:
    """A service under a file that is changed once."""

    def __init__(self, folder: Path, body: str, before: str, after: str) -> None:
        self.clock = ManualClock()
        self._file = folder / "resilience.yaml"
        self._texts = [f"version: 1\n{body.format(settings)}" for settings in (before, after)]
        self._file.write_text(self._texts[0], encoding="utf-8")
        self.toolkit = resilience.load(self._file, clock=self.clock)

    def change(self) -> str:
        """Put the second file in force. Returns what the command says of the state."""
        self._file.write_text(self._texts[1], encoding="utf-8")
        self.toolkit.reload()
        old, new = (parse(text, "x") for text in self._texts)
        return "; ".join(sentence for change in policy_changes(old, new) if change.name == "p" for sentence in change.state)

    def admitted(self, calls: int, key: str | None = None) -> int:
        """How many of so many calls are let through now."""
        return sum(self._call(key) for _ in range(calls))

    def _call(self, key: str | None) -> bool:
        try:
            with self.toolkit.pipeline("it").guard(key=key):
                return True
        except resilience.Rejected:
            return False

    def fail(self, calls: int) -> None:
        """So many calls that fail."""
        for _ in range(calls):
            with pytest.raises(ConnectionError):
                self.toolkit.pipeline("it").call(_failing)

    def status(self, section: str) -> dict[str, Any]:
        """What the toolkit says of the policy."""
        status: dict[str, Any] = self.toolkit.status()[section]["p"]
        return status


def _failing() -> None:
    raise ConnectionError


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    services: list[Service] = []

    def made(body: str, before: str, after: str) -> Service:
        services.append(Service(tmp_path, body, before, after))
        return services[-1]

    yield made
    for service in services:
        service.toolkit.close()


def test_a_lower_burst_takes_only_what_is_above_it(serve: Any) -> None:
    service = serve(LIMITER, "rate: 1/h, burst: 10", "rate: 1/h, burst: 6")
    service.admitted(2)
    assert "one above the new burst falls to 6" in service.change()
    assert service.admitted(20) == 6


def test_a_higher_burst_refills_nothing(serve: Any) -> None:
    service = serve(LIMITER, "rate: 1/h, burst: 10", "rate: 2/h, burst: 99")
    service.admitted(7)
    assert "bucket levels are kept; nothing is refilled" in service.change()
    assert service.admitted(20) == 3


def test_another_key_starts_with_full_buckets(serve: Any) -> None:
    service = serve(LIMITER, "rate: 1/h, burst: 5", "rate: 1/h, burst: 5, key: client_address")
    service.admitted(5)
    assert "each bucket starts full" in service.change()
    assert service.admitted(9, "203.0.113.7") == 5


def test_a_new_window_is_empty_and_an_open_timer_runs_on(serve: Any) -> None:
    for calls_before, opens in ((2, False), (3, True)):
        service = serve(BREAKER, "min_calls: 3, open_for: 30s", "min_calls: 3, open_for: 30s, window: 60s")
        service.fail(calls_before)
        assert "the window restarts empty; state, open timer and probes are kept" in service.change()
        assert service.status("breakers")["state"] == ("open" if opens else "closed")
        if opens:
            assert service.admitted(1) == 0
            service.clock.advance(30.0)
            assert service.admitted(1) == 1
        else:
            service.fail(2)
            assert service.status("breakers")["state"] == "closed"
        service.toolkit.close()


def test_other_thresholds_keep_the_window(serve: Any) -> None:
    service = serve(BREAKER, "min_calls: 9", "min_calls: 3")
    service.fail(2)
    assert "window, state, open timer and probes are kept" in service.change()
    service.fail(1)
    assert service.status("breakers")["state"] == "open"


def test_one_that_is_open_keeps_the_time_it_has(serve: Any) -> None:
    service = serve(BREAKER, "min_calls: 1, open_for: 30s", "min_calls: 1, open_for: 1s")
    service.fail(1)
    assert "one that is open now stays so for the time it began with" in service.change()
    service.clock.advance(26.9)
    assert service.admitted(1) == 0
    service.clock.advance(3.1)
    assert service.admitted(1) == 1


@pytest.mark.parametrize(("probes", "state", "is_told"), [(2, "closed", True), (4, "half_open", True), (9, "half_open", False)])
def test_fewer_probes_may_decide_at_once(serve: Any, probes: int, state: str, is_told: bool) -> None:
    service = serve(BREAKER, "min_calls: 1, open_for: 30s, probes: 5", f"min_calls: 1, open_for: 30s, probes: {probes}")
    service.fail(1)
    service.clock.advance(33.0)
    assert service.admitted(2) == 2
    assert service.status("breakers")["state"] == "half_open"
    assert ("one that is half-open may be decided at once" in service.change()) == is_told
    assert service.admitted(1) == 1
    assert service.status("breakers")["state"] == state


@pytest.mark.parametrize("settings", ["cut: 70%, recover: 20%", "cut: 50%", "floor: 10%", "every: 60s, recover: 10%"])
def test_steps_of_recovery_count_from_any_change_of_the_signal(serve: Any, settings: str) -> None:
    service = serve(SIGNAL, "cut: 70%", settings)
    service.fail(1)
    service.clock.advance(33.0)
    assert service.admitted(1) == 1
    service.clock.advance(30.0)
    assert "the factor reached is kept; steps of recovery count from the change" in service.change()
    before = service.toolkit.health("p").factor
    service.clock.advance(59.0)
    assert service.toolkit.health("p").factor == before
    service.clock.advance(1.0)
    assert service.toolkit.health("p").factor > before


@pytest.mark.parametrize(
    ("before", "after", "told", "admitted"),
    [
        ("", "force: open", "held open at once: it refuses every call", 0),
        ("force: open", "", "let go: it is closed, with an empty window", 3),
        ("force: open", "force: closed", "held closed at once: it refuses nothing", 3),
    ],
)
def test_an_operator_s_hand(serve: Any, before: str, after: str, told: str, admitted: int) -> None:
    service = serve(BREAKER, before, after)
    assert told in service.change()
    assert service.admitted(3) == admitted


@pytest.mark.parametrize(
    ("before", "after", "told", "factors"),
    [
        ("", ", health: x", "if it is open, that counts as a closing on default and as an opening on x", (0.3, 0.3)),
        (", health: x", ", health: none", "if it is open, that counts as a closing on x", (1.0, 0.3)),
        ("", ", shadow: true", "in shadow it writes no signal", (0.3, 1.0)),
        (", shadow: true", "", "if it is open, that counts as an opening on default", (0.3, 1.0)),
    ],
)
def test_signals_follow(serve: Any, before: str, after: str, told: str, factors: tuple[float, float]) -> None:
    service = serve(BREAKER, f"min_calls: 1{before}", f"min_calls: 1{after}")
    service.fail(1)
    assert told in service.change()
    assert (service.toolkit.health("default").factor, service.toolkit.health("x").factor) == pytest.approx(factors)


KEYS, FORCES, SHADOWS = ("", ", key: host"), ("", ", force: open", ", force: closed"), ("", ", shadow: true")
SIGNALS = ("", ", health: x", ", health: none")
STRIDE = by_length(7, 1)
"""The short form changes each way of writing a breaker to a few others, the long one to all."""
WAYS = ["".join(parts) for parts in itertools.product(KEYS, FORCES, SHADOWS, SIGNALS)]


def in_incident(service: Service) -> set[str]:
    return {name for name in ("default", "x") if service.toolkit.health(name).in_incident}


def as_told(told: str, before: set[str], *, was_open: bool) -> set[str]:
    """The signals that are in an incident after a change of which this is told."""
    known = {"", "default", "x"}
    certain = re.search(r"(?:^|; )that counts as an opening on (\w+)", told)
    supposed = re.search(r"if it is open, that counts(?: as a closing on (\w+))?(?: and)?(?: as an opening on (\w+))?", told)
    closed, opened = supposed.groups("") if supposed is not None and was_open else ("", "")
    return ((before - {closed}) | {opened, certain[1] if certain is not None else ""}) & known - {""}


@pytest.mark.soak
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", WAYS)
def test_whatever_changes_about_a_breaker_together(serve: Any, before: str, fails: bool) -> None:
    for after in WAYS[WAYS.index(before) % STRIDE :: STRIDE]:
        service = serve(BREAKER, f"min_calls: 1{before}", f"min_calls: 1{after}")
        if fails:
            with contextlib.suppress(OSError, resilience.Rejected), service.toolkit.pipeline("it").guard(key="k"):
                raise OSError
        pool = service.toolkit.active.states.breakers["p"]
        was_open = any(machine.state is BreakerState.OPEN for machine in pool)
        signals = in_incident(service)
        told = service.change()
        assert in_incident(service) == as_told(told, signals, was_open=was_open), f"{before} -> {after}: {told}"
        states = {machine.state for machine in pool}
        if "starts closed" in told or "let go" in told or "held closed" in told:
            assert states == {BreakerState.CLOSED}, f"{before} -> {after}: {told}"
        if "held open" in told:
            assert states == {BreakerState.OPEN}, f"{before} -> {after}: {told}"
        if "are kept" in told:
            assert was_open == (BreakerState.OPEN in states), f"{before} -> {after}: {told}"
        service.toolkit.close()


def test_a_budget_keeps_its_share(serve: Any) -> None:
    service = serve(RETRY, "attempts: 1, budget: {tokens: 10}", "attempts: 1, budget: {tokens: 20}")
    service.fail(3)
    assert "the budget keeps the share of its tokens that is left" in service.change()
    assert service.status("retries")["budget_tokens"] == pytest.approx(14.0)


def test_under_a_new_name_it_starts_fresh(tmp_path: Path) -> None:
    file = tmp_path / "resilience.yaml"
    texts = [
        f"version: 1\nlimiters: {{{name}: {{rate: 1/h, burst: 5}}}}\npipelines: {{it: [{{limiter: {name}}}]}}\n" for name in "ab"
    ]
    file.write_text(texts[0], encoding="utf-8")
    with resilience.load(file, clock=ManualClock()) as toolkit:
        for _ in range(5):
            toolkit.pipeline("it").call(str)
        file.write_text(texts[1], encoding="utf-8")
        toolkit.reload()
        told = list(policy_changes(*(parse(text, "x") for text in texts)))
        assert told[1].state[0] == "starts fresh: every bucket is full"
        assert "the state does not come along" in told[1].state[1]
        for _ in range(5):
            toolkit.pipeline("it").call(str)
        with pytest.raises(resilience.RateLimited):
            toolkit.pipeline("it").call(str)
