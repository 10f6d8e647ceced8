"""What the code of a handler can know of the call that it serves: its time, and how well the service is."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.call import Call, Passed, enclosing_call
from resilience.layers.deadline import CurrentDeadline, deadline_us_around


@dataclass(frozen=True, slots=True)
class CurrentCall:
    """The permit under which this code runs. Read it, do not keep it: once the call is settled it says nothing of anything else."""

    _call: Call
    _pipeline: Passed

    @property
    def pipeline(self) -> str:
        """The name of the pipeline that let the call in."""
        return self._pipeline.name

    @property
    def attempt(self) -> int:
        """Which try this is, 0 for the first; tries that were made further out count."""
        return self._call.attempt

    @property
    def settled(self) -> bool:
        """Whether the call is over: its deadline is void, and its breaker has its vote."""
        return self._call.settled

    @property
    def deadline(self) -> CurrentDeadline | None:
        """By when it must be done, or None where it has no deadline."""
        deadline_us = None if self._call.settled else deadline_us_around(self._call)
        return None if deadline_us is None else CurrentDeadline(deadline_us, self._pipeline.clock)

    @property
    def health_factor(self) -> float:
        """The lowest factor of the signals that the pipeline's layers read or write: 1 when well, 0.3 in an incident by default.

        For switching off what is dear and not needed while capacity is short.
        """
        now_us = self._pipeline.clock.now_us()
        return min((signal.factor_ppb_at(now_us) for signal in self._pipeline.signals), default=10**9) / 1e9


def current_call() -> CurrentCall | None:
    """The guarded call in progress here: in a handler its request, or None where nothing is guarded.

    Within a call through an outgoing pipeline it is that one.
    """
    call = enclosing_call()
    return None if call is None or call.pipeline is None else CurrentCall(call, call.pipeline)
