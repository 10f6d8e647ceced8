"""The status of a toolkit: all its policies, as plain data, without a client's key."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import (
    Call,
    CircuitBreaker,
    ConfigError,
    ConfigRefused,
    Deadline,
    HealthSignal,
    Pipeline,
    RateLimiter,
    Retry,
    Toolkit,
)
from resilience.registry import members
from resilience.status import pipeline_status, shortened
from resilience.testing import ManualClock, RecordingObserver

WAIT_S = 20.0
CONFIG = """\
version: 1
health:
  payments: {}
deadlines:
  api: {default: 5s}
  spare: {}
limiters:
  api: {rate: 10/s, burst: 10}
  spare: {rate: 1/h, burst: 5, shadow: true, health: none}
  per_client: {rate: 10/s, burst: 10, key: header:x-client, max_keys: 100}
breakers:
  spare: {health: payments, shadow: true}
  per_host: {key: host, min_calls: 1, open_for: 30s, probes: 1, max_keys: 10}
retries:
  payments: {health: payments}
  spare: {}
pipelines:
  api: [{deadline: api}, {limiter: per_client}, {limiter: api}]
  payments: [{retry: payments}, {breaker: per_host}]
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture
def toolkit(file: Path, clock: ManualClock) -> Iterator[Toolkit]:
    with resilience.load(file, clock=clock) as loaded:
        yield loaded


def plain(status: dict[str, Any]) -> dict[str, Any]:
    """The status as whoever reads its JSON sees it, which must be the same."""
    read: dict[str, Any] = json.loads(json.dumps(status, allow_nan=False))
    assert read == status
    return read


def keyed_call(breaker: CircuitBreaker, clock: ManualClock, key: str, outcome: str = "ok") -> None:
    """One call to a host, that ends so or is still under way."""
    call = Call("charge", key=key, now_us=clock.now_us())
    ticket = breaker.admit(call)
    if ticket is not None and outcome != "under way":
        breaker.settle(ticket, resilience.Outcome(outcome), call, clock.now_us())


def breaker_of(toolkit: Toolkit) -> CircuitBreaker:
    (found,) = [layer for layer in toolkit.resolve("payments").layers if isinstance(layer, CircuitBreaker)]
    return found


# --- what is in it --------------------------------------------------------------------------------------------------------------


def test_every_policy_is_there_used_or_not_in_the_order_of_the_file(toolkit: Toolkit) -> None:
    status = plain(toolkit.status())
    assert {section: list(status[section]) for section in ("health", "deadlines", "limiters", "breakers", "retries")} == {
        "health": ["default", "payments"],
        "deadlines": ["api", "spare"],
        "limiters": ["api", "spare", "per_client"],
        "breakers": ["spare", "per_host"],
        "retries": ["payments", "spare"],
    }


def test_one_that_no_pipeline_uses_has_its_real_state(toolkit: Toolkit) -> None:
    toolkit.active.states.limiters["spare"].take(None, 2, toolkit.clock.now_us())
    toolkit.active.states.breakers["spare"].force("open", toolkit.clock.now_us())
    for status in (toolkit.status(), toolkit.status()):
        spare = plain(status)["limiters"]["spare"]
        assert (spare["remaining"], spare["admitted"], spare["capacity"], spare["shadow"]) == (3, 1, 5.0, True)
        assert status["breakers"]["spare"]["forced"] == status["breakers"]["spare"]["state"] == "open"
        assert status["breakers"]["spare"]["shadow"] is True


def test_it_leaves_no_layer_behind(toolkit: Toolkit) -> None:
    gc.collect()
    before = len(members(RateLimiter)), len(members(CircuitBreaker))
    for _ in range(5):
        toolkit.status()
    gc.collect()
    assert (len(members(RateLimiter)), len(members(CircuitBreaker))) == before


def test_a_reload_shows_at_once(toolkit: Toolkit, file: Path, clock: ManualClock) -> None:
    clock.advance(90.0)
    assert (toolkit.status()["version"], toolkit.status()["age_s"]) == (1, 90.0)
    first = toolkit.status()["sha256"]
    file.write_text(CONFIG.replace("  spare: {rate: 1/h, burst: 5, shadow: true, health: none}\n", ""), encoding="utf-8")
    toolkit.reload()
    clock.advance(1.5)
    status = plain(toolkit.status())
    assert (status["version"], status["age_s"], list(status["limiters"])) == (2, 1.5, ["api", "per_client"])
    assert status["sha256"] != first


def test_an_incident_shows_in_signal_breaker_and_limiter(toolkit: Toolkit, clock: ManualClock) -> None:
    resilience.Pipeline("direct", CircuitBreaker(health=toolkit.health(), clock=clock)).layers[0].force("open")
    status = plain(toolkit.status())
    assert status["health"]["default"] == {"factor": 0.3, "in_incident": True, "incidents": 1}
    assert (status["limiters"]["api"]["rate_per_s"], status["limiters"]["api"]["capacity"]) == (3.0, 3.0)
    assert status["limiters"]["spare"]["rate_per_s"] == pytest.approx(1 / 3600)


# --- keyed policies -------------------------------------------------------------------------------------------------------------


def test_a_keyed_breaker_tells_how_many_are_in_which_state(toolkit: Toolkit, clock: ManualClock) -> None:
    breaker = breaker_of(toolkit)
    assert toolkit.status()["breakers"]["per_host"]["state"] == "closed"
    for number in range(3):
        keyed_call(breaker, clock, f"bad-{number}", "failed")
    clock.advance(30.0)
    keyed_call(breaker, clock, "bad-0", "under way")
    keyed_call(breaker, clock, "good", "ok")
    found = plain(toolkit.status())["breakers"]["per_host"]
    assert found == {
        "shadow": False,
        "state": "open",
        "states": {"closed": 1, "open": 2, "half_open": 1},
        "forced": None,
        "keys": 4,
        "admitted": 4,
        "rejected": 0,
        "probe": 1,
        "would_reject": 0,
    }
    keyed_call(breaker, clock, "bad-1", "ok")
    keyed_call(breaker, clock, "bad-2", "ok")
    assert toolkit.status()["breakers"]["per_host"]["state"] == "half_open"


def test_no_key_of_a_client_is_shown_and_its_size_does_not_grow(toolkit: Toolkit, clock: ManualClock) -> None:
    breaker, pipeline = breaker_of(toolkit), toolkit.pipeline("api")
    few = len(json.dumps(toolkit.status()))
    for number in range(500):
        with pipeline.guard(key=f"secret-{number}") if number < 9 else pipeline.guard(key="secret-0", cost=0):
            keyed_call(breaker, clock, f"secret-host-{number}")
    text = json.dumps(plain(toolkit.status()))
    assert "secret" not in text
    assert len(text) < few + 100
    assert plain(toolkit.status())["limiters"]["per_client"]["keys"] == 9
    assert "remaining" not in toolkit.status()["limiters"]["per_client"]


# --- what is wrong with the file --------------------------------------------------------------------------------------------------


def test_the_last_error_has_the_place_of_every_fault_until_the_file_is_mended(toolkit: Toolkit, file: Path) -> None:
    assert toolkit.status()["last_error"] is None
    file.write_text(CONFIG.replace("rate: 10/s, burst: 10}", "rate: 10, burst: none}"), encoding="utf-8")
    with pytest.raises(ConfigError):
        toolkit.reload()
    status = plain(toolkit.status())
    assert [line.partition(": ")[0] for line in status["last_error"].splitlines()] == [f"{file}:8:15", f"{file}:8:26"]
    assert (status["version"], status["limiters"]["api"]["configured_rate_per_s"]) == (1, 10.0)
    file.write_text(CONFIG, encoding="utf-8")
    toolkit.reload()
    assert toolkit.status()["last_error"] is None


def test_an_error_of_many_faults_is_cut(toolkit: Toolkit, file: Path) -> None:
    file.write_text("version: 1\n" + "".join(f"k{number}: 1\n" for number in range(1_000)), encoding="utf-8")
    with RecordingObserver() as observer, pytest.raises(ConfigError) as raised:
        toolkit.reload()
    assert len(raised.value.problems) == 1_000, "whoever asked is told of all"
    error = plain(toolkit.status())["last_error"]
    assert [event.error for event in observer.events if isinstance(event, ConfigRefused)] == [error]
    lines = error.splitlines()
    assert len(lines) == 21
    assert lines[0].startswith(f"{file}:2:1: k0: is unknown")
    assert lines[-1] == "... and 980 more"


@pytest.mark.parametrize("count", [0, 1, 19, 20])
def test_one_of_few_faults_is_whole(count: int) -> None:
    text = "\n".join(f"f:{number}:1: wrong" for number in range(count))
    assert shortened(text) == text


# --- how it is asked --------------------------------------------------------------------------------------------------------------


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in another thread, which must end."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert found, "it waits for a lock"
    return found[0]


def test_it_waits_for_no_reload(toolkit: Toolkit) -> None:
    with toolkit.lock:
        assert in_thread(toolkit.status)["version"] == 1


def test_it_can_be_asked_after_the_end(file: Path) -> None:
    toolkit = resilience.load(file)
    toolkit.close()
    assert plain(toolkit.status())["version"] == 1


def test_it_is_whole_while_the_file_is_changed(toolkit: Toolkit, file: Path) -> None:
    """Version and policies are of one configuration, whenever it is asked."""
    texts = [CONFIG, CONFIG.replace("  spare: {rate: 1/h, burst: 5, shadow: true, health: none}\n", "")]
    ended = threading.Event()
    seen: list[tuple[int, bool]] = []

    def ask() -> None:
        while not ended.is_set():
            status = toolkit.status()
            seen.append((status["version"], "spare" in status["limiters"]))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for number in range(1, 40):
            file.write_text(texts[number % 2], encoding="utf-8")
            toolkit.reload()
    finally:
        ended.set()
        thread.join(WAIT_S)
    assert seen
    assert all(has_spare == (version % 2 == 1) for version, has_spare in seen)


# --- a pipeline made in code ----------------------------------------------------------------------------------------------------


class OfTheUser:
    """A layer that knows nothing of statuses."""

    name = "mine"
    has_effects = False
    votes_at_start = False

    def admit(self, call: Call) -> None:
        """All pass."""

    def settle(self, token: Any, outcome: Any, call: Call, now_us: int) -> None:
        """Nothing to settle."""


def test_a_pipeline_shows_its_policies_and_their_signals(clock: ManualClock) -> None:
    own, shared = HealthSignal(name="own", clock=clock), HealthSignal(name="shared", clock=clock)
    pipeline = Pipeline(
        "payments",
        Deadline(5.0, name="all", clock=clock),
        OfTheUser(),
        RateLimiter(5.0, key=lambda call: "secret", health=shared, name="keyed", clock=clock),
        Retry(health=shared, name="payments", clock=clock),
        Deadline(1.0, name="each", clock=clock),
        RateLimiter(5.0, name="each", clock=clock),
        CircuitBreaker(key=lambda call: "secret", health=own, name="keyed", clock=clock),
    )
    pipeline.call(str)
    status = plain(pipeline_status(pipeline))
    assert "secret" not in json.dumps(status)
    assert {name: list(value) if isinstance(value, dict) else value for name, value in status.items()} == {
        "pipeline": "payments",
        "health": ["shared", "own"],
        "deadlines": ["all", "each"],
        "limiters": ["keyed", "each"],
        "breakers": ["keyed"],
        "retries": ["payments"],
    }
    assert (status["limiters"]["keyed"]["keys"], status["breakers"]["keyed"]["keys"]) == (1, 1)
    assert status["limiters"]["each"]["remaining"] == 4


def test_policies_of_one_name_are_told_apart(clock: ManualClock) -> None:
    limiters = [RateLimiter(float(rate), clock=clock) for rate in (1, 2, 3)]
    found = pipeline_status(Pipeline("p", *limiters))["limiters"]
    assert {name: limiter["configured_rate_per_s"] for name, limiter in found.items()} == {
        "limiter": 1.0,
        "limiter'": 2.0,
        "limiter''": 3.0,
    }
