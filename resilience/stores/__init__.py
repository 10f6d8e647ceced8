"""Where limiter and health state lives that several processes share."""

from resilience.stores.base import SharedStore
from resilience.stores.live import give_up, open_store, shared_health
from resilience.stores.settings import HostStoreSettings, RedisStoreSettings

__all__ = ["HostStoreSettings", "RedisStoreSettings", "SharedStore", "give_up", "open_store", "shared_health"]
