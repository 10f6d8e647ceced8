"""Retrying."""

from resilience.layers.retry.layer import Retry, RetryState, Tries
from resilience.layers.retry.settings import RetrySettings
from resilience.layers.retry.verdict import Judge, Verdict

__all__ = ["Judge", "Retry", "RetrySettings", "RetryState", "Tries", "Verdict"]
