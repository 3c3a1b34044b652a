"""What a limit is about: what is counted among what, and how the true value behind the counts is bounded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.intervals import (
    MIN_HIT_CLUSTERS,
    binomial_p_above,
    clopper_pearson_lower,
    clopper_pearson_upper,
    design_effect_samples,
    effective_samples,
    mean_lower,
    mean_p_above,
    mean_upper,
    paired_difference_lower,
    paired_difference_p_above,
    paired_difference_upper,
    relative_nfr_lower,
    relative_nfr_p_above,
    relative_nfr_upper,
)
from lightning_flip.reports.text import quote
from lightning_flip.reports.update._scores import MOST_LOSS
from lightning_flip.reports.update.join import JoinedPredictions

__all__ = ["MEASURES", "Amounts", "Evidence", "Measure", "Shares", "Tally", "tally_groups"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What limits are decided on: the samples, and how to look at them.

    Attributes:
        joined: the predictions.
        waived: [N], negative flips that are allowed, and not counted as such.
        clusters: [N], which samples belong together, as whole numbers from 0; None for independent samples.
        design_effect: whether to use the observed variance between clusters where enough of them flipped.
        costs: cost of a negative flip by right and predicted class, as text.
        top_k: how many best classes count as right for `top_k_flips`.
    """

    joined: JoinedPredictions
    waived: Bools
    clusters: Integers | None = None
    design_effect: bool = False
    costs: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    top_k: int = 5

    @property
    def flipped(self) -> Bools:
        """[N], the negative flips that count."""
        return self.joined.negative_flips & ~self.waived

    def both(self, score: str) -> tuple[Floats, Floats]:
        """[N] of the old and of the new model, one of the joined predictions' `scores`."""
        if score not in self.joined.scores:
            raise ValueError(
                f"a limit needs the score {score!r}, but the predictions were joined without it; pass"
                f" scores=[{score!r}] to join_predictions."
            )
        return self.joined.scores[score]


class Marks(NamedTuple):
    """Which samples count: [N] each. The value is (`plus` - `minus`) / `among`."""

    plus: Bools
    among: Bools
    could: Bools
    minus: Bools | None = None


class Amounts(NamedTuple):
    """Values [N] whose mean is limited, and the smallest and the largest value possible."""

    values: Floats
    low: float
    high: float
    could: int


class Tally(Protocol):
    """Counts of G groups of samples, and what they say about the true values."""

    @property
    def count(self) -> Floats:
        """[G], the numerators."""
        ...

    @property
    def among(self) -> Floats:
        """[G], the denominators."""
        ...

    @property
    def could(self) -> Floats:
        """[G], samples that could have counted."""
        ...

    @property
    def samples(self) -> Floats:
        """[G], samples."""
        ...

    def keep(self, groups: Bools) -> Tally:
        """Some of the groups; `groups` is [G]."""
        ...

    def estimate(self) -> Floats:
        """[G], the observed values; NaN if there is nothing to count among."""
        ...

    def bounds(self, error: float) -> tuple[Floats, Floats]:
        """[G], one-sided lower and upper bounds, each wrong with a chance of at most `error`."""
        ...

    def p_above(self, limit: float) -> Floats:
        """[G], p-values against "the true value is at most `limit`"."""
        ...


@dataclasses.dataclass(frozen=True)
class Measure:
    """Something that can be limited.

    Attributes:
        seen: what was counted, a sentence's beginning with the fields `count`, `among` and `value`.
        look: finds the samples or values that count.
        scores: the scores of `join_predictions` that it needs; `k` in them stands for `Evidence.top_k`.
        side: whether the value may be this at most, or must be this at least.
        grouped: whether there are limits per class and per slice.
        share: whether values are shares of samples, shown in percent.
        bound: how the true value is bounded.
        never: why nothing could be counted, with the field `samples`.
    """

    seen: str
    look: Callable[[Evidence], Marks | Amounts]
    bound: str
    scores: tuple[str, ...] = ()
    side: Literal["most", "least"] = "most"
    grouped: bool = False
    share: bool = True
    never: str = "The old model is right on none of {samples:,} samples, so that none could flip."


def _flips(evidence: Evidence) -> Marks:
    everything = np.ones(evidence.joined.num_samples, bool)
    return Marks(evidence.flipped, everything, evidence.joined.old_right)


def _impact(evidence: Evidence) -> Marks:
    return Marks(evidence.flipped, ~evidence.joined.new_right, evidence.joined.old_right)


def _churn(evidence: Evidence) -> Marks:
    joined = evidence.joined
    everything = np.ones(joined.num_samples, bool)
    return Marks(joined.old_pred != joined.new_pred, everything, everything)


def _drop(evidence: Evidence) -> Marks:
    joined = evidence.joined
    everything = np.ones(joined.num_samples, bool)
    return Marks(joined.negative_flips, everything, joined.old_right, joined.positive_flips)


def _top_k(evidence: Evidence) -> Marks:
    old, new = (inside > 0 for inside in evidence.both(f"in_top_{evidence.top_k}"))
    return Marks(old & ~new & ~evidence.waived, np.ones(len(old), bool), old)


def _old_right(evidence: Evidence) -> Marks:
    everything = np.ones(evidence.joined.num_samples, bool)
    return Marks(evidence.joined.old_right, everything, everything)


def _costs(evidence: Evidence) -> Amounts:
    joined, flipped = evidence.joined, evidence.flipped
    code = {str(label): place for place, label in enumerate(joined.labels)}
    table = np.zeros((len(code), len(code)))
    for (right, wrong), cost in evidence.costs.items():
        if not (np.isfinite(cost) and cost >= 0):
            raise ValueError(f"costs must be numbers from 0, got {cost} for {quote(right)} -> {quote(wrong)}.")
        if right in code and wrong in code:
            table[code[right], code[wrong]] = cost
    if not table.any():
        raise ValueError(
            "costs must have a cost above 0 of two classes that the predictions have, got"
            f" {len(evidence.costs):,} pairs and none of these. Write the classes as they are in the files."
        )
    values = np.where(flipped, table[joined.target, joined.new_pred], 0.0)
    return Amounts(values, 0.0, float(table.max()), int(joined.old_right.sum()))


def _less_sure(evidence: Evidence) -> Amounts:
    old, new = evidence.both("prob_label")
    return Amounts(old - new, -1.0, 1.0, len(old))


def _more_brier(evidence: Evidence) -> Amounts:
    old, new = evidence.both("brier")
    return Amounts(new - old, -2.0, 2.0, len(old))


def _more_loss(evidence: Evidence) -> Amounts:
    old, new = evidence.both("nll")
    return Amounts(new - old, -MOST_LOSS, MOST_LOSS, len(old))


_EXACT = "exact Clopper-Pearson bounds"
_MEAN = "bounds of the mean of bounded values by betting (Waudby-Smith and Ramdas, 2024)"
_UNEVER = "There are no samples."
#: Measure -> what it is. A limit is called `max_` (`min_`) and this, and may end in `_per_class` or `_per_slice`.
MEASURES: dict[str, Measure] = {
    "nfr": Measure("{count} of {among} samples flipped ({value})", _flips, _EXACT, grouped=True),
    "nfi": Measure(
        "{count} of {among} errors of the new model are negative flips ({value})", _impact, _EXACT, grouped=True
    ),
    "churn": Measure("{count} of {among} samples changed their class ({value})", _churn, _EXACT, grouped=True),
    "accuracy_drop": Measure(
        "{count} of {among} samples became wrong, less those that became right ({value})",
        _drop,
        "Tango's score bounds (1998), whose level holds approximately",
        grouped=True,
    ),
    "top_k_flips": Measure(
        "{count} of {among} samples left the new model's best classes ({value})",
        _top_k,
        _EXACT,
        scores=("in_top_k",),
        never="No class of {samples:,} samples is among the old model's best, so that none could flip.",
    ),
    "relative_nfr": Measure(
        "{count} negative flips, where independent errors would make {among} ({value})",
        _flips,
        "a ratio of two exact bounds, each at half of the error",
    ),
    "flip_cost": Measure("flips of {among} samples cost {count} ({value} a sample)", _costs, _MEAN, share=False),
    "confidence_drop": Measure(
        "the probability of the right class fell by {value} on average over {among} samples",
        _less_sure,
        _MEAN,
        ("prob_label",),
        share=False,
        never=_UNEVER,
    ),
    "brier_increase": Measure(
        "the Brier score rose by {value} on average over {among} samples",
        _more_brier,
        _MEAN,
        ("brier",),
        share=False,
        never=_UNEVER,
    ),
    "nll_increase": Measure(
        "the negative log-likelihood rose by {value} on average over {among} samples",
        _more_loss,
        _MEAN,
        ("nll",),
        share=False,
        never=_UNEVER,
    ),
    "old_accuracy": Measure(
        "the old model is right on {count} of {among} samples ({value})",
        _old_right,
        _EXACT,
        side="least",
        never=_UNEVER,
    ),
}


def tally_groups(
    measure: str, evidence: Evidence, codes: Sequence[tuple[Integers, int]] | None = None, error: float = 0.05
) -> Tally:
    """Count what a measure is about in groups of samples.

    Args:
        measure: one of `MEASURES`.
        evidence: the samples.
        codes: group of each sample, [N], and the number of groups; for each way to group them. None: all in one group.
        error: the error of the bounds to come, which a design effect depends on.

    Returns:
        Counts of all groups, way after way.
    """
    found = MEASURES[measure].look(evidence)
    if isinstance(found, Amounts):
        return Means(found, _worth(evidence, np.ones(len(found.values), bool)))
    ways = codes or [(np.zeros(evidence.joined.num_samples, np.int64), 1)]
    if measure == "relative_nfr":
        wrong = ~evidence.joined.new_right
        worth = None if evidence.clusters is None else (_worth(evidence, wrong), _worth(evidence, found.among))
        return Relative(found, wrong, worth)
    parts = [_count(found, evidence, groups, number, error) for groups, number in ways]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return (Shares if found.minus is None else Drops)(**joined)


def _count(found: Marks, evidence: Evidence, groups: Integers, number: int, error: float) -> dict[str, Floats]:
    """Sums of each group, and how many independent samples they are worth."""

    def total(marks: Bools | None) -> Floats:
        # Without weights, for which numpy would make numbers of all marks.
        return np.bincount(groups if marks is None else groups[marks], minlength=number).astype(np.float64)

    counted = {"plus": total(found.plus), "among": total(found.among), "could": total(found.could)}
    counted |= {"samples": total(None), "effective": counted["among"]}
    if found.minus is not None:
        counted["minus"] = total(found.minus)
    if evidence.clusters is None:
        return counted
    inside = np.where(found.among, groups, -1)
    worth = effective_samples(evidence.clusters, inside, number)
    if evidence.design_effect and found.minus is None:
        observed, hit = design_effect_samples(found.plus, evidence.clusters, inside, number, error)
        worth = np.where(hit >= MIN_HIT_CLUSTERS, observed, worth)
    return counted | {"effective": worth}


def _worth(evidence: Evidence, among: Bools) -> float | None:
    """How many independent samples some of the samples are worth; None if all of them."""
    if evidence.clusters is None or not among.any():
        return None
    return float(effective_samples(evidence.clusters, np.where(among, 0, -1))[0])


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of samples, of G groups; `of` makes them of independent samples."""

    plus: Floats
    among: Floats
    could: Floats
    samples: Floats
    effective: Floats

    @classmethod
    def of(cls, count: npt.ArrayLike, among: npt.ArrayLike) -> Shares:
        """`count` of `among` samples in each group, [G]."""
        counts, totals = (np.asarray(values, np.float64) for values in (count, among))
        return cls(counts, totals, totals, totals, totals)

    @property
    def count(self) -> Floats:
        """[G], the numerators."""
        return self.plus

    def estimate(self) -> Floats:
        """Count / among."""
        return np.where(self.among > 0, self.count / np.maximum(self.among, 1), np.nan)

    def bounds(self, error: float) -> tuple[Floats, Floats]:
        """Lower and upper bounds."""
        given = (self.plus, self.among, error, self._worth())
        return np.atleast_1d(clopper_pearson_lower(*given)), np.atleast_1d(clopper_pearson_upper(*given))

    def p_above(self, limit: float) -> Floats:
        """P-values against "at most `limit`"."""
        return np.atleast_1d(binomial_p_above(self.plus, self.among, limit, self._worth()))

    def keep(self, groups: Bools) -> Shares:
        """Some of the groups."""
        kept = {field.name: getattr(self, field.name)[groups] for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **kept)

    def _worth(self) -> Floats | None:
        """Effective samples, 0 for a group with nothing to count among; None if all samples are independent."""
        return None if (self.effective == self.among).all() else self.effective


@dataclasses.dataclass(frozen=True)
class Drops(Shares):
    """Differences of two shares of the same samples."""

    minus: Floats

    @property
    def count(self) -> Floats:
        """[G], what became wrong less what became right."""
        return self.plus - self.minus

    def bounds(self, error: float) -> tuple[Floats, Floats]:
        """Lower and upper bounds."""
        given = (self.plus, self.minus, self.among, error, self._worth())
        return np.atleast_1d(paired_difference_lower(*given)), np.atleast_1d(paired_difference_upper(*given))

    def p_above(self, limit: float) -> Floats:
        """P-values against "at most `limit`"."""
        return np.atleast_1d(paired_difference_p_above(self.plus, self.minus, self.among, limit, self._worth()))


class Relative:
    """The relative negative flip rate of all samples: negative flips by those of independent errors."""

    def __init__(self, found: Marks, wrong: Bools, worth: tuple[float | None, float | None] | None) -> None:
        flips, errors, old_right, samples = (
            int(marks.sum()) for marks in (found.plus, wrong, found.could, found.among)
        )
        self._given: dict[str, Any] = {
            "negative": flips,
            "new_wrong": errors,
            "old_right": old_right,
            "total": samples,
            "effective_wrong": worth and worth[0],
            "effective": worth and worth[1],
        }
        self.count, self.among = np.array([float(flips)]), np.array([errors * old_right / samples])
        self.could, self.samples = np.array([float(old_right)]), np.array([float(samples)])

    def keep(self, groups: Bools) -> Relative:
        """All samples are one group."""
        return self

    def estimate(self) -> Floats:
        """Count / among."""
        return np.where(self.among > 0, self.count / np.where(self.among > 0, self.among, 1), np.nan)

    def bounds(self, error: float) -> tuple[Floats, Floats]:
        """Lower and upper bounds."""
        given = self._given | {"error": error}
        return np.atleast_1d(relative_nfr_lower(**given)), np.atleast_1d(relative_nfr_upper(**given))

    def p_above(self, limit: float) -> Floats:
        """P-values against "at most `limit`"."""
        return np.atleast_1d(relative_nfr_p_above(**self._given, limit=limit))


class Means:
    """The mean of a value of each sample."""

    def __init__(self, found: Amounts, effective: float | None) -> None:
        self._found, self._effective = found, effective
        samples = len(found.values)
        self.count, self.among = np.array([found.values.sum()]), np.array([float(samples)])
        self.could, self.samples = np.array([float(found.could)]), np.array([float(samples)])

    def keep(self, groups: Bools) -> Means:
        """All samples are one group."""
        return self

    def estimate(self) -> Floats:
        """Count / among."""
        mean: Floats = self.count / self.among
        return mean

    def bounds(self, error: float) -> tuple[Floats, Floats]:
        """Lower and upper bounds."""
        values, low, high, _ = self._found
        lower, upper = (bound(values, low, high, error, self._effective) for bound in (mean_lower, mean_upper))
        return np.array([lower]), np.array([upper])

    def p_above(self, limit: float) -> Floats:
        """P-values against "at most `limit`"."""
        values, low, high, _ = self._found
        if not low <= limit <= high:  # the true mean is in between
            return np.array([float(limit >= high)])
        return np.array([mean_p_above(values, limit, low, high, self._effective)])
