"""What a channel and a server are given: settings, options, service configs, targets, metadata; and what is refused, with words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from resilience.integrations.grpc import ChannelSettings, ServerSettings, connect, server_options
from resilience.integrations.grpc.options import channel_options
from resilience.integrations.grpc.service_config import service_config_text
from resilience.integrations.grpc.targets import target_of

NOBODY = "127.0.0.1:1"
of_channel: Any = ChannelSettings
of_server: Any = ServerSettings


# --- settings -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: of_channel(keepalive_s=0), "keepalive_s: must be a number of seconds between 0.1 and 86400, or None, got 0"),
        (lambda: of_channel(keepalive_s="30s"), "keepalive_s: must be a number of seconds"),
        (
            lambda: of_channel(keepalive_timeout_s=None),
            "keepalive_timeout_s: must be a number of seconds between 0.1 and 3600,",
        ),
        (lambda: of_channel(keepalive_timeout_s=math.nan), "keepalive_timeout_s: must be a number of seconds"),
        (lambda: of_channel(idle_s=math.inf), "idle_s: must be a number of seconds between 1 and 604800, or None, got inf"),
        (
            lambda: of_channel(max_receive_bytes=1.5),
            "max_receive_bytes: must be a whole number of bytes between 0 and 2147483647",
        ),
        (lambda: of_channel(max_send_bytes=True), "max_send_bytes: must be a whole number of bytes"),
        (lambda: of_channel(wait_for_ready=1), "wait_for_ready: must be True or False, got 1"),
        (lambda: of_channel(close_grace_s=-1), "close_grace_s: must be a number of seconds between 0 and 86400, got -1"),
        (lambda: of_channel(reconnect_initial_s=11), "reconnect_initial_s: must be at most reconnect_max_s (10), got 11"),
        (
            lambda: of_server(max_connection_age_s=0),
            "max_connection_age_s: must be a number of seconds between 0.1 and 604800",
        ),
        (lambda: of_server(share_port="no"), "share_port: must be True or False, got 'no'"),
    ],
)
def test_a_setting_out_of_range_is_told(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert told in str(caught.value)


def test_settings_become_options_of_the_core() -> None:
    settings = ChannelSettings(
        keepalive_s=30.0001,
        keepalive_timeout_s=5,
        keepalive_without_calls=True,
        idle_s=None,
        reconnect_initial_s=0.5,
        reconnect_max_s=4,
        max_receive_bytes=None,
        max_send_bytes=100,
    )
    assert dict(channel_options(settings, "{}", [("grpc.primary_user_agent", "shop")])) == {
        "grpc.keepalive_time_ms": 30_001,
        "grpc.keepalive_timeout_ms": 5000,
        "grpc.http2.ping_timeout_ms": 5000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.client_idle_timeout_ms": 2**31 - 1,
        "grpc.initial_reconnect_backoff_ms": 500,
        "grpc.max_reconnect_backoff_ms": 4000,
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": 100,
        "grpc.primary_user_agent": "shop",
        "grpc.service_config": "{}",
        "grpc.service_config_disable_resolution": 1,
    }
    without = dict(channel_options(ChannelSettings(keepalive_s=None), "{}"))
    assert without["grpc.keepalive_time_ms"] == without["grpc.http2.ping_timeout_ms"] == 2**31 - 1


def test_a_servers_settings_become_options_of_the_core() -> None:
    assert dict(server_options()) == {
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.http2.ping_timeout_ms": 20_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
        "grpc.max_connection_age_ms": 1_800_000,
        "grpc.max_connection_age_grace_ms": 2**31 - 1,
        "grpc.max_connection_idle_ms": 900_000,
        "grpc.max_receive_message_length": 4 * 1024 * 1024,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": 0,
    }
    assert server_options(ServerSettings(share_port=True), [("grpc.max_concurrent_streams", 100)])[-2:] == [
        ("grpc.so_reuseport", 1),
        ("grpc.max_concurrent_streams", 100),
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("grpc.keepalive_time_ms", "options: 'grpc.keepalive_time_ms' is ChannelSettings.keepalive_s: set it there"),
        ("grpc.service_config", "options: 'grpc.service_config' cannot be given: give it as service_config"),
        ("grpc.service_config_disable_resolution", "it is always set"),
        ("grpc.experimental.enable_hedging", "one layer retries"),
    ],
)
def test_an_option_that_is_a_setting_or_gets_round_a_rule_is_refused(name: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        connect(NOBODY, options=[(name, 1)])
    assert told in str(caught.value)


def test_a_servers_option_that_is_a_setting_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'grpc.so_reuseport' is ServerSettings.share_port: set it there"):
        server_options(options=[("grpc.so_reuseport", 1)])


# --- service config -----------------------------------------------------------------------------------------------------------


def config_of(own: dict[str, Any] | None = None, *, wait_for_ready: bool = False) -> Any:
    return json.loads(service_config_text(own, wait_for_ready=wait_for_ready))


def test_calls_go_round_all_servers_unless_told_otherwise() -> None:
    assert config_of() == {"loadBalancingConfig": [{"round_robin": {}}]}
    own: dict[str, Any] = {"loadBalancingConfig": [{"pick_first": {}}]}
    assert config_of(own) == own


def test_waiting_is_put_in_where_nothing_else_is_said() -> None:
    ready = {"waitForReady": True}
    assert config_of(wait_for_ready=True)["methodConfig"] == [{"name": [{}], **ready}]
    one: dict[str, Any] = {"name": [{"service": "shop.Orders"}]}
    of_all: dict[str, Any] = {"name": [{"service": ""}], "timeout": "1s"}
    impatient = {"name": [{"service": "shop.Stock"}], "waitForReady": False}
    config = config_of({"methodConfig": [one, impatient]}, wait_for_ready=True)
    assert config["methodConfig"] == [{**one, **ready}, impatient, {"name": [{}], **ready}]
    assert config_of({"methodConfig": [of_all]}, wait_for_ready=True)["methodConfig"] == [{**of_all, **ready}]
    assert config_of({"methodConfig": [one]})["methodConfig"] == [one]


@pytest.mark.parametrize("policy", ["retryPolicy", "hedgingPolicy"])
def test_a_service_config_that_retries_is_refused(policy: str) -> None:
    own = {"methodConfig": [{"name": [{}]}, {"name": [{"service": "shop.Orders"}], policy: {"maxAttempts": 3}}]}
    with pytest.raises(ValueError) as caught:
        connect(NOBODY, service_config=own)
    assert str(caught.value).startswith(f"service_config.methodConfig[1].{policy}: one layer retries, and that is the pipeline's")


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ('{"methodConfig": []}', "service_config: must be a mapping, as json.loads returns it, got str"),
        ({"methodConfig": {}}, "service_config.methodConfig: must be a list of mappings"),
        ({"methodConfig": ["all"]}, "service_config.methodConfig: must be a list of mappings"),
        ({"healthCheckConfig": object()}, "service_config: cannot be written as JSON"),
    ],
)
def test_what_is_no_service_config_is_refused(own: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        connect(NOBODY, service_config=own)
    assert told in str(caught.value)


# --- targets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "uri"),
    [
        ("payments.internal:50051", "dns:///payments.internal:50051"),
        ("localhost:1", "dns:///localhost:1"),
        (["localhost:1"], "dns:///localhost:1"),
        ("10.0.0.1:50051", "ipv4:10.0.0.1:50051"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (("10.0.0.1:1", "10.0.0.2:2"), "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:50051", "ipv6:[::1]:50051"),
        (["[::1]:1", "[fe80::1%eth0]:2"], "ipv6:[::1]:1,[fe80::1%25eth0]:2"),
        ("unix:/run/payments.sock", "unix:/run/payments.sock"),
        (["dns:///a:1"], "dns:///a:1"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("xds:///payments", "xds:///payments"),
        ("dns:50051", "dns:///dns:50051"),
    ],
)
def test_targets_are_written_as_grpc_wants_them(targets: Any, uri: str) -> None:
    target = target_of(targets)
    assert target == (uri, "," in uri)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ([], "give at least one"),
        ("", "write 'host:port'"),
        ("payments.internal", "write 'host:port'"),
        (":50051", "write 'host:port'"),
        ("a:0", "write 'host:port'"),
        ("a:65536", "write 'host:port'"),
        ("a:http", "write 'host:port'"),
        ("a:²", "write 'host:port'"),
        ("::1:50051", "write the IPv6 address in brackets"),
        ("[::g]:1", "'[::g]:1': "),
        ("https://payments:443", "write the IPv6 address in brackets"),
        (["a:1", "b:2"], "gRPC looks up one name a channel, got 2 targets with 'a:1', 'b:2' among them"),
        (["10.0.0.1:1", "b:2"], "with 'b:2' among them: give the servers one DNS name"),
        (["10.0.0.1:1", "[::1]:2"], "takes IPv4 addresses or IPv6 addresses, got both"),
        (["10.0.0.1:1", "dns:///b:2"], "'dns:///b:2' has a scheme: it must be the only target"),
    ],
)
def test_targets_that_cannot_be_used_are_refused_with_what_to_write(targets: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        connect(targets)
    assert str(caught.value).startswith("targets: ")
    assert told in str(caught.value)


# --- metadata -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["x-tenant"], "must be pairs of a key and a value"),
        ([("X-Tenant", "blue")], "got 'X-Tenant'"),
        ([("grpc-timeout", "1S")], "'grpc-' is gRPC's own"),
        ([("x-raw-bin", "text")], "so its value must be bytes"),
        ([("authorization", b"secret")], "the value of 'authorization' must be printable ASCII text"),
        ([("authorization", "secret\r\n")], "the value of 'authorization' must be printable ASCII text"),
    ],
)
def test_metadata_that_cannot_travel_is_refused_and_its_value_not_shown(pairs: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        connect(NOBODY, metadata=pairs)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_channel_is_one_of_grpcs() -> None:
    with connect(NOBODY) as channel:
        assert isinstance(channel, grpc.Channel)
