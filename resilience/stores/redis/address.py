"""How connections to the server are made: by redis-py, from a URL, with nothing that repeats a command by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from resilience.errors import ConfigError
from resilience.stores.redis.replies import Address
from resilience.stores.settings import RedisStoreSettings, hosts_of_cluster

_SENTINEL: Final = "redis+sentinel"
_SENTINEL_PORT: Final = 26_379
_NEVER_TOO_MANY: Final = 1 << 31
"""Pools count the connections that they have ever made, and would make no more once a server has been away for long enough."""


def sync_connections(settings: RedisStoreSettings, connect_s: float, answer_s: float, address: Address | None = None) -> Any:
    """Makes connections that block. It is used as a factory only: lanes keep their connections themselves.

    `connect_s` and `answer_s` bound each step of making one. `address` is that of a node, where the URL is that of a cluster.

    Raises:
        ConfigError: the extra `redis` is not installed, or the URL cannot be read.
    """
    redis = _client()
    options = _options(redis.connection, redis.retry)
    options |= {"socket_connect_timeout": connect_s, "socket_timeout": answer_s}
    return _factory(redis.ConnectionPool, redis.sentinel, _url(settings.url, address), options)


def async_connections(settings: RedisStoreSettings, address: Address | None = None) -> Any:
    """The same for an event loop. The time of a trip is bounded as a whole by whoever makes it."""
    redis = _client()
    options = _options(redis.asyncio.connection, redis.asyncio.retry) | {"socket_timeout": None, "socket_connect_timeout": None}
    return _factory(redis.asyncio.ConnectionPool, redis.asyncio.sentinel, _url(settings.url, address), options)


def seeds(settings: RedisStoreSettings) -> tuple[Address, ...]:
    """The nodes of a cluster that its URL names; none where it is not that of a cluster."""
    return hosts_of_cluster(settings.url)


def slot_function() -> Callable[[bytes], int]:
    """Which of a cluster's 16,384 slots a key is in.

    Raises:
        ConfigError: the extra `redis` is not installed.
    """
    _client()
    from redis.crc import key_slot  # noqa: PLC0415

    found: Callable[[bytes], int] = key_slot
    return found


def _url(url: str, address: Address | None) -> str:
    """The URL of one node: that of the cluster, with the same login and options."""
    if address is None:
        return url
    parts = urlsplit(url)
    login, mark, _ = parts.netloc.rpartition("@")
    host, port = address
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return urlunsplit((parts.scheme.removesuffix("+cluster"), f"{login}{mark}{place}", "/0", parts.query, ""))


def _client() -> Any:
    try:
        import redis.asyncio.retry  # noqa: PLC0415  # an extra
        import redis.asyncio.sentinel  # noqa: PLC0415
        import redis.retry  # noqa: PLC0415
        import redis.sentinel  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("store: redis needs the package redis; install resilience-middleware[redis]") from error
    return redis


def _options(connections: Any, retries: Any) -> dict[str, Any]:
    from redis.backoff import NoBackoff  # noqa: PLC0415  # an extra

    options: dict[str, Any] = {"protocol": 2, "retry": retries.Retry(NoBackoff(), 0), "health_check_interval": 0}
    options["max_connections"] = _NEVER_TOO_MANY
    # Without these a new connection tells the server its library's name, which takes two more round trips.
    can_be_silent = "driver_info" in inspect.signature(connections.AbstractConnection.__init__).parameters
    return options | dict.fromkeys(("driver_info",) if can_be_silent else ("lib_name", "lib_version"))


def _factory(pool: Any, sentinels: Any, url: str, options: dict[str, Any]) -> Any:
    try:
        if url.startswith(f"{_SENTINEL}://"):
            return _behind_sentinels(sentinels, url, options)
        return pool.from_url(url, **options)
    except (ValueError, TypeError) as error:
        # Its text may hold the address, and that a password.
        raise ConfigError(f"store: the redis url cannot be read ({type(error).__name__})") from None


def _behind_sentinels(sentinels: Any, url: str, options: dict[str, Any]) -> Any:
    """Connections to whatever server is the master when they are made: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError("a sentinel's url names the service after the hosts")
    options = options | {"db": int(database or 0)}
    if login:
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    manager = sentinels.Sentinel([_host_and_port(host) for host in hosts.split(",")], **options)
    manager.sentinel_kwargs.pop("username", None)
    return manager.master_for(service, **options).connection_pool


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else (text.strip("[]"), _SENTINEL_PORT)
