"""Counts what a client saw in a stretch of time, and says whether that stretch can be judged at all.

On a busy machine the client or a service stands still for a moment; what was due meanwhile is answered late and all at once.
The limits below say how much of that a count bears. They hold for steps of 2 s and for a bucket that fills in 0.2 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from examples.demo_kit.recording import Reading, Recording, Sample

_LATE_S: Final = 0.25
"""Where an answer took longer, the bucket may have stood full meanwhile, and tokens were lost that the limiter did give."""
_LATE_AT_EDGE_S: Final = 0.08
"""Where an answer took longer near an edge, it may have been admitted with the tokens of the next window: 4 at 50/s."""
_NEAR_EDGE_S: Final = 0.1
_SLICE_S: Final = 1.0
_SLICES_NEEDED: Final = 2
"""At 50/s they hold 100 requests: 5 % are 5 of them, more than may be counted on the wrong side of an edge."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `start_s` to before `end_s`."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Its length in seconds."""
        return self.end_s - self.start_s

    def holds(self, instant_s: float) -> bool:
        """Whether an instant is in it."""
        return self.start_s <= instant_s < self.end_s

    def has_near_edge(self, instant_s: float) -> bool:
        """Whether an instant is close to its start or its end, on either side."""
        return min(abs(instant_s - self.start_s), abs(instant_s - self.end_s)) <= _NEAR_EDGE_S


@dataclass(frozen=True, slots=True)
class Count:
    """What was seen in a window, or in the slices of it that were not disturbed.

    Attributes:
        length_s: for how long it was counted.
        samples: the requests that were due then.
        disturbance: why this says nothing of the limiter; empty when it does.
    """

    length_s: float
    samples: tuple[Sample, ...]
    disturbance: str = ""

    @property
    def admitted(self) -> int:
        """How many requests the limiter let through."""
        return sum(sample.admitted for sample in self.samples)

    @property
    def admitted_per_s(self) -> float:
        """The rate of admission."""
        return self.admitted / self.length_s if self.length_s > 0 else 0.0

    @property
    def sent_per_s(self) -> float:
        """The rate at which requests were sent."""
        return len(self.samples) / self.length_s if self.length_s > 0 else 0.0


def count(recording: Recording, window: Window) -> Count:
    """Count the requests that were due in `window`."""
    samples = tuple(sample for sample in recording.samples if window.holds(sample.due_s))
    return Count(window.length_s, samples, _disturbance(recording, window))


def count_slices(recording: Recording, window: Window) -> Count:
    """Count a long window by slices of a second, without the disturbed ones. With fewer than two left, it is disturbed itself."""
    number = int(window.length_s / _SLICE_S + 1e-9)
    starts_s = [window.start_s + index * _SLICE_S for index in range(number)]
    slices = [count(recording, Window(start_s, start_s + _SLICE_S)) for start_s in starts_s]
    clear = [counted for counted in slices if not counted.disturbance]
    samples = tuple(sample for counted in clear for sample in counted.samples)
    disturbance = ""
    if number < _SLICES_NEEDED:
        disturbance = f"only {window.length_s:.1f} s were seen"
    elif len(clear) < _SLICES_NEEDED:
        disturbed = next(counted.disturbance for counted in slices if counted.disturbance)
        disturbance = f"{len(slices) - len(clear)} of {len(slices)} s were disturbed: {disturbed}"
    return Count(len(clear) * _SLICE_S, samples, disturbance)


def _disturbance(recording: Recording, window: Window) -> str:
    held_back = sum(window.holds(instant_s) for instant_s in recording.held_back)
    if held_back:
        return f"the client could not send {held_back} requests"
    inside = [sample for sample in recording.samples if window.holds(sample.due_s)]
    if not inside:
        return "nothing was sent"
    near_edge = [sample for sample in recording.samples if window.has_near_edge(sample.due_s)]
    for samples, late_s, where in ((inside, _LATE_S, ""), (near_edge, _LATE_AT_EDGE_S, " at its edge")):
        slowest_s = _slowest_s(samples)
        if slowest_s > late_s:
            return f"an answer{where} took {slowest_s:.2f} s"
    return ""


def _slowest_s(samples: Sequence[Sample]) -> float:
    return max((sample.answered_s - sample.due_s for sample in samples), default=0.0)


def first_open(readings: Sequence[Reading]) -> float | None:
    """When the breaker was first heard to be open."""
    return next((reading.heard_s for reading in readings if reading.breaker == "open"), None)


def closing(readings: Sequence[Reading]) -> Window | None:
    """Between which instants the breaker closed for good: it was last not closed at the start, and closed at the end."""
    for earlier, later in zip(reversed(readings[:-1]), reversed(readings[1:]), strict=True):
        if earlier.breaker != "closed" and later.breaker == "closed":
            return Window(earlier.asked_s, later.heard_s)
    return None
