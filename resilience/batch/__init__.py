"""Many calls at once: fan out, fan in, with partial failure as a value.

from resilience.batch import BatchCaller

prices = BatchCaller("prices", pipeline=pipeline, concurrency=40, timeout_s=0.3)
results = await prices.acall(fetch_price, skus)     # on threads: prices.call(fetch_price, skus)
shown = results.values()
"""

from __future__ import annotations

from resilience.batch.adapter import Adapter, Backend, FunctionBackend
from resilience.batch.balance import Balanced
from resilience.batch.caller import BatchCaller
from resilience.batch.flight import limit_as_deadline
from resilience.batch.kinds import kind_of, kind_of_fault
from resilience.batch.plan import Progress
from resilience.batch.result import (
    BatchFailed,
    BatchStopped,
    CallCancelled,
    Err,
    Kind,
    Ok,
    PoolExhausted,
    Report,
    RequestNotMade,
    Result,
    Results,
    Settled,
)
from resilience.batch.settings import BatchSettings

__all__ = [
    "Adapter",
    "Backend",
    "Balanced",
    "BatchCaller",
    "BatchFailed",
    "BatchSettings",
    "BatchStopped",
    "CallCancelled",
    "Err",
    "FunctionBackend",
    "Kind",
    "Ok",
    "PoolExhausted",
    "Progress",
    "Report",
    "RequestNotMade",
    "Result",
    "Results",
    "Settled",
    "kind_of",
    "kind_of_fault",
    "limit_as_deadline",
]
