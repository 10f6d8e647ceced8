"""What comes in with an RPC: routes and their changes, keys, attempts, and the services that are never guarded."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

import resilience
from resilience import Call, Pipeline, RateLimiter, current_call
from resilience.testing import ManualClock
from tests.integrations.bench import Layers
from tests.integrations.grpc.server.handlers import FUNCTIONS, TASKS, THREADS, Script
from tests.integrations.grpc.server.served import Scripted, interceptor_of, serving

KINDS = (THREADS, TASKS, FUNCTIONS)
every_kind = pytest.mark.parametrize("kind", KINDS)

CONFIG = """
version: 1
limiters:
  api: {rate: 1/s, burst: BURST}
pipelines:
  api: [{limiter: api}]
routes:
  - {match: {grpc: "/shop.v1.Orders/Put"}, pipeline: none}
  - {match: {grpc: "/shop.v1.Orders/*"}, pipeline: api}
"""


def codes(served: Any, method: str, times: int = 3, **options: Any) -> list[str]:
    """How so many calls end."""
    return [served.seen("unary_unary", method, **options).code for _ in range(times)]


@every_kind
def test_routes_say_what_is_guarded_and_a_reload_is_followed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG.replace("BURST", "2"))
    clock = ManualClock()
    with resilience.load(path, clock=clock) as toolkit:
        handler = Scripted(kind, "unary_unary", Script())
        with serving(kind, handler, interceptor_of(kind, config=toolkit)) as served:
            assert codes(served, "/shop.v1.Orders/Get") == ["OK", "OK", "RESOURCE_EXHAUSTED"]
            assert codes(served, "/shop.v1.Orders/Put") == ["OK"] * 3
            assert codes(served, "/shop.v1.Carts/Get") == ["OK"] * 3
            path.write_text(CONFIG.replace("BURST", "1").replace("Orders/Put", "Orders/Get"))
            toolkit.reload()
            assert codes(served, "/shop.v1.Orders/Get") == ["OK"] * 3
            clock.advance(60.0)
            assert codes(served, "/shop.v1.Orders/Put") == ["OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]


@every_kind
def test_a_path_is_loaded_watched_and_given_up(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(CONFIG.replace("BURST", "2"))
    interceptor = interceptor_of(kind, config=path)
    with serving(kind, Scripted(kind, "unary_unary", Script()), interceptor) as served:
        assert codes(served, "/shop.v1.Orders/Get") == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    interceptor.close()
    interceptor.close()
    with resilience.load(path) as toolkit:
        assert not toolkit.status()["watched"], "it is another one: nobody uses the first any more"


@every_kind
def test_clients_have_their_own_limits_by_metadata(kind: str) -> None:
    limiter = RateLimiter(rate_per_s=0.001, burst=1, key="header:x-api-key", clock=ManualClock())
    with serving(kind, Scripted(kind, "unary_unary", Script()), interceptor_of(kind, pipeline=Pipeline("p", limiter))) as served:
        one, other = {"metadata": (("x-api-key", "one"),)}, {"metadata": (("x-api-key", "other"),)}
        assert codes(served, "/a.B/C", 2, **one) == ["OK", "RESOURCE_EXHAUSTED"]
        assert codes(served, "/a.B/C", 2, **other) == ["OK", "RESOURCE_EXHAUSTED"]
        assert codes(served, "/a.B/C", 2) == ["OK", "RESOURCE_EXHAUSTED"]


@every_kind
def test_a_key_function_finds_the_peer_the_method_and_metadata(kind: str) -> None:
    found: list[Any] = []

    def key(call: Call) -> str:
        found.append((call.peer(), call.method(), call.headers("x-twice"), call.headers("trace-bin"), call.host()))
        return "one"

    limiter = RateLimiter(rate_per_s=1.0, burst=1, key=key, clock=ManualClock())
    metadata = (("x-twice", "a"), ("x-twice", "b"), ("trace-bin", b"\xff\x00"))
    with serving(kind, Scripted(kind, "unary_unary", Script()), interceptor_of(kind, pipeline=Pipeline("p", limiter))) as served:
        assert codes(served, "/shop.v1.Orders/Get", 1, metadata=metadata) == ["OK"]
    assert found == [("127.0.0.1", "/shop.v1.Orders/Get", ["a", "b"], ["\xff\x00"], None)]


@every_kind
def test_clients_have_their_own_limits_by_address(kind: str) -> None:
    limiter = RateLimiter(rate_per_s=0.001, burst=1, key="client_address", trusted_proxies=("127.0.0.1",), clock=ManualClock())
    with serving(kind, Scripted(kind, "unary_unary", Script()), interceptor_of(kind, pipeline=Pipeline("p", limiter))) as served:
        far = {"metadata": (("x-forwarded-for", "203.0.113.7"),)}
        assert codes(served, "/a.B/C", 2, **far) == ["OK", "RESOURCE_EXHAUSTED"]
        assert codes(served, "/a.B/C", 2) == ["OK", "RESOURCE_EXHAUSTED"]


@every_kind
def test_the_attempt_is_read_from_either_name(kind: str) -> None:
    attempts: list[Any] = []

    def act(context: Any) -> None:
        call = current_call()
        attempts.append(call and call.attempt)

    with serving(kind, Scripted(kind, "unary_unary", Script(act)), interceptor_of(kind, pipeline=Layers().pipeline)) as served:
        for metadata in ((), (("x-retry-attempt", "3"),), (("x-retry-attempt", "many"),)):
            assert codes(served, "/a.B/C", 1, metadata=metadata) == ["OK"]
    assert attempts == [0, 3, 0]


def test_the_attempts_that_grpc_counts_itself_are_read() -> None:
    """grpcio strips the key from what applications send: the channel's own retries write it."""
    attempts: list[Any] = []

    def act(context: Any) -> None:
        call = current_call()
        attempts.append(call and call.attempt)
        if len(attempts) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "again")

    retries = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.01s",
        "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""
    handler = Scripted(THREADS, "unary_unary", Script(act))
    with (
        serving(THREADS, handler, interceptor_of(THREADS, pipeline=Layers(min_calls=100).pipeline)) as served,
        grpc.insecure_channel(f"127.0.0.1:{served.port}", options=[("grpc.service_config", retries)]) as channel,
    ):
        assert channel.unary_unary("/a.B/C")(b"", timeout=10) == b"response"
    assert attempts == [0, 1, 2]


# --- what is never guarded ----------------------------------------------------------------------------------------------------


class Several(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Collects what generated code registers with a server, so that any server can serve it."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """What older generated code calls."""

    def add_registered_method_handlers(self, service: str, methods: dict[str, Any]) -> None:
        """What generated code calls."""
        self.methods |= {f"/{service}/{name}": handler for name, handler in methods.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self.methods.get(handler_call_details.method)


@pytest.mark.parametrize("kind", [THREADS, TASKS])
def test_health_checks_and_reflection_are_answered_when_nothing_else_is(kind: str) -> None:
    several = Several()
    is_aio = kind != THREADS
    health_servicer = health.aio.HealthServicer() if is_aio else health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, several)
    names = ("grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflected = reflection.aio.ReflectionServicer(names) if is_aio else reflection.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, several)
    several.methods["/shop.v1.Orders/Get"] = Script().handler(kind, "unary_unary")
    empty = RateLimiter(rate_per_s=0.001, burst=1, clock=ManualClock())
    empty.state.take(None, 1, empty.clock.now_us())
    with serving(kind, several, interceptor_of(kind, pipeline=Pipeline("p", empty))) as served:
        assert codes(served, "/shop.v1.Orders/Get", 1) == ["RESOURCE_EXHAUSTED"]
        stub = health_pb2_grpc.HealthStub(served.channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        info = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo
        (answer,) = info(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        assert [service.name for service in answer.list_services_response.service] == sorted(names)


@every_kind
def test_a_method_that_nobody_serves_is_still_that(kind: str) -> None:
    with serving(kind, Several(), interceptor_of(kind, pipeline=Layers().pipeline)) as served:
        assert codes(served, "/a.B/C", 1) == ["UNIMPLEMENTED"]


def test_the_thread_pool_of_a_handler_is_still_its_own() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="its own") as pool:
        names: list[str] = []

        def behavior(request: Any, context: Any) -> bytes:
            names.append(threading.current_thread().name)
            return b""

        behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]  # that is how grpcio knows
        handler = Several()
        handler.methods["/a.B/C"] = grpc.unary_unary_rpc_method_handler(behavior)
        with serving(THREADS, handler, interceptor_of(THREADS, pipeline=Layers().pipeline)) as served:
            assert codes(served, "/a.B/C", 1) == ["OK"]
    assert names == ["its own_0"]
