"""Where limiter and health state lives that several processes share."""

from resilience.stores.base import SharedStore
from resilience.stores.live import give_up, open_store
from resilience.stores.settings import HostStoreSettings, ProcessStoreSettings, RedisStoreSettings, StoreSettings

__all__ = [
    "HostStoreSettings",
    "ProcessStoreSettings",
    "RedisStoreSettings",
    "SharedStore",
    "StoreSettings",
    "give_up",
    "open_store",
]
