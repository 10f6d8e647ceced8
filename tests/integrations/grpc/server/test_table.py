"""One table: every kind of handler, every arity, every way for a call to end. What the client sees, what the breaker heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from resilience import CircuitOpen, DeadlineExceeded, RateLimited
from tests.integrations.bench import Layers
from tests.integrations.grpc.server.handlers import ARITIES, FUNCTIONS, KINDS, THREADS, WRITERS, Act, Hold, Script, nothing
from tests.integrations.grpc.server.served import Scripted, eventually, interceptor_of, serving

STREAMS = tuple(arity for arity in ARITIES if arity.endswith("_stream"))
CELLS = [(kind, arity) for kind in KINDS for arity in ARITIES if kind != WRITERS or arity in STREAMS]
STREAM_CELLS = [(kind, arity) for kind, arity in CELLS if arity in STREAMS]
PUSHBACK, DETAILS = "grpc-retry-pushback-ms", "grpc-status-details-bin"
every_cell = pytest.mark.parametrize(("kind", "arity"), CELLS)
every_stream = pytest.mark.parametrize(("kind", "arity"), STREAM_CELLS)


class Bench(Layers):
    """One of each layer around one script."""

    def serve(self, kind: str, arity: str, script: Script) -> Any:
        """A server of them."""
        return serving(kind, Scripted(kind, arity, script), interceptor_of(kind, pipeline=self.pipeline))

    def probed(self) -> str:
        """What the one probe counted as, once it is settled."""
        eventually(lambda: self.outcome() != "held")
        return self.outcome()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def raising(error: Callable[[], BaseException]) -> Act:
    """A handler that raises."""

    def act(context: Any) -> None:
        raise error()

    return act


def aborting(code: grpc.StatusCode) -> Act:
    """A handler that aborts: in a task `abort` is awaited."""
    return lambda context: context.abort(code, "so it is")


def setting(code: grpc.StatusCode) -> Act:
    """A handler that sets a code and trailing metadata, and goes on."""

    def act(context: Any) -> None:
        context.set_code(code)
        context.set_details("so it is")
        context.set_trailing_metadata((("x-of-handler", "kept"),))

    return act


ENDS = [
    pytest.param(nothing, "OK", "", "ok", id="ok"),
    pytest.param(raising(lambda: ValueError("boom")), "UNKNOWN", "boom", "failed", id="raises"),
    pytest.param(aborting(grpc.StatusCode.NOT_FOUND), "NOT_FOUND", "so it is", "ok", id="abort NOT_FOUND"),
    pytest.param(aborting(grpc.StatusCode.UNAVAILABLE), "UNAVAILABLE", "so it is", "failed", id="abort UNAVAILABLE"),
    pytest.param(setting(grpc.StatusCode.RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED", "so it is", "ok", id="set RESOURCE_EXHAUSTED"),
    pytest.param(setting(grpc.StatusCode.INTERNAL), "INTERNAL", "so it is", "failed", id="set INTERNAL"),
    pytest.param(setting(grpc.StatusCode.CANCELLED), "CANCELLED", "so it is", "ignored", id="set CANCELLED"),
]


@every_cell
@pytest.mark.parametrize(("act", "code", "details", "outcome"), ENDS)
def test_the_breaker_hears_what_the_status_says(
    kind: str, arity: str, act: Act, code: str, details: str, outcome: str, bench: Bench
) -> None:
    bench.half_open()
    script = Script(act, after=0 if code != "OK" else 2)
    with bench.serve(kind, arity, script) as served:
        saw = served.seen(arity)
        is_told_before = kind != THREADS and code in ("NOT_FOUND", "UNAVAILABLE")  # `abort` of asyncio sends the status itself
        heard = bench.probed() if is_told_before else bench.outcome()
        assert heard == outcome, "it is settled before the client has its answer"
    assert (saw.code, script.calls) == (code, 1)
    assert details in saw.details
    assert saw.messages == (0 if code != "OK" else 2 if arity in STREAMS else 1)
    assert script.requests == ([b"one", b"two"] if arity.startswith("stream_") else [b"one"])
    assert (saw.trailers == {"x-of-handler": "kept"}) == (
        act.__name__ == "act" and details == "so it is" and "set" in act.__qualname__
    )


# --- refused ------------------------------------------------------------------------------------------------------------------


def over_the_limit(bench: Bench) -> None:
    """The bucket is empty."""
    bench.limiter.state.take(None, 1_000, bench.clock.now_us())


REFUSALS = [
    pytest.param(over_the_limit, {}, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "api", 1_000, id="quota"),
    pytest.param(Layers.open_breaker, {}, "UNAVAILABLE", "CIRCUIT_OPEN", "orders", 30_000, id="breaker open"),
    pytest.param(
        nothing,
        {"metadata": (("x-envoy-expected-rq-timeout-ms", "0"),)},
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
        "api",
        None,
        id="expired on arrival",
    ),
]


@every_cell
@pytest.mark.parametrize(("before", "options", "code", "reason", "policy", "pushback_ms"), REFUSALS)
def test_a_refusal_by_any_layer_is_a_status_with_reason_and_pushback(
    kind: str,
    arity: str,
    before: Callable[[Any], None],
    options: dict[str, Any],
    code: str,
    reason: str,
    policy: str,
    pushback_ms: int | None,
    bench: Bench,
) -> None:
    before(bench)
    script = Script()
    with bench.serve(kind, arity, script) as served:
        saw = served.seen(arity, **options)
    assert (saw.code, saw.reason, saw.policy, saw.messages, script.calls) == (code, reason, policy, 0, 0)
    assert saw.trailers.get(PUSHBACK) == (None if pushback_ms is None else str(pushback_ms))
    assert saw.retry_delay_s == (None if pushback_ms is None else pushback_ms / 1000)
    assert DETAILS in saw.trailers


@every_cell
def test_a_limit_that_is_cut_says_so(kind: str, arity: str, bench: Bench) -> None:
    bench.half_open()  # the factor is 0.3, so the bucket holds 300
    bench.limiter.state.take(None, 300, bench.clock.now_us())
    with bench.serve(kind, arity, Script()) as served:
        saw = served.seen(arity)
    assert (saw.code, saw.reason, saw.policy) == ("RESOURCE_EXHAUSTED", "REDUCED_CAPACITY", "api")
    assert saw.trailers[PUSHBACK] == "3334"  # one token at 0.3 a second, rounded up
    assert bench.outcome() == "untouched"


def limited_outside() -> RateLimited:
    return RateLimited(policy="ledger", reason="quota", retry_after_s=1.2345)


def open_outside() -> CircuitOpen:
    return CircuitOpen(policy="ledger", reason="open", retry_after_s=2.0)


def late_outside() -> DeadlineExceeded:
    return DeadlineExceeded(policy="ledger", reason="expired")


def grouped() -> BaseExceptionGroup[Any]:
    return BaseExceptionGroup("tasks", [open_outside()])


LEAVES = [
    pytest.param(limited_outside, "RESOURCE_EXHAUSTED", "REDUCED_CAPACITY", "1235", "ignored", id="limited"),
    pytest.param(open_outside, "UNAVAILABLE", "CIRCUIT_OPEN", "2000", "ignored", id="breaker open"),
    pytest.param(grouped, "UNAVAILABLE", "CIRCUIT_OPEN", "2000", "ignored", id="in a group"),
    pytest.param(late_outside, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", None, "failed", id="out of time"),
]


@every_cell
@pytest.mark.parametrize(("error", "code", "reason", "pushback", "outcome"), LEAVES)
def test_a_refusal_that_leaves_the_handler_is_answered_and_does_not_name_what_is_behind(
    kind: str,
    arity: str,
    error: Callable[[], BaseException],
    code: str,
    reason: str,
    pushback: str | None,
    outcome: str,
    bench: Bench,
) -> None:
    bench.half_open()

    def act(context: Any) -> None:
        context.set_trailing_metadata((("x-of-handler", "kept"), (PUSHBACK, "7")))
        raise error()

    with bench.serve(kind, arity, Script(act)) as served:
        saw = served.seen(arity)
    assert (saw.code, saw.reason, saw.policy) == (code, reason, None)
    assert "ledger" not in repr(saw)
    assert saw.trailers["x-of-handler"] == "kept"
    assert saw.trailers.get(PUSHBACK) == (pushback or "7")
    assert bench.outcome() == outcome


@every_stream
def test_a_refusal_that_leaves_the_handler_in_the_middle_of_its_stream_is_answered_too(kind: str, arity: str, bench: Bench) -> None:
    bench.half_open()
    with bench.serve(kind, arity, Script(raising(open_outside), before=2)) as served:
        saw = served.seen(arity)
    assert (saw.code, saw.reason, saw.messages) == ("UNAVAILABLE", "CIRCUIT_OPEN", 2)
    assert bench.outcome() == "ok", "it has voted at its start"


# --- ended from outside ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hold() -> Iterator[Hold]:
    held = Hold()
    yield held
    held.let_go.set()


@every_cell
def test_a_call_that_its_client_cancels_says_nothing(kind: str, arity: str, bench: Bench, hold: Hold) -> None:
    bench.half_open()
    with bench.serve(kind, arity, Script(hold.act(kind))) as served:
        call = served.call(arity)
        assert hold.entered.wait(5)
        call.cancel()
        assert call.code().name == "CANCELLED"
        if kind not in (THREADS, FUNCTIONS):
            assert hold.cancelled.wait(5)
        elif arity in STREAMS:
            assert bench.probed() == "ignored", "the thread still runs"
        if kind in (THREADS, FUNCTIONS):
            eventually(hold.is_known_to_be_unwanted)
        hold.let_go.set()
        assert bench.probed() == "ignored"


HURRIES = [
    *((0.3, "failed", *cell) for cell in CELLS),
    *((5.0, "ignored", kind, "unary_unary") for kind in KINDS if kind != WRITERS),
]


@pytest.mark.parametrize(("default_s", "outcome", "kind", "arity"), HURRIES)
def test_a_call_whose_deadline_passes_counts_unless_its_caller_was_in_too_great_a_hurry(
    default_s: float, outcome: str, kind: str, arity: str, hold: Hold
) -> None:
    bench = Bench(default_s=default_s)
    bench.half_open()
    with bench.serve(kind, arity, Script(hold.act(kind))) as served:
        saw = served.seen(arity, timeout=0.6)
        assert saw.code == "DEADLINE_EXCEEDED"
        if kind in (THREADS, FUNCTIONS):
            eventually(hold.is_known_to_be_unwanted)
        else:
            assert hold.cancelled.wait(5)
        hold.let_go.set()
        assert bench.probed() == outcome
    assert bench.deadline.status()["expired"] == 1


@every_stream
def test_a_client_that_vanishes_in_the_middle_of_a_stream_leaves_nothing(kind: str, arity: str, bench: Bench, hold: Hold) -> None:
    bench.half_open()
    script = Script(hold.act(kind), before=1)
    with bench.serve(kind, arity, script) as served:
        call = served.call(arity)
        assert next(call)
        assert hold.entered.wait(5)
        assert bench.outcome() == "ok"
        call.cancel()
        if kind in (THREADS, FUNCTIONS):
            eventually(hold.is_known_to_be_unwanted)
        hold.let_go.set()
        assert script.closed.wait(5)
