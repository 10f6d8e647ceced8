"""What an outgoing request says of itself, and how its tries and its end are judged, without any client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    BreakerState,
    CircuitBreaker,
    CircuitOpen,
    Deadline,
    DeadlineExceeded,
    Pipeline,
    RateLimited,
    RateLimiter,
    Retry,
    Verdict,
)
from resilience.edges import OutgoingRequest, adrive, drive, host_key
from resilience.layers.timeouts import PARSERS, timeout_text
from resilience.testing import ManualClock

WORTH_ANOTHER = Verdict(retryable=True)
NO_RETRY = Verdict(retryable=False, failed=True)
GOOD = Verdict(retryable=False)


class Unreachable(Exception):
    """What this library raises when it cannot reach a peer."""


class Misused(Exception):
    """What it raises when nobody could send this."""


@dataclass
class Response:
    """What it returns."""

    status: int = 200
    headers: dict[str, list[str]] = field(default_factory=dict)


class Request(OutgoingRequest):
    """A request of a library that does nothing."""

    def __init__(
        self, *layers: Any, method: str = "GET", headers: dict[str, list[str]] | None = None, can_repeat_body: bool = True
    ) -> None:
        self.discarded: list[Response] = []
        self.headers = headers or {}
        super().__init__(Pipeline("out", *layers), method, "a.example", self.values, can_repeat_body=can_repeat_body)

    def values(self, name: str) -> list[str]:
        return self.headers.get(name, [])

    def status_of(self, response: Response) -> int:
        return response.status

    def values_of(self, response: Response, name: str) -> list[str]:
        return response.headers.get(name, [])

    def is_connection_error(self, error: BaseException) -> bool:
        return isinstance(error, Unreachable)

    def is_own_fault(self, error: BaseException) -> bool:
        return isinstance(error, Misused)

    def discard(self, result: Response) -> None:
        self.ended()
        self.discarded.append(result)

    def send(self, work: Callable[[], Any]) -> Any:
        """Send it in this thread."""
        return drive(self.plan(), self.pipeline.clock, work)


class AsyncRequest(Request):
    """The same in a task."""

    async def discard(self, result: Response) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().discard(result)

    def send(self, work: Callable[[], Any]) -> Any:
        async def awork() -> Any:
            return work()

        return asyncio.run(adrive(self.plan(), self.pipeline.clock, awork))


both_drivers = pytest.mark.parametrize("make", [Request, AsyncRequest])


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "scheme", "key"),
    [
        ("Payments.Example", None, "https", "payments.example"),
        ("payments.example", 443, "https", "payments.example"),
        ("payments.example", 80, "HTTP", "payments.example"),
        ("payments.example", 80, "https", "payments.example:80"),
        ("payments.example", 8443, "https", "payments.example:8443"),
        ("10.0.0.1", 443, "wss", "10.0.0.1"),
        ("2001:DB8::1", 8080, "http", "[2001:db8::1]:8080"),
        ("payments.example.", 443, "https", "payments.example"),
        ("2001:0db8:0:0:0:0:0:1", None, "http", "[2001:db8::1]"),
        ("FE80:0::1%eth0", None, "http", "[fe80::1%eth0]"),
        ("no:address", None, "http", "[no:address]"),
        ("", None, "", ""),
    ],
)
def test_a_host_is_told_from_others(host: str, port: int | None, scheme: str, key: str) -> None:
    assert host_key(host, port, scheme) == key


@given(st.sampled_from(sorted(PARSERS)), st.integers(1, 10**10 - 1))
def test_a_timeout_is_read_as_it_was_written_or_as_less(header: str, timeout_ms: int) -> None:
    most_ms = 99_999_999 if header == "grpc-timeout" else timeout_ms
    assert PARSERS[header](timeout_text(header, timeout_ms)) == min(timeout_ms, most_ms) / 1000


def test_the_call_says_where_it_goes_and_its_name_does_not() -> None:
    request = Request(method="PUT", headers={"x-tenant": ["7"]})
    call = request.call
    assert (call.host(), call.method(), call.headers("x-tenant"), call.headers("x-other")) == ("a.example", "PUT", ["7"], [])
    assert call.name == "the outgoing request"
    assert call.carrier is None


def test_layers_with_keys_find_them_for_the_call_and_for_each_try(clock: ManualClock) -> None:
    keys = []

    def key(call: Any) -> str:
        keys.append((call.host(), call.method(), call.headers("x-tenant")))
        return "one"

    limiter = RateLimiter(10.0, key=key, clock=clock)
    request = Request(limiter, Retry(clock=clock), CircuitBreaker(key=key, clock=clock), headers={"x-tenant": ["7"]})
    request.send(Response)
    request.ended()
    assert keys == [("a.example", "GET", ["7"])] * 2


# --- which tries are worth another ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "can_repeat_body", "verdict"),
    [
        ("GET", {}, True, WORTH_ANOTHER),
        ("GET", {}, False, NO_RETRY),
        ("POST", {}, True, NO_RETRY),
        ("POST", {"idempotency-key": ["7"]}, True, WORTH_ANOTHER),
        ("POST", {"idempotency-key": ["7"]}, False, NO_RETRY),
        ("POST", {"idempotency-key": [" "]}, True, NO_RETRY),
        ("TRACE", {}, True, WORTH_ANOTHER),
        ("PURGE", {}, True, NO_RETRY),
    ],
)
def test_what_may_be_repeated(method: str, headers: dict[str, list[str]], can_repeat_body: bool, verdict: Verdict) -> None:
    request = Request(Retry(), method=method, headers=headers, can_repeat_body=can_repeat_body)
    assert request.judge(Unreachable(), None) == verdict
    assert request.judge(None, Response(503)) == verdict
    assert request.judge(None, Response(200)) == GOOD
    assert request.judge(None, Response(404)) == NO_RETRY


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (Unreachable(), True),
        (Misused(), False),
        (OSError(), False),  # its library says what is a connection error
        (ValueError(), False),
        (CircuitOpen(), False),
        (RateLimited(), False),
        (DeadlineExceeded(reason="expired"), True),  # of a deadline for each try
        (DeadlineExceeded(reason="expired_on_arrival"), False),
    ],
)
def test_which_errors_are_worth_another_try(error: Exception, worth: bool) -> None:
    assert Request(Retry()).judge(error, None).retryable is worth


def test_named_errors_stand_in_the_place_of_connection_errors() -> None:
    request = Request(Retry(on=(ValueError, RateLimited)))
    worth = [request.judge(error, None).retryable for error in (ValueError(), RateLimited(), Unreachable(), CircuitOpen())]
    assert worth == [True, True, False, False]


def test_advice_is_taken_from_the_response() -> None:
    response = Response(429, {"retry-after": ["7", "3"]})
    assert Request(Retry()).judge(None, response) == Verdict(retryable=True, advice_s=7.0)


def test_without_a_retry_nothing_is_judged() -> None:
    request = Request()
    assert request.judge(None, Response(503)) == GOOD
    assert request.judge(Unreachable(), None) == NO_RETRY


# --- from the first try to the end ------------------------------------------------------------------------------------


@both_drivers
def test_what_is_tried_again_is_discarded_before_the_wait(make: type[Request], clock: ManualClock) -> None:
    answers = [Response(503), Response(502), Response(200)]
    slept = []
    request = make(Retry(jitter="none", clock=clock))

    def work() -> Response:
        slept.append((list(clock.slept_s), len(request.discarded)))
        return answers[len(slept) - 1]

    assert request.send(work) is answers[2]
    request.ended()
    assert request.discarded == answers[:2]
    assert slept == [([], 0), ([0.1], 1), ([0.1, 0.2], 2)]


@both_drivers
def test_a_discard_that_fails_ends_the_call(make: type[Request], clock: ManualClock) -> None:
    class Broken(make):  # type: ignore[valid-type,misc]
        def discard(self, result: Response) -> None:
            self.ended()
            raise RuntimeError("cannot close")

    breaker = CircuitBreaker(clock=clock)
    with pytest.raises(RuntimeError, match="cannot close"):
        Broken(breaker, Retry(clock=clock)).send(lambda: Response(503))
    assert breaker.state is BreakerState.CLOSED


@both_drivers
def test_a_call_is_settled_once_by_whoever_comes_first(make: type[Request], clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    request = make(breaker)
    request.send(Response)
    assert not request.call.settled
    request.ended()
    assert request.call.settled
    request.broke_off(Unreachable())
    request.dropped()
    request.ended()
    assert breaker.state is BreakerState.CLOSED


def test_the_deadline_is_void_once_the_body_has_ended(clock: ManualClock) -> None:
    request = Request(Deadline(5.0, clock=clock))
    request.send(lambda: request.begin_try() and Response())
    assert request.left_s() == 5.0
    clock.advance(5.0)
    assert request.is_over
    assert request.left_s() == 0.001
    request.broke_off(request.expired())
    assert request.call.settled


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Unreachable(), BreakerState.OPEN),
        (ValueError(), BreakerState.OPEN),
        (Misused(), BreakerState.CLOSED),
        (CircuitOpen(), BreakerState.CLOSED),
        (asyncio.CancelledError(), BreakerState.CLOSED),
        (KeyboardInterrupt(), BreakerState.CLOSED),
    ],
    ids=repr,
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_an_error_shows_of_the_peer(clock: ManualClock, error: BaseException, state: BreakerState, when: str) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)
    request = Request(breaker)

    def fail() -> None:
        raise error

    if when == "before":
        with pytest.raises(type(error)):
            request.send(fail)
    else:
        request.send(Response)
        request.broke_off(error)
    assert breaker.state is state
    assert request.call.error is None


def test_a_deadline_that_passed_in_the_own_pool_shows_nothing_of_the_peer(clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, clock=clock)

    def fail() -> None:
        raise DeadlineExceeded(reason="expired") from Misused()

    with pytest.raises(DeadlineExceeded):
        Request(breaker).send(fail)
    assert breaker.state is BreakerState.CLOSED


def test_the_number_of_a_try_never_grows_beyond_what_is_read(clock: ManualClock) -> None:
    request = Request()
    request.send(Response)
    request.call.attempt = 1234
    assert request.begin_try() == {"x-retry-attempt": "999"}
    request.ended()
