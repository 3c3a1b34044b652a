"""Figure of winning scores: histograms of the score of the predicted class.

Paper: "Pairwise label smoothing" (PLS), Fig. 5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.reports.figures._checks import as_named, check_bins, check_shares
from lightning_flip.reports.figures.canvas import BLUE, counted, panel_grid, plain_axes, titled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScoreHistogram", "plot_winning_scores", "score_histogram"]


@dataclasses.dataclass(frozen=True)
class ScoreHistogram:
    """Samples counted by the score of the predicted class; returned by :func:`score_histogram`.

    Attributes:
        edges: the ``n_bins + 1`` edges, from the lowest score shown to 1. A bin holds its lower edge, the last 1 too.
        count: samples in each bin.
        below: samples with a score under the lowest edge.

    Example:
        >>> ScoreHistogram((0.1, 0.55, 1.0), count=(3, 5), below=2).samples
        10
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    below: int

    @property
    def samples(self) -> int:
        """Number of all samples."""
        return sum(self.count) + self.below

    def table(self) -> dict[str, list[float] | list[int]]:
        """Return the columns low, high and count; the first row has the scores from 0 to the lowest edge, if any."""
        rest = [0.0] if self.edges[0] > 0 else []
        return {
            "low": [*rest, *self.edges[:-1]],
            "high": [*self.edges[: len(rest)], *self.edges[1:]],
            "count": [*[self.below][: len(rest)], *self.count],
        }


@renamed_keywords(lowest="low", bins="n_bins")
def score_histogram(scores: npt.ArrayLike, low: float = 0.1, n_bins: int = 18) -> ScoreHistogram:
    """Count samples by the score of the predicted class (Fig. 5).

    Args:
        scores: largest probability of each sample, ``[N]`` in [0, 1].
        low: lower edge of the first bin, in [0, 1); scores under it are counted together. The paper leaves out
            those under 0.1, of which all its methods have about as many.
        n_bins: bins of equal width from there to 1; their number is not in the paper.

    Raises:
        ValueError: if the shape is another one, there is no sample, a score is not a probability, ``low`` is outside
            [0, 1), or ``n_bins`` is under 1.

    Example:
        >>> score_histogram([0.05, 0.3, 0.75, 1.0], low=0.25, n_bins=3)
        ScoreHistogram(edges=(0.25, 0.5, 0.75, 1.0), count=(1, 0, 2), below=1)
    """
    if not 0 <= low < 1:
        raise ValueError(f"low must be in [0, 1), got {low}.")
    check_bins(n_bins)
    values = check_shares("scores", scores)
    edges = np.linspace(low, 1.0, n_bins + 1)
    count = np.histogram(values, edges)[0]
    return ScoreHistogram(tuple(edges.tolist()), tuple(count.tolist()), int((values < low).sum()))


def plot_winning_scores(named: ScoreHistogram | Mapping[str, ScoreHistogram]) -> Figure:
    """Draw histograms of winning scores below each other, on the same axes (PLS, Fig. 5).

    Args:
        named: a result of :func:`score_histogram`, or several by name, of the same edges.

    Raises:
        ValueError: if there is none, or the edges of several differ.

    Example:
        >>> found = score_histogram([0.05, 0.25, 0.75, 1.0])
        >>> print(plot_winning_scores({"PLS": found}).axes[0].get_title())
        PLS
        4 samples, 1 under 0.1
    """
    runs = as_named(named, ScoreHistogram)
    edges = next(iter(runs.values())).edges
    if any(found.edges != edges for found in runs.values()):
        raise ValueError("named must have the same edges; make all of them with the same low= and n_bins=.")
    width = 4.4
    titles = []
    for name, found in runs.items():
        numbers = counted(found.samples) + (f", {found.below:,} under {edges[0]:g}" if edges[0] > 0 else "")
        titles.append(titled(name, numbers, width))
    grid = panel_grid(titles, 1, (width, 1.6), margin=(0.2, 0.4), share_x=True, share_y=True)
    for (axes,), lowest, found in zip(grid.panels, grid.lowest, runs.values(), strict=True):
        axes.bar(edges[:-1], found.count, np.diff(edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
        axes.set_xlim(edges[0], 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        plain_axes(axes, x="score of the predicted class" if lowest else "", y="samples")
    return grid.figure
