"""Figure of a sample plan: the gate's exact power over the number of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_flip.reports.figures.canvas import GRAY, folded_text, legend_below, line_look, new_figure, plain_axes
from lightning_flip.reports.gating.planning import PlannedRate, SamplePlan

if TYPE_CHECKING:
    from lightning_flip.reports.figures._shown import ShownFigure

__all__ = ["plot_sample_plan"]

_POINTS = 3000
_WIDE = 8  # from this ratio of the numbers of samples on, the axis is logarithmic


def plot_sample_plan(plan: SamplePlan, *, width: float = 7.0) -> ShownFigure:
    """Draw the power over the number of samples, with its teeth, for each true rate of a plan.

    A ring marks the number that reaches the goal first, a dot the number from which on the power stays there.

    Args:
        plan: what `plan_samples` returned.
        width: of the figure, in inches.

    Raises:
        ValueError: if no rate of the plan has a number of samples.
        ModuleNotFoundError: if matplotlib is not installed.

    Example:
        >>> from lightning_flip.reports.gating.planning import plan_samples
        >>> figure = plot_sample_plan(plan_samples(0.01, [0.004]))
        >>> figure.axes[0].get_xlabel()
        'samples'
    """
    known = [one for one in plan.rates if one.samples is not None and one.first is not None]
    if not known:
        raise ValueError("plan must have a rate that some number of samples decides, got none; plan for other rates.")
    labels = [folded_text(_label(one), width - 0.8) for one in known]
    figure = new_figure(width, max(2.2, 0.5 * width) + 0.2 * sum(label.count("\n") + 1 for label in labels))
    from matplotlib.ticker import LogLocator, NullFormatter

    ends = [number for one in known for number in (one.first, one.samples, plan.available) if number is not None]
    wide = max(ends) > _WIDE * min(ends)
    low, high = (0.6 * min(ends), 1.5 * max(ends)) if wide else (0.0, 1.3 * max(ends))
    spaced = np.geomspace(max(low, 1), high, _POINTS) if wide else np.linspace(1, high, _POINTS)
    samples = np.unique(spaced.astype(np.int64))
    axes = figure.add_subplot()
    axes.axhline(plan.goal, color=GRAY, linewidth=1, zorder=1)
    axes.annotate(
        f"{100 * plan.goal:.3g}%", (1.01, plan.goal), xycoords=("axes fraction", "data"), va="center", fontsize="small"
    )
    if plan.available is not None:
        axes.axvline(plan.available / plan.cluster_size, color=GRAY, linewidth=1, linestyle=":", zorder=1)
    handles = []
    for place, one in enumerate(known):
        look = line_look(place)
        handles += axes.plot(samples, plan.power(samples, one.rate), color=look.color, ls=look.linestyle, linewidth=1)
        marks = np.array([one.first, one.samples])
        filled = [axes.get_facecolor(), look.color]
        axes.scatter(
            marks, plan.power(marks, one.rate), s=28, color=filled, edgecolors=look.color, zorder=3, clip_on=False
        )
    axes.set_ylim(0, 1.02)
    axes.set_xlim(low, high)
    axes.set_yticks(np.linspace(0, 1, 6), [f"{100 * share:.0f}%" for share in np.linspace(0, 1, 6)])
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter("{x:,.0f}")
    unit = "clusters" if plan.cluster_size > 1 else "samples"
    plain_axes(axes, x=f"{unit} per group" if plan.groups > 1 else unit, y=f"power (limit {100 * plan.limit:.3g}%)")
    legend_below(figure, handles, labels)
    return figure


def _label(one: PlannedRate) -> str:
    verb = "passes" if one.verdict == "pass" else "fails"
    return f"{100 * one.rate:.3g}% {verb}: first at {one.first:,}, from {one.samples:,} on"
