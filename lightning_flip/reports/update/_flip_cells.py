"""The four cells in which two models can agree or differ about the labels; every flip rate is a ratio of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PROPORTIONS", "FlipCells", "count_cells", "divide"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Rate -> (what is counted, among what, the rate where there is nothing to count among).
PROPORTIONS: dict[str, tuple[str, str, float]] = {
    "old_accuracy": ("old_right", "total", 0.0),
    "new_accuracy": ("new_right", "total", 0.0),
    "old_error": ("old_wrong", "total", 0.0),
    "new_error": ("new_wrong", "total", 0.0),
    "negative_flip_rate": ("negative", "total", 0.0),
    "positive_flip_rate": ("positive", "total", 0.0),
    "negative_flip_impact": ("negative", "new_wrong", 0.0),
    "trust_score": ("both_right", "old_right", 1.0),
}


class FlipCells(NamedTuple):
    """How often two models are right and wrong together: four counts that add up to the number of samples.

    Attributes:
        both_right: [...], samples that both models classify correctly; int64, one count a group of samples.
        negative: [...], negative flips: right before and wrong now.
        positive: [...], positive flips: wrong before and right now.
        both_wrong: [...], samples that both models classify wrongly.

    Example:
        >>> cells = FlipCells(*np.array([[6, 0], [1, 0], [2, 5], [1, 5]]))
        >>> cells.rate("negative_flip_rate").tolist(), cells.rate("trust_score").round(3).tolist()
        ([0.1, 0.0], [0.857, 1.0])
    """

    both_right: Integers
    negative: Integers
    positive: Integers
    both_wrong: Integers

    @property
    def total(self) -> Integers:
        """The number of samples."""
        return self.both_right + self.negative + self.positive + self.both_wrong

    @property
    def old_right(self) -> Integers:
        """Samples that the old model classifies correctly."""
        return self.both_right + self.negative

    @property
    def new_right(self) -> Integers:
        """Samples that the new model classifies correctly."""
        return self.both_right + self.positive

    @property
    def old_wrong(self) -> Integers:
        """Samples that the old model classifies wrongly."""
        return self.positive + self.both_wrong

    @property
    def new_wrong(self) -> Integers:
        """Samples that the new model classifies wrongly."""
        return self.negative + self.both_wrong

    def rate(self, name: str) -> Floats:
        """One of the rates that count some samples among others.

        Returns [...] in [0, 1]. Where there is nothing to count among it is 0, and 1 for the trust score: nothing can
        be lost there.
        """
        count, among, empty = PROPORTIONS[name]
        return divide(getattr(self, count), getattr(self, among), empty)

    def relative_negative_flip_rate(self) -> Floats:
        r"""Negative flips in units of those that two models with independent errors would have.

        :math:`NFR / ((1 - ER_{old}) ER_{new})`, as in "Positive-Congruent Training".

        Returns [...], at least 0; 0 where the denominator is 0, since there can be no negative flip then.
        """
        # The rates' common denominators cancel. Floats, since products of counts may leave int64.
        return divide(self.negative * self.total.astype(np.float64), self.old_right.astype(np.float64) * self.new_wrong)


def count_cells(old_right: Bools, new_right: Bools, group: Integers | None = None, groups: int = 1) -> FlipCells:
    """Count in which of the four ways two models agree or differ.

    Returns counts of shape [G]; of shape [] without `group`.

    Example:
        >>> old, new = np.array([True, True, False, False]), np.array([True, False, True, False])
        >>> [int(count) for count in count_cells(old, new)]
        [1, 1, 1, 1]
        >>> count_cells(old, new, np.array([0, 1, 1, 1]), 2).negative.tolist()
        [0, 1]
    """
    for name, values in (("new_right", new_right), ("group", group)):
        if values is not None and values.shape != old_right.shape:
            raise ValueError(f"{name} must have the shape of old_right, {old_right.shape}, got {values.shape}.")
    cell = np.where(old_right, np.where(new_right, 0, 1), np.where(new_right, 2, 3))
    if group is None:
        return FlipCells(*np.bincount(cell, minlength=4))
    return FlipCells(*np.bincount(cell * groups + group, minlength=4 * groups).reshape(4, groups))


def divide(count: npt.NDArray[np.generic], among: npt.NDArray[np.generic], empty: float = 0.0) -> Floats:
    """Divide, and say what the ratio is where there is nothing to divide by. Returns [...] float64.

    Example:
        >>> divide(np.array([1, 0]), np.array([4, 0]), empty=1.0).tolist()
        [0.25, 1.0]
    """
    counts, totals = np.asarray(count, np.float64), np.asarray(among, np.float64)
    return np.where(totals == 0, empty, counts / np.where(totals == 0, 1.0, totals))
