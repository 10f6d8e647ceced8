"""The store `host`: limits and health shared by the processes of one machine, without a server."""

from resilience.stores.host.store import HostStore

__all__ = ["HostStore"]
