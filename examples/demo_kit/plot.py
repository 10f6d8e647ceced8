"""Draws what happened: the rate that the client saw admitted and the health factor, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from examples.demo_kit.recording import Recording, Sample
from examples.demo_kit.windows import closing, first_open

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BIN_S: Final = 1.0
_SENT = "#b8bec8"
_ADMITTED = "#1f6fb4"
_FACTOR = "#c4511d"


def draw(recording: Recording, file: Path, *, title: str, rate_per_s: float, broken: str) -> None:
    """Write the plot as a PNG.

    Args:
        recording: what was written down.
        file: where the PNG goes; its folder is made.
        title: of the plot.
        rate_per_s: the configured rate, which lies at the height of factor 1.
        broken: the service that was broken and mended.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - importing it takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    rates = figure.subplots()
    factors = rates.twinx()
    _draw_rates(rates, recording)
    _draw_factor(factors, recording)
    _draw_marks(rates, recording, broken)
    top = 1.15 * max([rate_per_s, *_per_s(recording.samples, _edges(recording))])
    rates.set(xlabel="seconds", ylabel="requests a second", xlim=(0, None), ylim=(0, top), title=title)
    factors.set(ylabel="health factor", ylim=(0, top / rate_per_s))
    lines = [*rates.get_legend_handles_labels()[0], *factors.get_legend_handles_labels()[0]]
    rates.legend(handles=lines, loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _edges(recording: Recording) -> list[float]:
    last_s = max((sample.due_s for sample in recording.samples), default=0.0)
    return [number * _BIN_S for number in range(int(last_s / _BIN_S) + 1)]


def _per_s(samples: Sequence[Sample], edges: Sequence[float]) -> list[float]:
    counts = [0] * max(0, len(edges) - 1)
    for sample in samples:
        number = int(sample.due_s / _BIN_S)
        if number < len(counts):
            counts[number] += 1
    return [counted / _BIN_S for counted in counts]


def _draw_rates(axes: Axes, recording: Recording) -> None:
    edges = _edges(recording)
    admitted = [sample for sample in recording.samples if sample.admitted]
    axes.stairs(_per_s(recording.samples, edges), edges, color=_SENT, label="sent", baseline=None)
    label = "admitted by the limiter, as the client saw it"
    axes.stairs(_per_s(admitted, edges), edges, color=_ADMITTED, linewidth=1.8, label=label, baseline=None)


def _draw_factor(axes: Axes, recording: Recording) -> None:
    instants = [reading.heard_s for reading in recording.readings]
    factors = [reading.factor for reading in recording.readings]
    axes.step(instants, factors, where="post", color=_FACTOR, linewidth=1.2, label="health factor (right)")


def _draw_marks(axes: Axes, recording: Recording, broken: str) -> None:
    opened_s, close = first_open(recording.readings), closing(recording.readings)
    if opened_s is not None:
        end_s = close.end_s if close is not None else recording.readings[-1].heard_s
        axes.axvspan(opened_s, end_s, color=_FACTOR, alpha=0.1, label="breaker open or half-open")
    for name in ("broken", "mended"):
        instant_s = recording.marks.get(name)
        if instant_s is not None:
            axes.axvline(instant_s, color="0.3", linestyle=":", linewidth=1)
            top = (instant_s, 0.98)
            axes.annotate(f" {broken} {name}", top, xycoords=("data", "axes fraction"), va="top", color="0.3")
