"""The targets of a run as a picture: how far each figure lies from its bound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import OUT, Report
from benchmarks.targets import Verdict

if TYPE_CHECKING:
    from benchmarks.targets import Target


def write_plot(report: Report, name: str) -> Path | None:
    """Draw it; returns where, or None where matplotlib is not there or nothing was measured."""
    try:
        import matplotlib as mpl  # noqa: PLC0415
    except ImportError:
        return None
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    bars = [(target, figure, verdict) for target, figure, verdict in reversed(report.targets) if figure]
    if not bars:
        return None
    figure_of_all, axes = pyplot.subplots(figsize=(11, 1.5 + 0.26 * len(bars)), layout="constrained")
    shares = [_share(target, figure) for target, figure, _ in bars]
    colours = ["tab:green" if verdict is Verdict.REACHED else "tab:red" for _, _, verdict in bars]
    axes.barh([f"{target.group}: {target.figure}" for target, _, _ in bars], shares, color=colours)
    for place, (share, (_, figure, _)) in enumerate(zip(shares, bars, strict=True)):
        axes.text(share, place, f" {figure:.2f}", va="center", fontsize=8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.01)
    axes.set_xlabel("figure by bound (left of the line: reached)")
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(report.kind, fontsize=9)
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.png"
    figure_of_all.savefig(path, dpi=110)
    pyplot.close(figure_of_all)
    return path


def _share(target: Target, figure: float) -> float:
    return figure / target.bound if target.at_most else target.bound / figure
