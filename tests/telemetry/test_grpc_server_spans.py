"""The spans of one RPC as a whole tree, admitted and refused, under the server span of OpenTelemetry's interceptor and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import aio_server_interceptor, server_interceptor

from tests.integrations.bench import Layers
from tests.integrations.grpc.server.handlers import ARITIES, FUNCTIONS, KINDS, TASKS, THREADS, WRITERS, Hold, Script
from tests.integrations.grpc.server.served import Scripted, eventually, interceptor_of, serving
from tests.telemetry.recording import PARENT_ID, SAMPLED, UNSAMPLED, Recording
from tests.telemetry.test_request_spans import ADMITTED, OPEN, OVER_LIMIT, TOO_LATE, empty_bucket, nothing, open_breaker

CELLS = [(kind, arity) for kind in KINDS for arity in ARITIES if kind != WRITERS or arity.endswith("_stream")]
# OpenTelemetry's interceptor awaits every handler of an asyncio server, and draws from every stream: it knows no plain functions
# there, and no handlers that write.
UNDER_OTEL = [(kind, arity) for kind, arity in CELLS if kind in (THREADS, TASKS)]
OURS = "resilience api INTERNAL"
SERVER = "/shop.v1.Orders/Get SERVER"
_REMOTE = (("traceparent", SAMPLED),)
_AT_ONCE = (("x-envoy-expected-rq-timeout-ms", "0"),)
CASES = [
    pytest.param(nothing, (), "OK", ADMITTED, id="admitted"),
    pytest.param(empty_bucket, (), "RESOURCE_EXHAUSTED", OVER_LIMIT, id="over the limit"),
    pytest.param(open_breaker, (), "UNAVAILABLE", OPEN, id="breaker open"),
    pytest.param(nothing, _AT_ONCE, "DEADLINE_EXCEEDED", TOO_LATE, id="expired"),
]


def serve(kind: str, arity: str, bench: Layers, script: Script, *outside: Any) -> Any:
    """A server of one script, with interceptors outside of ours."""
    return serving(kind, Scripted(kind, arity, script), *outside, interceptor_of(kind, pipeline=bench.pipeline))


def otel(kind: str) -> Any:
    """OpenTelemetry's own interceptor for that kind of server."""
    make: Callable[[], Any] = server_interceptor if kind == THREADS else aio_server_interceptor
    return make()


def tree(recorded: Recording, ends: int = 1) -> str:
    """All spans, once those without a parent here have ended: a server ends them after its client has the answer."""
    eventually(lambda: sum(span.parent is None or span.parent.is_remote for span in recorded.spans) >= ends)
    return recorded.tree()


@pytest.mark.parametrize(("kind", "arity"), UNDER_OTEL)
@pytest.mark.parametrize(("before", "metadata", "code", "layers"), CASES)
def test_the_layers_are_leaves_under_the_server_span(
    kind: str,
    arity: str,
    before: Callable[[Any], None],
    metadata: tuple[tuple[str, str], ...],
    code: str,
    layers: str,
    recorded: Recording,
) -> None:
    bench = Layers()
    before(bench)
    recorded.clear()
    with serve(kind, arity, bench, Script(), otel(kind)) as served:
        saw = served.seen(arity, metadata=_REMOTE + metadata)
        assert saw.code == code
        told = tree(recorded).replace("\n  ! exception", "")  # which that interceptor makes of every `abort`
    head = told.partition("\n")[0]
    assert head.startswith(SERVER)
    assert head.endswith(f" under {PARENT_ID}")
    assert told.removeprefix(head) == layers


@pytest.mark.parametrize(("kind", "arity"), CELLS)
@pytest.mark.parametrize(("before", "metadata", "code", "layers"), CASES)
def test_without_a_server_span_the_call_has_one_of_its_own_under_what_the_rpc_brought(
    kind: str,
    arity: str,
    before: Callable[[Any], None],
    metadata: tuple[tuple[str, str], ...],
    code: str,
    layers: str,
    recorded: Recording,
) -> None:
    bench = Layers()
    before(bench)
    recorded.clear()
    with serve(kind, arity, bench, Script()) as served:
        assert served.seen(arity, metadata=_REMOTE + metadata).code == code
        told = tree(recorded)
    assert told == f"{OURS} under {PARENT_ID} pipeline=api{layers}"


@pytest.mark.parametrize(("kind", "arity"), CELLS)
def test_what_the_handler_does_is_a_child_of_the_call(kind: str, arity: str, recorded: Recording) -> None:
    recorded.clear()

    def act(context: Any) -> None:
        with trace.get_tracer("of the handler").start_as_current_span("work"):
            pass

    with serve(kind, arity, Layers(), Script(act, before=1)) as served:
        assert served.seen(arity, metadata=_REMOTE).code == "OK"
        assert tree(recorded) == f"{OURS} under {PARENT_ID} pipeline=api{ADMITTED}\n  work INTERNAL"


@pytest.mark.parametrize(("kind", "arity"), CELLS)
def test_a_call_that_is_not_sampled_builds_nothing(kind: str, arity: str, recorded: Recording) -> None:
    with serve(kind, arity, Layers(), Script()) as served:
        assert served.seen(arity, metadata=(("traceparent", UNSAMPLED),)).code == "OK"
    assert recorded.spans == []


@pytest.mark.parametrize(("kind", "arity"), [cell for cell in CELLS if cell[1].endswith("_stream")])
def test_the_span_of_a_stream_ends_when_its_client_vanishes(kind: str, arity: str, recorded: Recording) -> None:
    recorded.clear()
    hold = Hold()
    script = Script(hold.act(kind), before=1)
    with serve(kind, arity, Layers(), script) as served:
        call = served.call(arity, metadata=_REMOTE)
        assert next(call)
        assert hold.entered.wait(5)
        call.cancel()
        if kind in (THREADS, FUNCTIONS):
            eventually(hold.is_known_to_be_unwanted)
        hold.let_go.set()
        assert tree(recorded) == f"{OURS} under {PARENT_ID} pipeline=api{ADMITTED}"
        assert script.closed.wait(5)
