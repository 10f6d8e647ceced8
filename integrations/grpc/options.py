"""What can be set on gRPC's channels and servers, and the options of the C core that it becomes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Options = list[tuple[str, Any]]

DAY_S: Final = 86_400
MEBIBYTE: Final = 1024 * 1024
MAX_INT: Final = 2**31 - 1
NO_LIMIT: Final = -1
PING_TIMEOUT: Final = "grpc.http2.ping_timeout_ms"
"""What the C core really waits for the answer to a ping: 60 s by default, whatever `grpc.keepalive_timeout_ms` says."""

NOT_OPTIONS: Final = {
    "grpc.service_config": "give it as service_config, which is checked: it must not retry as well",
    "grpc.service_config_disable_resolution": "it is always set, so that no DNS record can bring retries of its own",
    "grpc.experimental.enable_hedging": "one layer retries, and that is the pipeline",
}
"""Options that would get round a rule, and what to do instead."""


def _setting(default: Any, unit: str, minimum: float, maximum: float, *, optional: bool = False) -> Any:
    return field(default=default, metadata={"unit": unit, "minimum": minimum, "maximum": maximum, "optional": optional})


def _check(settings: Any) -> None:
    for declared in dataclasses.fields(settings):
        value, problem = getattr(settings, declared.name), None
        if not declared.metadata:
            problem = None if isinstance(value, bool) else "must be True or False"
        elif not (value is None and declared.metadata["optional"]):
            problem = _number_problem(value, **declared.metadata)
        if problem is not None:
            raise ValueError(f"{type(settings).__name__}.{declared.name}: {problem}, got {value!r}")


def _number_problem(value: Any, unit: str, minimum: float, maximum: float, *, optional: bool) -> str | None:
    wanted = int if unit == "bytes" else (int, float)
    if isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value) and minimum <= value <= maximum:
        return None
    number = "a whole number" if unit == "bytes" else "a number"
    return f"must be {number} of {unit} between {minimum:g} and {maximum:.10g}" + (", or None" if optional else "")


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Settings of a channel. The defaults do no harm with any server, also one that knows nothing of us.

    Args:
        keepalive_s: seconds without a byte from the server before a ping asks whether it lives, while calls are in flight; 0.1 to
            86,400, None for no pings; default 300. That is what every gRPC server permits (gRFC A8): one that is asked more often
            while it sends nothing closes the connection with "too_many_pings". Where the server permits it, as `server_options`
            does, 30 finds a server that hangs ten times sooner. On Linux any value makes the kernel give up a connection whose
            bytes nobody has acknowledged for `keepalive_timeout_s` (gRFC A18): a host that has vanished is found by the next call.
        keepalive_timeout_s: seconds in which a ping must be answered, or the connection is given up and its calls fail with
            UNAVAILABLE; 0.1 to 3,600; default 20 (gRFC A8).
        keepalive_without_calls: ping also while no call is in flight; default False (gRFC A8). Servers must permit it.
        idle_s: seconds without a call after which the connection is closed, until the next one; 1 to 604,800, None for never;
            default 1,800, which is gRPC's.
        reconnect_initial_s: seconds before the second attempt to connect; 0.01 to 3,600; default 1, as gRPC has it. It grows by 1.6
            with each attempt.
        reconnect_max_s: the most it grows to; 0.01 to 3,600; default 10. gRPC's own 120 is longer than a breaker stays open (30 s),
            whose probes then fail without a try: a channel that waits refuses calls at once.
        max_receive_bytes: the largest message that is taken, None for no limit; default 4 MiB, which is gRPC's. A larger one fails
            with RESOURCE_EXHAUSTED.
        max_send_bytes: the largest message that is sent; default None, as gRPC has it: the other side knows what it takes.
        wait_for_ready: whether a call waits, within its deadline, for a server that cannot be reached; default False: it fails at
            once with UNAVAILABLE, as gRPC has it. A call's own `wait_for_ready=` wins.
        close_grace_s: seconds that `close()` gives the calls in flight; 0 to 86,400; default 5.

    Raises:
        ValueError: a setting is out of range, or `reconnect_initial_s` is above `reconnect_max_s`.
    """

    keepalive_s: float | None = _setting(300.0, "seconds", 0.1, DAY_S, optional=True)
    keepalive_timeout_s: float = _setting(20.0, "seconds", 0.1, 3600)
    keepalive_without_calls: bool = False
    idle_s: float | None = _setting(1800.0, "seconds", 1, 7 * DAY_S, optional=True)
    reconnect_initial_s: float = _setting(1.0, "seconds", 0.01, 3600)
    reconnect_max_s: float = _setting(10.0, "seconds", 0.01, 3600)
    max_receive_bytes: int | None = _setting(4 * MEBIBYTE, "bytes", 0, MAX_INT, optional=True)
    max_send_bytes: int | None = _setting(None, "bytes", 0, MAX_INT, optional=True)
    wait_for_ready: bool = False
    close_grace_s: float = _setting(5.0, "seconds", 0, DAY_S)

    def __post_init__(self) -> None:
        _check(self)
        if self.reconnect_initial_s > self.reconnect_max_s:
            raise ValueError(
                f"ChannelSettings.reconnect_initial_s: must be at most reconnect_max_s ({self.reconnect_max_s:g}), "
                f"got {self.reconnect_initial_s:g}"
            )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of a server's connections.

    Args:
        keepalive_s: seconds without a byte from a client before a ping asks whether it lives, also while it has no call; 0.1 to
            86,400, None for no pings; default 60. gRPC's own two hours (gRFC A9) would keep a stream to a client that has vanished,
            and the permits that it holds, for as long.
        keepalive_timeout_s: seconds in which the ping must be answered, or the connection is closed; default 20 (gRFC A9).
        min_ping_interval_s: how often a client may ping while nothing is sent to it, in seconds, also between calls; 0 to 86,400;
            default 10, the least that gRFC A8 lets clients ask. gRPC's own 300 closes connections of clients with shorter pings.
        max_connection_age_s: seconds after which clients are asked to connect anew, so that a balancer of connections finds new
            servers; calls in flight go on; 0.1 to 604,800, None for never; default 1,800. gRPC varies it by 10 % and sends calls
            that the server has not begun over the new connection (gRFC A9).
        max_connection_age_grace_s: seconds after which calls that are then still in flight are cut; default None, never (gRFC A9).
        max_connection_idle_s: seconds without a call after which the connection is closed; 0.1 to 604,800, None for never;
            default 900: half of what clients keep theirs, so that it is the server which decides how many it holds.
        max_receive_bytes: the largest message that is taken, None for no limit; default 4 MiB, which is gRPC's. A larger one is
            answered with RESOURCE_EXHAUSTED.
        max_send_bytes: the largest message that is sent; default None, as gRPC has it.
        share_port: whether several processes may listen on one port; default False. gRPC's own default is True: a second server
            that is started by mistake then takes half of the calls, and nobody is told. For workers that share one on purpose.

    Raises:
        ValueError: a setting is out of range.
    """

    keepalive_s: float | None = _setting(60.0, "seconds", 0.1, DAY_S, optional=True)
    keepalive_timeout_s: float = _setting(20.0, "seconds", 0.1, 3600)
    min_ping_interval_s: float = _setting(10.0, "seconds", 0, DAY_S)
    max_connection_age_s: float | None = _setting(1800.0, "seconds", 0.1, 7 * DAY_S, optional=True)
    max_connection_age_grace_s: float | None = _setting(None, "seconds", 0.1, 7 * DAY_S, optional=True)
    max_connection_idle_s: float | None = _setting(900.0, "seconds", 0.1, 7 * DAY_S, optional=True)
    max_receive_bytes: int | None = _setting(4 * MEBIBYTE, "bytes", 0, MAX_INT, optional=True)
    max_send_bytes: int | None = _setting(None, "bytes", 0, MAX_INT, optional=True)
    share_port: bool = False

    def __post_init__(self) -> None:
        _check(self)


def _ms(duration_s: float | None) -> int:
    return MAX_INT if duration_s is None else math.ceil(duration_s * 1000)


def _bytes(limit: int | None) -> int:
    return NO_LIMIT if limit is None else limit


def channel_options(settings: ChannelSettings, service_config: str, options: Iterable[tuple[str, Any]] = ()) -> Options:
    """The options of a channel. `service_config` is its text; `options` are the user's own.

    Raises:
        ValueError: one of `options` is set here already, or would get round a rule.
    """
    made = {
        "grpc.keepalive_time_ms": (_ms(settings.keepalive_s), "keepalive_s"),
        "grpc.keepalive_timeout_ms": (_ms(settings.keepalive_timeout_s), "keepalive_timeout_s"),
        PING_TIMEOUT: (_ms(settings.keepalive_s and settings.keepalive_timeout_s), "keepalive_timeout_s"),
        "grpc.keepalive_permit_without_calls": (int(settings.keepalive_without_calls), "keepalive_without_calls"),
        # The C core stops after two pings that no data follow, which gRFC A8 does not ask for: a long call would not be watched.
        "grpc.http2.max_pings_without_data": (0, "keepalive_s"),
        "grpc.client_idle_timeout_ms": (_ms(settings.idle_s), "idle_s"),
        "grpc.initial_reconnect_backoff_ms": (_ms(settings.reconnect_initial_s), "reconnect_initial_s"),
        "grpc.max_reconnect_backoff_ms": (_ms(settings.reconnect_max_s), "reconnect_max_s"),
        "grpc.max_receive_message_length": (_bytes(settings.max_receive_bytes), "max_receive_bytes"),
        "grpc.max_send_message_length": (_bytes(settings.max_send_bytes), "max_send_bytes"),
    }
    fixed = [("grpc.service_config", service_config), ("grpc.service_config_disable_resolution", 1)]
    return [*_with(made, options, "ChannelSettings"), *fixed]


def server_options(settings: ServerSettings | None = None, options: Iterable[tuple[str, Any]] = ()) -> Options:
    """The options of a server: `grpc.server(pool, options=server_options())`, and `grpc.aio.server` likewise.

    Args:
        settings: default `ServerSettings()`.
        options: further options of the C core, as gRPC takes them.

    Raises:
        ValueError: one of `options` is a setting already.
    """
    settings = ServerSettings() if settings is None else settings
    made = {
        "grpc.keepalive_time_ms": (_ms(settings.keepalive_s), "keepalive_s"),
        "grpc.keepalive_timeout_ms": (_ms(settings.keepalive_timeout_s), "keepalive_timeout_s"),
        PING_TIMEOUT: (_ms(settings.keepalive_s and settings.keepalive_timeout_s), "keepalive_timeout_s"),
        # On a server it is one switch for two things: clients may ping between calls, and it pings them.
        "grpc.keepalive_permit_without_calls": (1, "min_ping_interval_s"),
        "grpc.http2.max_pings_without_data": (0, "keepalive_s"),
        "grpc.http2.min_ping_interval_without_data_ms": (_ms(settings.min_ping_interval_s), "min_ping_interval_s"),
        "grpc.max_connection_age_ms": (_ms(settings.max_connection_age_s), "max_connection_age_s"),
        "grpc.max_connection_age_grace_ms": (_ms(settings.max_connection_age_grace_s), "max_connection_age_grace_s"),
        "grpc.max_connection_idle_ms": (_ms(settings.max_connection_idle_s), "max_connection_idle_s"),
        "grpc.max_receive_message_length": (_bytes(settings.max_receive_bytes), "max_receive_bytes"),
        "grpc.max_send_message_length": (_bytes(settings.max_send_bytes), "max_send_bytes"),
        "grpc.so_reuseport": (int(settings.share_port), "share_port"),
    }
    return _with(made, options, "ServerSettings")


def _with(made: Mapping[str, tuple[int, str]], options: Iterable[tuple[str, Any]], owner: str) -> Options:
    own = list(options)
    for name, _ in own:
        if name in NOT_OPTIONS:
            raise ValueError(f"options: {name!r} cannot be given: {NOT_OPTIONS[name]}")
        if name in made:
            raise ValueError(f"options: {name!r} is {owner}.{made[name][1]}: set it there")
    return [*((name, value) for name, (value, _) in made.items()), *own]
