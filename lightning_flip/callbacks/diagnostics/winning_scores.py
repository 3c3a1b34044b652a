"""How sure a network is of what it predicts on held-out data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.callbacks.diagnostics.base import Arrays, Diagnostic
from lightning_flip.callbacks.diagnostics.finding import Finding
from lightning_flip.reports.figures.scores import plot_winning_scores, score_histogram
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_whole

__all__ = ["WinningScores"]


class WinningScores(Diagnostic):
    """Histogram of the largest softmax probability of every held-out sample (PLS, Fig. 5).

    Looks at validation passes while fitting, and at ``trainer.test``. Written to ``diagnostics/val_winning_scores.csv``
    (``epoch, low, high, count``; a first row counts the scores below ``low``, which the paper leaves out) and drawn,
    in a fit that of the last pass. Logs ``val_mean_winning_score``. Several loaders have a table and a figure each.

    Args:
        low: where the histogram begins, in [0, 1).
        n_bins: number of bins from there to 1.
        every_n_epochs: at which epochs' validation passes; None: the last one (then nothing is logged, only written).
        **kwargs: options of :class:`~lightning_flip.callbacks.Diagnostic`.

    Example:
        >>> WinningScores(n_bins=9).state_key
        "WinningScores{'train': False, 'val': True, 'name': ''}"
    """

    title = "winning_scores"
    logs = ("mean_winning_score",)
    draws_last = True

    @renamed_keywords(lowest="low", bins="n_bins")
    def __init__(self, *, low: float = 0.1, n_bins: int = 18, every_n_epochs: int | None = 1, **kwargs: Any) -> None:
        super().__init__(train=False, val=True, passes="train", mode=None, every_n_epochs=every_n_epochs, **kwargs)
        check_whole(at_least=1, n_bins=n_bins)
        if not 0 <= low < 1:
            raise ValueError(f"low must be in [0, 1); got {low}.")
        self.low = low
        self.n_bins = n_bins

    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """The largest probability."""
        return {"score": step.predictions.prob_pred}

    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding:
        """The histogram."""
        # A softmax in float32 may come out a hair above 1.
        found = score_histogram(rows["score"].clip(0.0, 1.0), low=self.low, n_bins=self.n_bins)
        mean = {"mean_winning_score": float(rows["score"].mean())}
        return Finding(found.table(), found, lambda: plot_winning_scores(found), mean)
