"""The store in Redis or Valkey, also in a cluster of them. Needs the extra `redis`."""

from resilience.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
