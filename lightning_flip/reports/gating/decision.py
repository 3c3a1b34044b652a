"""The gate: limits on negative flips, decided on exact bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.gating._limits import GroupOutcome, Status, judge_groups, worst_status
from lightning_flip.reports.gating._reasons import (
    accuracy_reason,
    all_samples_reason,
    groups_reason,
    must_not_flip_reason,
)
from lightning_flip.reports.gating._tables import MARKS, evidence, flips_sentence, limits_table
from lightning_flip.reports.intervals import clopper_pearson_lower, clopper_pearson_upper
from lightning_flip.reports.text import html_report, quote
from lightning_flip.reports.update.counts import (
    FlipGroups,
    FlipRate,
    count_cells,
    flip_rates,
    flips_by_class,
    flips_by_slice,
)
from lightning_flip.reports.update.join import JoinedPredictions, Source, join_predictions

if TYPE_CHECKING:
    import pandas

__all__ = ["GateResult", "LimitOutcome", "gate"]

_EXIT_CODES: dict[Status, int] = {"pass": 0, "fail": 1, "inconclusive": 3}


@dataclasses.dataclass(frozen=True)
class LimitOutcome:
    """The decision on one limit.

    Attributes:
        name: `"max_nfr"`, `"max_nfr_per_class"`, `"max_nfr_per_slice"`, `"must_not_flip"` or `"min_old_accuracy"`.
        status: `"pass"`, `"fail"` or `"inconclusive"`.
        reason: why, in a sentence or two; labels and ids in it are shortened and free of control characters.
        limit: the rate that is accepted at most (for `min_old_accuracy`, at least); None for `must_not_flip`.
        groups: the groups that were compared with the limit: all samples, each class, or each value of each slice
            column; empty for `must_not_flip` and `min_old_accuracy`.
        watched: how many samples must not flip; None for the other limits.
        already_wrong: how many of these the old model had wrong; None for the other limits.
        flipped: ids of those that are negative flips.
        interval: the bounds of the rate that `min_old_accuracy` was decided on; None for the other limits.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "fail", "...", watched=2, already_wrong=0, flipped=("7",))
        >>> outcome.to_dict()
        {'name': 'must_not_flip', 'status': 'fail', 'reason': '...', 'watched': 2, 'already_wrong': 0, 'flipped': ['7']}
    """

    name: str
    status: Status
    reason: str
    limit: float | None = None
    groups: tuple[GroupOutcome, ...] = ()
    watched: int | None = None
    already_wrong: int | None = None
    flipped: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The outcome in the types of JSON: a rate's limit and groups, or the counts and ids of `must_not_flip`."""
        numbers: dict[str, Any] = {"name": self.name, "status": self.status, "reason": self.reason}
        if self.limit is None:
            return numbers | {
                "watched": self.watched,
                "already_wrong": self.already_wrong,
                "flipped": list(self.flipped),
            }
        if self.interval is not None:
            return numbers | {"limit": self.limit, "low": self.interval[0], "high": self.interval[1]}
        groups = [dataclasses.asdict(group) | {"rate": group.rate} for group in self.groups]
        return numbers | {"limit": self.limit, "groups": groups}


@dataclasses.dataclass(frozen=True)
class GateResult:
    """The decision on an update; `gate` returns it.

    Attributes:
        outcomes: one per limit, at least one.
        error: the chance of each of the two mistakes that each limit's bounds allow.
        samples: how many samples were compared.
        flips: how many of them are negative flips.
        left_out: how many rows joining left out, by reason (`only_old`, `only_new`, `outside_classes`, `unlabelled`),
            without zeros.
        old_name: where the old model's predictions came from.
        new_name: where the new model's predictions came from.
        rates: accuracy of the old and the new model with intervals, `old_accuracy` and `new_accuracy`; the count of the
            first is that of the samples that could flip.
        warnings: what makes the verdict doubtful, in sentences.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "pass", "...", watched=2, already_wrong=0)
        >>> result = GateResult((outcome,), 0.05, 100, 3)
        >>> result.status, result.exit_code
        ('pass', 0)
    """

    outcomes: tuple[LimitOutcome, ...]
    error: float
    samples: int
    flips: int
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    old_name: str = "old"
    new_name: str = "new"
    rates: Mapping[str, FlipRate] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """`"fail"` when any limit fails, else `"inconclusive"` when any is open, else `"pass"`."""
        return worst_status([outcome.status for outcome in self.outcomes])

    @property
    def exit_code(self) -> int:
        """Exit status of the command line: 0 pass, 1 fail, 3 inconclusive (2 is for wrong usage)."""
        return _EXIT_CODES[self.status]

    def _repr_html_(self) -> str:
        limits = limits_table((one.name, one.limit, one.status, one.reason) for one in self.outcomes)
        flips = flips_sentence(self.flips, self.samples, self.left_out)
        names = f"{quote(self.old_name)} → {quote(self.new_name)}"
        facts = evidence(self.rates, self.samples, self.warnings)
        return html_report([f"{names}: {flips}", *facts, limits], f"{MARKS[self.status]} Update gate: {self.status}")

    def to_dict(self) -> dict[str, Any]:
        """Everything in the types of JSON: lists, dicts, text, numbers and None."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "old": self.old_name,
            "new": self.new_name,
            "error": self.error,
            "samples": self.samples,
            "negative_flips": self.flips,
            "negative_flip_rate": self.flips / self.samples,
            **{name: dataclasses.asdict(rate) for name, rate in self.rates.items()},
            "could_flip": self.rates["old_accuracy"].count if self.rates else None,
            "warnings": list(self.warnings),
            "left_out": dict(self.left_out),
            "limits": [outcome.to_dict() for outcome in self.outcomes],
        }

    def to_frame(self) -> pandas.DataFrame:
        """One row for each limit and group, as a pandas table: `limit`, `status`, `group`, `flips`, `samples`, ...

        Limits without groups have one row without these numbers. Needs pandas.
        """
        import pandas

        rows: list[dict[str, Any]] = []
        for outcome in self.outcomes:
            about = {"limit": outcome.name, "status": outcome.status, "at_most": outcome.limit}
            groups = [dataclasses.asdict(group) | {"group": group.title} for group in outcome.groups]
            rows += [about | group for group in groups] or [about]
        return pandas.DataFrame(rows).drop(columns=["name", "column"], errors="ignore")


def gate(
    old: Source | JoinedPredictions,
    new: Source | None = None,
    *,
    max_nfr: float | None = None,
    max_nfr_per_class: float | None = None,
    max_nfr_per_slice: float | None = None,
    must_not_flip: Iterable[str | int] | None = None,
    min_old_accuracy: float | None = None,
    error: float = 0.05,
    **joining: Any,
) -> GateResult:
    r"""Decide whether a new model breaks too much of what the old one had right.

    A negative flip is a sample that the old model has right and the new one wrong; the negative flip rate (NFR) is
    their share of all samples (Yan et al., 2021, "Positive-Congruent Training", Eq. 2). Samples are assumed to be
    drawn independently from those the model will meet, and each limit is a claim on the rate over all of these. A limit
    passes if the exact upper bound of the rate is at most the limit, fails if the exact lower bound is over it, and
    is inconclusive otherwise; the outcome then tells how many samples would decide at the observed rate. A limit is
    inconclusive, too, where the old model is right on no sample, so that none could flip. Gating on
    exact bounds is our own; the paper reports rates alone.

    For each limit on a rate, whatever the true rates are, the chance to pass although a rate is over the limit is at
    most `error`, and so is the chance to fail although no rate is over it (`judge_groups` tells how that holds over
    many groups). Limits are not corrected for each other: to *pass* a gate of several limits is wrong with a chance of
    at most `error` still, to *fail* it with a chance of at most `error` times their number.

    Args:
        old: the old model's predictions: a table of pandas, polars or Arrow, the path of a file that `read_predictions`
            reads, or a `PredictionSet`; or both models' joined predictions.
        new: the new model's predictions; None with joined ones.
        max_nfr: the largest NFR over all samples, in [0, 1].
        max_nfr_per_class: the largest NFR among the samples of each class (the right class, not the predicted one), in
            [0, 1]. Classes without samples are not judged.
        max_nfr_per_slice: the largest NFR among the samples of each value of each slice column, in [0, 1].
        must_not_flip: ids of samples that must not be negative flips, as text or integers; a single flip fails. Ids
            that the old model had wrong cannot flip; the outcome counts them.
        min_old_accuracy: the smallest accuracy of the old model, in [0, 1], decided on exact bounds at `error`. What an
            old model has wrong cannot flip, so that a poor one, or a wrong file, passes every other limit.
        error: the chance of each mistake, between 0 and 0.5.
        joining: options of `join_predictions`, such as `slices` and `allow_partial`.

    Returns:
        The result. A limit of 0 fails at the first flip and is inconclusive without one, since no number of samples
        shows that a rate is exactly 0; `must_not_flip` is the limit for chosen samples.

    Raises:
        ValueError: if no limit is given, a limit is outside [0, 1], `error` is not between 0 and 0.5, there are no
            samples, `max_nfr_per_slice` comes without slices, or ids of `must_not_flip` are not among the samples.
        TypeError: if `must_not_flip` is one text, or holds ids of another type; if `new` is missing, or comes with
            joined predictions.
        PredictionError: if the predictions cannot be read or joined.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> right = np.zeros(500, np.int64)
        >>> ids = pa.array([str(position) for position in range(500)])
        >>> joined = JoinedPredictions(ids, labels=(0, 1), target=right, old_pred=right, new_pred=right)
        >>> result = gate(joined, max_nfr=0.01, max_nfr_per_class=0.005, must_not_flip=["3", "7"])
        >>> [outcome.status for outcome in result.outcomes], result.status, result.exit_code
        (['pass', 'inconclusive', 'pass'], 'inconclusive', 3)
        >>> print(result.outcomes[1].reason)
        Too few samples to decide on 1 of 1 class at a limit of 0.5%: 0 (0 of 500, needs about 598).

        Tables need no joining:

        >>> table = pa.table({"sample_id": ids, "target": right, "pred": right})
        >>> gate(table, table, max_nfr=0.01).status
        'pass'
    """
    joined = _joined(old, new, joining)
    limits = {"max_nfr": max_nfr, "max_nfr_per_class": max_nfr_per_class, "max_nfr_per_slice": max_nfr_per_slice}
    _check(limits | {"min_old_accuracy": min_old_accuracy}, must_not_flip, error)
    flipped = joined.negative_flips
    if not len(flipped):
        raise ValueError("joined must have at least one sample, got none.")
    outcomes = []
    if max_nfr is not None:
        counts = np.array([flipped.sum()]), np.array([len(flipped)])
        could_flip = np.array([joined.old_right.sum()])
        groups = judge_groups(["all samples"], *counts, max_nfr, error, could_flip=could_flip)
        reason = all_samples_reason(groups[0], max_nfr, error)
        outcomes.append(LimitOutcome("max_nfr", groups[0].status, reason, max_nfr, groups))
    if max_nfr_per_class is not None:
        by_class = {None: flips_by_class(joined)}
        outcomes.append(_judge("max_nfr_per_class", by_class, max_nfr_per_class, error, ("class", "classes")))
    if max_nfr_per_slice is not None:
        if not joined.slices:
            raise ValueError(
                "max_nfr_per_slice needs slices, but the predictions were joined without any. Name at least one column "
                "of the files as a slice when joining them."
            )
        by_slice = {column: flips_by_slice(joined, column) for column in joined.slices}
        outcomes.append(_judge("max_nfr_per_slice", by_slice, max_nfr_per_slice, error, ("slice", "slices")))
    if must_not_flip is not None:
        outcomes.append(_judge_watched(joined, must_not_flip, flipped))
    if min_old_accuracy is not None:
        outcomes.append(_judge_accuracy(int(joined.old_right.sum()), len(flipped), min_old_accuracy, error))
    left_out = {name: getattr(joined, name) for name in ("only_old", "only_new", "outside_classes", "unlabelled")}
    rates = flip_rates(count_cells(joined.old_right, joined.new_right), 0)
    return GateResult(
        tuple(outcomes),
        error,
        len(flipped),
        int(flipped.sum()),
        {name: count for name, count in left_out.items() if count},
        joined.old_name,
        joined.new_name,
        {name: rates[name] for name in ("old_accuracy", "new_accuracy")},
        joined.warnings,
    )


def _joined(old: Source | JoinedPredictions, new: Source | None, joining: dict[str, Any]) -> JoinedPredictions:
    if not isinstance(old, JoinedPredictions):
        if new is None:
            raise TypeError("new must be given: the new model's predictions, to be joined with the old model's.")
        return join_predictions(old, new, **joining)
    if new is not None or joining:
        extra = ["new", *joining] if new is not None else [*joining]
        raise TypeError(f"old holds both models' joined predictions, so {', '.join(extra)} cannot be given.")
    return old


def _check(limits: dict[str, float | None], must_not_flip: Iterable[str | int] | None, error: float) -> None:
    if must_not_flip is None and all(limit is None for limit in limits.values()):
        raise ValueError(f"At least one limit must be given: {', '.join(limits)} or must_not_flip; got none.")
    for name, limit in limits.items():
        if limit is not None and not 0.0 <= limit <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], a share and no percentage, got {limit}.")
    if not 0.0 < error < 0.5:
        raise ValueError(f"error must be between 0 and 0.5, got {error}.")


def _judge(
    name: str, counted: Mapping[Any, FlipGroups], limit: float, error: float, noun: tuple[str, str]
) -> LimitOutcome:
    """Compare the groups of all slice columns (or of the classes, without a column) with one limit."""
    groups = judge_groups(
        [str(group) for found in counted.values() for group in found.names],
        np.concatenate([found.cells.negative for found in counted.values()]),
        np.concatenate([found.cells.total for found in counted.values()]),
        limit,
        error,
        [column for column, found in counted.items() for _ in found.names],
        np.concatenate([found.cells.old_right for found in counted.values()]),
    )
    status = worst_status([group.status for group in groups])
    return LimitOutcome(name, status, groups_reason(groups, limit, error, noun), limit, groups)


def _judge_accuracy(right: int, samples: int, least: float, error: float) -> LimitOutcome:
    """Compare the old model's accuracy with the smallest one that is accepted."""
    low, high = (float(bound(right, samples, error)) for bound in (clopper_pearson_lower, clopper_pearson_upper))
    status: Status = "pass" if low >= least else "fail" if high < least else "inconclusive"
    reason = accuracy_reason(right, samples, least, low, high, status)
    return LimitOutcome("min_old_accuracy", status, reason, least, interval=(low, high))


def _judge_watched(
    joined: JoinedPredictions, must_not_flip: Iterable[str | int], flipped: npt.NDArray[np.bool_]
) -> LimitOutcome:
    ids = _texts(must_not_flip)
    known = pa.chunked_array([joined.ids]) if isinstance(joined.ids, pa.Array) else joined.ids
    # A text that is not Unicode (bytes of a file that could not be decoded) is not an id of a Parquet file.
    places = pc.index_in(pa.array([name if _is_unicode(name) else None for name in ids], known.type), value_set=known)
    if places.null_count:
        missing = [name for name, place in zip(ids, places.to_pylist(), strict=True) if place is None]
        left_out = joined.only_old + joined.only_new + joined.outside_classes
        raise ValueError(
            f"must_not_flip must name samples that both models predicted, but {len(missing):,} of its {len(ids):,} ids "
            f"are not among the {len(flipped):,} samples, e.g. {quote(missing[0])}."
            + (f" Joining left out {left_out:,} rows, which may be these." if left_out else "")
        )
    rows = places.to_numpy(zero_copy_only=False)
    flips = tuple(name for name, flip in zip(ids, flipped[rows], strict=True) if flip)
    wrong = int((~joined.old_right[rows]).sum())
    return LimitOutcome(
        "must_not_flip",
        "fail" if flips else "pass",
        must_not_flip_reason(flips, len(ids), wrong),
        watched=len(ids),
        already_wrong=wrong,
        flipped=flips,
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _texts(ids: Iterable[str | int]) -> list[str]:
    if isinstance(ids, str | bytes):
        raise TypeError(
            f"must_not_flip must be a list of ids, got one text: {quote(str(ids))}. Read a file's lines first."
        )
    ids = list(ids)
    for name in ids:
        if isinstance(name, bool | np.bool_) or not isinstance(name, str | int | np.integer):
            raise TypeError(
                f"must_not_flip must hold ids as text or integers, got {name!r} of type {type(name).__name__}."
            )
    texts = list(dict.fromkeys(str(name) for name in ids))
    if not texts:
        raise ValueError(
            "must_not_flip must name at least one sample, got an empty list; leave it out for no such limit."
        )
    return texts
