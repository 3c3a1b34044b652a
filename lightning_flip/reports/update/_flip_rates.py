"""Rates between an old and a new model over one group of samples, each with its interval."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals import bootstrap_interval, wilson_interval
from lightning_flip.reports.update._flip_cells import PROPORTIONS, FlipCells

__all__ = ["FlipRate", "flip_rates"]

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class FlipRate:
    """A rate and how far the true one may lie from it.

    Attributes:
        value: the rate.
        low: lower end of the interval; None where the samples say nothing about the rate.
        high: upper end of it.
        count: how many samples have the property; None for a ratio that is not a share of samples.
        among: the number of samples that they are counted among, the rate's own denominator.

    Example:
        >>> FlipRate(0.25, 0.05, 0.7, 1, 4).count
        1
    """

    value: float
    low: float | None
    high: float | None
    count: int | None = None
    among: int | None = None


def flip_rates(cells: FlipCells, changed: int, *, confidence: float = 0.95, seed: int = 0) -> dict[str, FlipRate]:
    """Compute every rate between two models, each with its interval.

    Shares of samples have Wilson's interval over their own denominator. The relative negative flip rate is a ratio of
    rates and has a bootstrap interval; without any negative flip each draw would be 0 and the bootstrap certain of it,
    so that the upper end is then that of the negative flip rate over the denominator as observed.

    Returns `old_accuracy`, `new_accuracy`, `old_error`, `new_error`, `negative_flip_rate`, `positive_flip_rate`,
    `relative_negative_flip_rate`, `negative_flip_impact` (share of the new model's errors that are negative flips),
    `trust_score` (share of what the old model had right that the new one has right), `churn` (share of samples whose
    prediction differs).

    Example:
        >>> rates = flip_rates(FlipCells(*np.array([60, 10, 20, 10])), changed=33)
        >>> rates["negative_flip_rate"].value, rates["negative_flip_impact"].value, rates["negative_flip_impact"].among
        (0.1, 0.5, 20)
        >>> round(rates["relative_negative_flip_rate"].value, 4)
        0.7143
    """
    if not int(cells.total):
        raise ValueError("cells must count at least one sample, got none; there is no rate to compute.")
    rates = {}
    for name, (count, among, _) in PROPORTIONS.items():
        rates[name] = _share(cells.rate(name), int(getattr(cells, count)), int(getattr(cells, among)), confidence)
    rates["relative_negative_flip_rate"] = _relative(cells, rates["negative_flip_rate"], confidence, seed)
    rates["churn"] = _share(np.asarray(changed / cells.total), changed, int(cells.total), confidence)
    return rates


def _share(value: Floats, count: int, among: int, confidence: float) -> FlipRate:
    if not among:
        return FlipRate(float(value), None, None, count, among)
    low, high = wilson_interval(count, among, confidence)
    return FlipRate(float(value), float(low), float(high), count, among)


def _relative(cells: FlipCells, negative: FlipRate, confidence: float, seed: int) -> FlipRate:
    value = float(cells.relative_negative_flip_rate())
    independent = int(cells.old_right) * int(cells.new_wrong) / int(cells.total) ** 2
    if not independent:
        return FlipRate(value, None, None)
    if not int(cells.negative) and negative.high is not None:
        return FlipRate(value, 0.0, negative.high / independent)
    draws = bootstrap_interval(
        np.array(cells),
        lambda drawn: FlipCells(*drawn.T).relative_negative_flip_rate(),
        confidence=confidence,
        seed=seed,
    )
    return FlipRate(value, *draws)
