"""The store in Redis or Valkey. Needs the extra `redis`."""

from resilience.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
