"""httpx, and httpx2: outgoing requests through a pipeline."""

from __future__ import annotations

from resilience.integrations.httpx import faults as faults  # its errors cross hops from now on
from resilience.integrations.httpx.transport import AsyncResilienceTransport, ResilienceTransport

__all__ = ["AsyncResilienceTransport", "ResilienceTransport"]
