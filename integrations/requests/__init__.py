"""requests: outgoing requests through a pipeline."""

from __future__ import annotations

from resilience.integrations.requests import faults as faults  # its errors cross hops from now on
from resilience.integrations.requests.adapter import ResilienceAdapter

__all__ = ["ResilienceAdapter"]
