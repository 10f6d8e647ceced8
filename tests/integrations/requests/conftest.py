"""Every test here must leave the process as it found it, and talks to a peer over real sockets."""

from __future__ import annotations

from tests.integrations.outgoing.conftest import clock, no_leaks, peer

__all__ = ["clock", "no_leaks", "peer"]
