"""requests: outgoing requests through a pipeline."""

from __future__ import annotations

from resilience.integrations.requests.adapter import ResilienceAdapter

__all__ = ["ResilienceAdapter"]
