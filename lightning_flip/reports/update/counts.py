"""What an update flips: counts, rates with intervals, groups of samples, and the worst flips."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.intervals import bootstrap_interval, wilson_interval
from lightning_flip.reports.runs._rates import expected_calibration_error
from lightning_flip.reports.update.join import JoinedPredictions

__all__ = [
    "PROPORTIONS",
    "CalibrationErrors",
    "FlipCells",
    "FlipGroups",
    "FlipMatrix",
    "FlipRate",
    "WorstFlip",
    "WorstFlips",
    "calibration_errors",
    "count_cells",
    "flip_matrix",
    "flip_rates",
    "flips_by_class",
    "flips_by_slice",
    "share",
    "worst_flips",
]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Label = int | str

# Rate -> (what is counted, among what, the rate if there is nothing to count among).
PROPORTIONS: dict[str, tuple[str, str, float]] = {
    "old_accuracy": ("old_right", "total", 0.0),
    "new_accuracy": ("new_right", "total", 0.0),
    "old_error": ("old_wrong", "total", 0.0),
    "new_error": ("new_wrong", "total", 0.0),
    "negative_flip_rate": ("negative", "total", 0.0),
    "positive_flip_rate": ("positive", "total", 0.0),
    "negative_flip_impact": ("negative", "new_wrong", 0.0),
    "positive_flip_impact": ("positive", "old_wrong", 0.0),
    "trust_score": ("both_right", "old_right", 1.0),
    "error_compatibility": ("both_wrong", "old_wrong", 1.0),
}


class FlipCells(NamedTuple):
    """How often two models are right and wrong together: four counts that add up to the number of samples.

    Attributes:
        both_right: [...], samples that both models classify correctly; int64, one count per group of samples.
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
        """One of `PROPORTIONS`, [...] in [0, 1]; with nothing to count among, its last entry there."""
        count, among, empty = PROPORTIONS[name]
        return _divide(getattr(self, count), getattr(self, among), empty)

    def relative_negative_flip_rate(self) -> Floats:
        r"""Negative flips relative to those of two models with independent errors, [...], at least 0.

        :math:`NFR / ((1 - ER_{old}) ER_{new})`, as in "Positive-Congruent Training"; 0 if the denominator is 0, since
        there can be no negative flip then.
        """
        # The rates' common denominators cancel. Floats, since products of counts may leave int64.
        independent = self.old_right.astype(np.float64) * self.new_wrong
        return _divide(self.negative * self.total.astype(np.float64), independent)


@dataclasses.dataclass(frozen=True)
class FlipRate:
    """A rate with its interval.

    Attributes:
        value: the rate.
        low: lower end of the interval; None if the samples say nothing about the rate.
        high: upper end of it.
        count: how many samples have the property; None for a ratio that is not a share of samples.
        among: the number of samples that they are counted among, the rate's own denominator.
    """

    value: float
    low: float | None
    high: float | None
    count: int | None = None
    among: int | None = None


@dataclasses.dataclass(frozen=True)
class CalibrationErrors:
    """Expected calibration errors of both models, in [0, 1].

    Each estimate is biased upward, the more so the fewer samples there are, so that their difference is not one of the
    models alone.

    Attributes:
        old: that of the old model.
        new: that of the new model.
        n_bins: the number of bins of equal width.
        samples: how many samples have both confidences.
    """

    old: float
    new: float
    n_bins: int
    samples: int


@dataclasses.dataclass(frozen=True)
class FlipGroups:
    """Accuracies and flips of groups of samples: of classes, or of the values of a slice column.

    Attributes:
        names: the G groups, sorted: labels, or values of a slice column. Each has at least one sample.
        cells: counts of shape [G].
        low: [G], lower end of Wilson's interval of the negative flip rate among the group's samples.
        high: [G], upper end.
    """

    names: tuple[Label, ...]
    cells: FlipCells
    low: Floats
    high: Floats

    def worst_first(self) -> Integers:
        """[G], positions of the groups from the highest lower end down; then more flips, then fewer samples first.

        By the lower end of the interval rather than the rate, so that a group of a few samples does not come first by
        chance.
        """
        return np.lexsort((np.arange(len(self.names)), self.cells.total, -self.cells.negative, -self.low))

    def to_list(self) -> list[dict[str, Label | float]]:
        """One dict per group, in the order of `names`."""
        rates = {name: self.cells.rate(name) for name in ("old_accuracy", "new_accuracy", "negative_flip_rate")}
        columns = {
            "samples": self.cells.total,
            **rates,
            "negative_flip_rate_low": self.low,
            "negative_flip_rate_high": self.high,
            "negative_flips": self.cells.negative,
            "positive_flips": self.cells.positive,
        }
        rows = zip(self.names, *(column.tolist() for column in columns.values()), strict=True)
        return [dict(zip(("name", *columns), row, strict=True)) for row in rows]


@dataclasses.dataclass(frozen=True)
class FlipMatrix:
    """From which class to which class negative flips went: the entries of the matrix that are not 0.

    Attributes:
        labels: the K labels behind the codes.
        right: [P], code of the right class, which the old model predicted.
        wrong: [P], code of the class that the new model predicts instead.
        flips: [P], number of samples, at least 1; descending, equal ones by right and by wrong class.
    """

    labels: tuple[Label, ...]
    right: Integers
    wrong: Integers
    flips: Integers

    def to_list(self) -> list[dict[str, Label]]:
        """One dict per entry: `right`, `wrong` and `flips`."""
        rows = zip(self.right.tolist(), self.wrong.tolist(), self.flips.tolist(), strict=True)
        return [
            {"right": self.labels[right], "wrong": self.labels[wrong], "flips": flips} for right, wrong, flips in rows
        ]

    def dense(self) -> Integers:
        """[K, K], rows are right classes, columns wrong ones."""
        matrix = np.zeros((len(self.labels), len(self.labels)), np.int64)
        matrix[self.right, self.wrong] = self.flips
        return matrix


class WorstFlip(NamedTuple):
    """One negative flip.

    Attributes:
        sample_id: which sample.
        right: its class, which the old model predicted.
        wrong: the class that the new model predicts.
        old_confidence: probability that the old model gave to the right class; None if unknown.
        new_confidence: probability that the new model gives to the wrong class; None if unknown.
    """

    sample_id: str
    right: Label
    wrong: Label
    old_confidence: float | None
    new_confidence: float | None


@dataclasses.dataclass(frozen=True)
class WorstFlips:
    """Negative flips, worst first.

    Attributes:
        flips: the first of them.
        total: how many negative flips there are.
        order: what they are ordered by, in words.
    """

    flips: tuple[WorstFlip, ...]
    total: int
    order: str

    def to_list(self) -> list[dict[str, int | float | str | None]]:
        """One dict per flip."""
        return [flip._asdict() for flip in self.flips]


def count_cells(old_right: Bools, new_right: Bools, group: Integers | None = None, groups: int = 1) -> FlipCells:
    """Count in which of the four ways two models agree or differ; [G], or [] without `group`."""
    for name, values in (("new_right", new_right), ("group", group)):
        if values is not None and values.shape != old_right.shape:
            raise ValueError(f"{name} must have the shape of old_right, {old_right.shape}, got {values.shape}.")
    cell = 2 * (~old_right).view(np.uint8) + ~new_right
    if group is None:
        return FlipCells(*(np.int64(np.count_nonzero(cell == place)) for place in range(4)))
    cell = cell.astype(np.int64)
    return FlipCells(*np.bincount(cell * groups + group, minlength=4 * groups).reshape(4, groups))


def flip_rates(cells: FlipCells, changed: int, *, confidence: float = 0.95, seed: int = 0) -> dict[str, FlipRate]:
    """Compute every rate between two models, each with its interval.

    Shares of samples have Wilson's interval over their own denominator. The relative negative flip rate is a ratio of
    rates and has a bootstrap interval; without any negative flip each draw would be 0 and the bootstrap certain of it,
    so that the upper end is then that of the negative flip rate over the denominator as observed.

    Returns the rates of `PROPORTIONS`, of which `negative_flip_impact` is the share of the new model's errors that are
    negative flips, `positive_flip_impact` the share of the old model's errors that the new one fixes, `trust_score` the
    share of what the old model had right that the new one has right, and `error_compatibility` the share of the old
    model's errors that the new one makes, too ("An Empirical Analysis of Backward Compatibility in Machine Learning
    Systems", Srivastava et al., 2020); `relative_negative_flip_rate`; and `churn`, the share of samples whose
    prediction differs (`changed` of them).
    """
    if not int(cells.total):
        raise ValueError("cells must count at least one sample, got none; there is no rate to compute.")
    rates = {name: share(cells, name, confidence) for name in PROPORTIONS}
    rates["relative_negative_flip_rate"] = _relative(cells, rates["negative_flip_rate"], confidence, seed)
    rates["churn"] = _share(np.asarray(changed / cells.total), changed, int(cells.total), confidence)
    return rates


def share(cells: FlipCells, name: str, confidence: float = 0.95) -> FlipRate:
    """One of `PROPORTIONS` with Wilson's interval."""
    count, among, _ = PROPORTIONS[name]
    return _share(cells.rate(name), int(getattr(cells, count)), int(getattr(cells, among)), confidence)


def calibration_errors(joined: JoinedPredictions, n_bins: int = 15) -> CalibrationErrors | None:
    """Compute both calibration errors on the samples that have both confidences; None if there is none."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
    old, new = joined.old_confidence, joined.new_confidence
    if old is None or new is None:
        return None
    known = ~(np.isnan(old) | np.isnan(new))
    if not known.any():
        return None
    before, now = (
        expected_calibration_error(sure[known], right[known], n_bins)
        for sure, right in ((old, joined.old_right), (new, joined.new_right))
    )
    return CalibrationErrors(before, now, n_bins, int(known.sum()))


def flips_by_class(joined: JoinedPredictions, confidence: float = 0.95) -> FlipGroups:
    """Count flips by right class; classes without samples are left out."""
    return _by_group(joined, joined.labels, joined.target, confidence)


def flips_by_slice(joined: JoinedPredictions, column: str, confidence: float = 0.95) -> FlipGroups:
    """Count flips by the values of a slice column; the empty text stands for a missing value."""
    values, codes = joined.slice_codes(column)
    return _by_group(joined, values, codes, confidence)


def flip_matrix(joined: JoinedPredictions) -> FlipMatrix:
    """Count negative flips by right class and the class that is predicted instead, most flips first."""
    flipped = joined.negative_flips
    classes = len(joined.labels)
    pair, flips = np.unique(joined.target[flipped] * classes + joined.new_pred[flipped], return_counts=True)
    order = np.argsort(-flips, kind="stable")
    return FlipMatrix(joined.labels, pair[order] // classes, pair[order] % classes, flips[order])


def worst_flips(joined: JoinedPredictions, most: int = 20) -> WorstFlips:
    """Rank negative flips by how sure both models were.

    The score is old_confidence + new_confidence, the probability that the old model gave to the right class plus the
    one that the new model gives to the wrong class. A missing confidence counts as 0. If only one file has confidences
    the score is that one alone; if neither has, flips are ordered by sample id as text. Equal scores are ordered by
    sample id too.
    """
    if most < 0:
        raise ValueError(f"worst must be at least 0, got {most}.")
    rows = np.flatnonzero(joined.negative_flips)
    confidences = {"old_confidence": joined.old_confidence, "new_confidence": joined.new_confidence}
    known = {name: values[rows] for name, values in confidences.items() if values is not None}
    known = {name: values for name, values in known.items() if not np.isnan(values).all()}
    score = np.sum([np.nan_to_num(values, nan=0.0) for values in known.values()], axis=0) + np.zeros(len(rows))
    table = pa.table({"id": joined.ids.take(pa.array(rows)), "score": score})
    worst = np.asarray(
        pc.select_k_unstable(table, min(most, len(rows)), [("score", "descending"), ("id", "ascending")])
    ).astype(np.int64)
    flips = zip(
        table["id"].take(pa.array(worst)).to_pylist(),
        joined.target[rows[worst]].tolist(),
        joined.new_pred[rows[worst]].tolist(),
        *(_or_none(known.get(name), worst) for name in confidences),
        strict=True,
    )
    order = " + ".join(known) if known else "sample id, as no confidence is known"
    named = (
        WorstFlip(sample, joined.labels[right], joined.labels[wrong], old, new)
        for sample, right, wrong, old, new in flips
    )
    return WorstFlips(tuple(named), len(rows), order)


def _divide(count: npt.NDArray[np.generic], among: npt.NDArray[np.generic], empty: float = 0.0) -> Floats:
    """Float64 [...]; `empty` if there is nothing to divide by."""
    counts, totals = np.asarray(count, np.float64), np.asarray(among, np.float64)
    return np.where(totals == 0, empty, counts / np.where(totals == 0, 1.0, totals))


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


def _by_group(joined: JoinedPredictions, names: tuple[Label, ...], codes: Integers, confidence: float) -> FlipGroups:
    cells = count_cells(joined.old_right, joined.new_right, codes, len(names))
    there = np.flatnonzero(cells.total)
    cells = FlipCells(*(count[there] for count in cells))
    low, high = wilson_interval(cells.negative, cells.total, confidence)
    return FlipGroups(tuple(names[place] for place in there), cells, low, high)


def _or_none(confidence: Floats | None, rows: Integers) -> list[float | None]:
    if confidence is None:
        return [None] * len(rows)
    return [None if np.isnan(value) else value for value in confidence[rows].tolist()]
