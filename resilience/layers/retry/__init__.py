"""Retrying."""

from resilience.layers.retry.layer import Retry, RetryState, Tries
from resilience.layers.retry.on import RetryOn
from resilience.layers.retry.settings import RetrySettings
from resilience.layers.retry.verdict import Judge, Verdict, grpc_verdict, http_verdict

__all__ = ["Judge", "Retry", "RetryOn", "RetrySettings", "RetryState", "Tries", "Verdict", "grpc_verdict", "http_verdict"]
