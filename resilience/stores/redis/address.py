"""How connections to the server are made: by redis-py, from a URL, with nothing that repeats a command by itself."""

from __future__ import annotations

import inspect
from typing import Any

from resilience.errors import ConfigError
from resilience.stores.settings import RedisStoreSettings


def sync_connections(settings: RedisStoreSettings) -> Any:
    """Makes connections that block. It is used as a factory only: lanes keep their connections themselves.

    Raises:
        ConfigError: the extra `redis` is not installed, or the URL cannot be read.
    """
    redis = _client()
    options = _options(redis.connection, redis.retry)
    options |= {"socket_timeout": settings.timeout_s, "socket_connect_timeout": settings.timeout_s / 2}
    return _from_url(redis.ConnectionPool, settings, options)


def async_connections(settings: RedisStoreSettings) -> Any:
    """The same for an event loop. The time of a trip is bounded as a whole by whoever makes it."""
    redis = _client()
    options = _options(redis.asyncio.connection, redis.asyncio.retry) | {"socket_timeout": None, "socket_connect_timeout": None}
    return _from_url(redis.asyncio.ConnectionPool, settings, options)


def _client() -> Any:
    try:
        import redis.asyncio.retry  # noqa: PLC0415  # an extra
        import redis.retry  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("store: redis needs the package redis; install resilience-middleware[redis]") from error
    return redis


def _options(connections: Any, retries: Any) -> dict[str, Any]:
    from redis.backoff import NoBackoff  # noqa: PLC0415  # an extra

    options: dict[str, Any] = {"protocol": 2, "retry": retries.Retry(NoBackoff(), 0), "health_check_interval": 0}
    # Without these a new connection tells the server its library's name, which takes two more round trips.
    can_be_silent = "driver_info" in inspect.signature(connections.AbstractConnection.__init__).parameters
    return options | dict.fromkeys(("driver_info",) if can_be_silent else ("lib_name", "lib_version"))


def _from_url(pool: Any, settings: RedisStoreSettings, options: dict[str, Any]) -> Any:
    try:
        return pool.from_url(settings.url, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"store: the redis url cannot be read: {type(error).__name__}") from None
