"""The parts of the server side one by one: addresses of peers, names of methods, the table of handlers, answers."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status

from resilience import CircuitOpen, ConfigError, Deadline, Pipeline, RateLimited, Rejected, Retry
from resilience.integrations.grpc import ServerInterceptor
from resilience.integrations.grpc.aio import ServerInterceptor as AioServerInterceptor
from resilience.integrations.grpc.answers import merged, refusal_answer
from resilience.integrations.grpc.call import peer_address
from resilience.integrations.grpc.methods import DEFAULT_EXEMPT, Handlers, service_of

PEERS = [
    ("ipv4:1.2.3.4:5", "1.2.3.4"),
    ("ipv4:10.2.1.1:57284,127.0.0.1:57284", "10.2.1.1"),
    ("ipv6:%5B::1%5D:5", "::1"),
    ("ipv6:[2001:db8::7]:443", "2001:db8::7"),
    ("ipv6:%5Bfe80::1%25eth0%5D:5", "fe80::1%eth0"),
    ("unix:", None),
    ("unix:/run/app.sock", None),
    ("unix-abstract:app", None),
    ("vsock:2:50051", None),
    ("ipv4:", None),
    ("", None),
]


@pytest.mark.parametrize(("peer", "address"), PEERS)
def test_the_address_in_the_name_of_a_peer(peer: str, address: str | None) -> None:
    assert peer_address(peer) == address


def test_the_service_in_the_name_of_a_method() -> None:
    assert service_of("/shop.v1.Orders/Get") == "shop.v1.Orders"
    assert service_of("Get") == ""


class Counted:
    """Wraps handlers and counts."""

    def __init__(self, exempt: Any = DEFAULT_EXEMPT) -> None:
        self.made = 0
        self.handlers = Handlers(self.wrap, exempt)

    def wrap(self, method: str, handler: Any) -> Any:
        self.made += 1
        return ("guarded", method, handler)


def test_a_handler_is_wrapped_once_as_long_as_it_is_the_same() -> None:
    counted = Counted()
    one, other = object(), object()
    first = counted.handlers.guarded("/a.B/C", one)
    assert counted.handlers.guarded("/a.B/C", one) is first
    assert counted.made == 1
    assert counted.handlers.guarded("/a.B/C", other) == ("guarded", "/a.B/C", other)
    assert counted.handlers.guarded("/a.B/D", one) == ("guarded", "/a.B/D", one)
    assert counted.made == 3


def test_a_handler_of_any_method_does_not_grow_the_table() -> None:
    counted = Counted()
    handler = object()
    for number in range(5_000):
        counted.handlers.guarded(f"/a.B/{number}", handler)
    assert len(counted.handlers._known) <= 1_024
    assert counted.handlers.guarded("/a.B/4999", handler) == ("guarded", "/a.B/4999", handler)


@pytest.mark.parametrize(
    ("method", "is_exempt"),
    [
        ("/grpc.health.v1.Health/Check", True),
        ("/grpc.health.v1.Health/Watch", True),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", True),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", True),
        ("/grpc.health.v1.HealthOfMine/Check", False),
        ("/shop.v1.Orders/Get", False),
    ],
)
def test_health_checks_and_reflection_are_exempt(method: str, is_exempt: bool) -> None:
    handler = object()
    assert (Counted().handlers.guarded(method, handler) is handler) == is_exempt
    assert Counted(exempt=()).handlers.guarded(method, handler) is not handler


def test_what_is_exempt_can_be_chosen() -> None:
    counted = Counted(exempt=["shop.v1.Ping", "/shop.v1.Orders/Get"])
    handler = object()
    assert counted.handlers.guarded("/shop.v1.Ping/Any", handler) is handler
    assert counted.handlers.guarded("/shop.v1.Orders/Get", handler) is handler
    assert counted.handlers.guarded("/shop.v1.Orders/Put", handler) is not handler
    assert counted.handlers.guarded("/grpc.health.v1.Health/Check", handler) is not handler


@pytest.mark.parametrize(
    ("exempt", "error", "told"),
    [
        ("grpc.health.v1.Health", TypeError, "several names, got the one text"),
        ([7], TypeError, "names of services and methods, got 7"),
        (["/shop.v1.Orders/*/x"], ValueError, "'/shop.v1.Orders/*/x' must be a service"),
        (["shop.v1.*"], ValueError, "'shop.v1.*' must be a service"),
        ([""], ValueError, "'' must be a service"),
    ],
)
@pytest.mark.parametrize("interceptor", [ServerInterceptor, AioServerInterceptor])
def test_what_cannot_be_exempt_is_said_at_once(interceptor: Any, exempt: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error) as raised:
        interceptor(pipeline=Pipeline("p", Deadline(1.0)), exempt=exempt)
    assert told in str(raised.value)


@pytest.mark.parametrize("interceptor", [ServerInterceptor, AioServerInterceptor])
def test_what_cannot_guard_is_said_at_once(interceptor: Any, tmp_path: Any) -> None:
    (tmp_path / "bad.yaml").write_text("version: 7\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        interceptor(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="has a retry"):
        interceptor(pipeline=Pipeline("p", Retry()))
    with pytest.raises(TypeError, match="either config="):
        interceptor()


@pytest.mark.parametrize(
    ("retry_after_s", "pushback"),
    [
        (0.0, "0"),
        (0.0001, "1"),
        (1.0, "1000"),
        (0.1 + 0.2, "300"),
        (1.2345, "1235"),
        (1e12, str(2**31 - 1)),
        (-3.0, "0"),
        (None, None),
        (math.inf, None),
        (math.nan, None),
    ],
)
def test_pushback_is_whole_milliseconds_rounded_up(retry_after_s: float | None, pushback: str | None) -> None:
    answer = refusal_answer(RateLimited(policy="api", retry_after_s=retry_after_s), own=True)
    assert dict(answer.trailing).get("grpc-retry-pushback-ms") == pushback


def test_the_details_say_the_same_as_the_status() -> None:
    answer = refusal_answer(CircuitOpen(policy="orders", reason="open", retry_after_s=2.0), own=True)
    status = Status.FromString(dict(answer.trailing)["grpc-status-details-bin"])
    assert (status.code, status.message) == (grpc.StatusCode.UNAVAILABLE.value[0], answer.details)


def test_a_refusal_that_nobody_here_knows_is_answered() -> None:
    class Full(Rejected):
        """Of a layer of somebody else."""

    answer = refusal_answer(Full("full", policy="bulkhead", reason="full"), own=True)
    assert (answer.code, answer.details) == (grpc.StatusCode.UNAVAILABLE, "full")


def test_trailing_metadata_is_merged_and_a_key_of_ours_has_one_value() -> None:
    ours = (("grpc-retry-pushback-ms", "5"),)
    assert merged(None, ours) == ours
    assert merged((("a", "1"), ("grpc-retry-pushback-ms", "7"), ("a", "2")), ours) == (("a", "1"), ("a", "2"), *ours)
