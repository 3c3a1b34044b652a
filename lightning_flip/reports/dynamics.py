"""What the plots and pages of a run show, as numbers: flips over the epochs, who flips, forgetting, single samples.

Of several visits of a sample within a pass, the last one counts. A sample that a pass did not see keeps its state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.stores import History, PassRows

__all__ = [
    "ClassPairs",
    "FlipTimeline",
    "Forgetting",
    "SampleCourses",
    "class_flips",
    "confused_labels",
    "flip_timeline",
    "forgetting",
    "sample_courses",
]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_UNSEEN = -1


@dataclasses.dataclass(frozen=True)
class FlipTimeline:
    """How many samples are right, and how many changed, after each of P passes; all arrays are int64 [P].

    Attributes:
        samples: the number N of samples of the split.
        epoch: epoch of the pass, from 0.
        pass_: number of the pass within its epoch.
        seen: samples that the pass saw.
        known: samples that it or an earlier pass saw.
        right: known samples that were right when they were last seen.
        ever_right: known samples that were right in this pass or an earlier one.
        to_right: samples that this pass saw right and the pass that saw them before it saw wrong.
        to_wrong: the other way round.
    """

    samples: int
    epoch: Integers
    pass_: Integers
    seen: Integers
    known: Integers
    right: Integers
    ever_right: Integers
    to_right: Integers
    to_wrong: Integers

    def to_arrow(self) -> pa.Table:
        """One row per pass, with a column for each array."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "samples"]
        return pa.table({name.rstrip("_"): getattr(self, name) for name in names})


def flip_timeline(history: History, split: str = "val", loader: int = 0) -> FlipTimeline:
    """Follow how many samples of a split are right, and how many changed, from pass to pass.

    Args:
        history: the recorded run.
        split: which split.
        loader: which of its loaders.

    Raises:
        HistoryError: if the split or loader was not recorded, or a part is damaged.

    Example:
        >>> from lightning_flip.reports.dynamics import _timeline
        >>> every = np.arange(3)
        >>> passes = [
        ...     PassRows(epoch, 0, every, np.array(pred), np.array(pred) == np.array([0, 1, 1]), {})
        ...     for epoch, pred in enumerate([[0, 1, 0], [1, 1, 0], [1, 0, 1]])
        ... ]
        >>> found = _timeline(passes, 3)
        >>> found.right.tolist(), found.ever_right.tolist(), found.to_right.tolist(), found.to_wrong.tolist()
        ([2, 1, 1], [2, 2, 3], [0, 0, 1], [0, 1, 1])
    """
    return _timeline(history.visits(split, loader), history.samples(split, loader).num_rows)


def _timeline(passes: Iterable[PassRows], count: int) -> FlipTimeline:
    """The timeline of passes over `count` samples."""
    known, right, ever = (np.zeros(count, bool) for _ in range(3))
    rows = []
    for visits in passes:
        last = visits.is_last
        where, now = visits.position[last], visits.correct[last]
        changed = known[where] & (right[where] != now)
        known[where], right[where] = True, now
        ever[where] |= now
        rows.append(
            (
                visits.epoch,
                visits.pass_,
                len(where),
                known.sum(),
                right.sum(),
                ever.sum(),
                (changed & now).sum(),
                (changed & ~now).sum(),
            )
        )
    return FlipTimeline(count, *np.array(rows, np.int64).reshape(-1, 8).T)


@dataclasses.dataclass(frozen=True)
class ClassPairs:
    """How often one class goes with another: only pairs that occur, the most frequent first, equal ones by class.

    Attributes:
        first: the class that was right, or that is the label; int64 [M].
        second: the class that was predicted, or that is suggested; int64 [M].
        count: int64 [M].

    Example:
        >>> pairs = ClassPairs.of(np.array([3, 5, 3]), np.array([5, 3, 5]))
        >>> pairs.first.tolist(), pairs.second.tolist(), pairs.count.tolist()
        ([3, 5], [5, 3], [2, 1])
        >>> classes, table = pairs.matrix()
        >>> classes.tolist(), table.tolist()
        ([3, 5], [[0, 2], [1, 0]])
    """

    first: Integers
    second: Integers
    count: Integers

    @classmethod
    def of(cls, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> ClassPairs:
        """Count pairs [V]; classes are numbers from 0."""
        width = int(max(first.max(initial=-1), second.max(initial=-1))) + 1
        pair, count = np.unique(first.astype(np.int64) * width + second, return_counts=True)
        order = np.argsort(-count, kind="stable")
        one, other = np.divmod(pair[order], max(width, 1))
        return cls(one, other, count[order].astype(np.int64))

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return int(self.count.sum())

    def matrix(self, classes: npt.NDArray[np.integer] | None = None) -> tuple[Integers, Integers]:
        """The counts as a table [K, K], rows for `first`, and the K classes that its rows and columns stand for.

        `classes` are numbers in rising order; None takes those that occur. Pairs with another class are left out.
        """
        occurring = np.unique(np.concatenate([self.first, self.second]))
        shown = occurring if classes is None else np.asarray(classes, np.int64)
        table = np.zeros((len(shown), len(shown)), np.int64)
        inside = np.isin(self.first, shown) & np.isin(self.second, shown)
        place = np.searchsorted(shown, self.first[inside]), np.searchsorted(shown, self.second[inside])
        table[place] = self.count[inside]
        return shown, table

    def to_arrow(self) -> pa.Table:
        """One row per pair."""
        return pa.table({"first": self.first, "second": self.second, "count": self.count})


def class_flips(history: History, split: str = "val", loader: int = 0) -> ClassPairs:
    """Count, over the whole run, from which right class to which wrong one samples flipped.

    A sample flips if a pass sees it wrong and the pass that saw it before it saw it right. The same sample may flip
    several times.

    Args:
        history: the recorded run.
        split: which split.
        loader: which of its loaders.

    Returns:
        `first` is the class that was right, `second` the one that was predicted instead.

    Raises:
        HistoryError: if the split or loader was not recorded, or a part is damaged.
    """
    return _flips(history.visits(split, loader), history.samples(split, loader).num_rows)


def _flips(passes: Iterable[PassRows], count: int) -> ClassPairs:
    """The flips of passes over `count` samples."""
    was = np.full(count, _UNSEEN, np.int64)  # the right class of a sample that was right when last seen
    first, second = [], []
    for visits in passes:
        last = visits.is_last
        where, pred, right = visits.position[last], visits.pred[last], visits.correct[last]
        flipped = (was[where] != _UNSEEN) & ~right
        first.append(was[where[flipped]])
        second.append(pred[flipped])
        was[where] = np.where(right, pred, _UNSEEN)
    nothing = np.zeros(0, np.int64)
    return ClassPairs.of(np.concatenate([nothing, *first]), np.concatenate([nothing, *second]))


def confused_labels(scores: pa.Table) -> ClassPairs:
    """Count the labels that are almost certainly wrong by label and suggestion.

    Args:
        scores: what `History.label_scores` gives.

    Returns:
        `first` is the label, `second` the suggestion.
    """
    surely = np.asarray(scores["is_label_issue"])
    suggestion = np.asarray(scores["predicted_label"].fill_null(_UNSEEN))
    usable = surely & (suggestion != _UNSEEN)
    label = np.asarray(scores["given_label"].fill_null(_UNSEEN))
    usable &= label != _UNSEEN
    return ClassPairs.of(label[usable], suggestion[usable])


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """How often samples were forgotten: right at a visit and wrong at the next one (Toneva et al. 2019).

    Attributes:
        events: samples by their number of forgetting events, from 0; int64 [M]. Only samples that were right once.
        never_learned: samples that were seen and never right; Toneva et al. count them as forgotten infinitely often.
        never_seen: samples without a visit.

    Example:
        >>> forgetting(pa.table({"visits": [3, 3, 3, 0], "times_right": [2, 1, 0, 0],
        ...                      "forgetting_events": [1, 0, 0, 0]}))
        Forgetting(events=array([1, 1]), never_learned=1, never_seen=1)
    """

    events: Integers
    never_learned: int
    never_seen: int

    def to_arrow(self) -> pa.Table:
        """One row per number of events."""
        return pa.table({"forgetting_events": np.arange(len(self.events)), "samples": self.events})


def forgetting(statistics: pa.Table) -> Forgetting:
    """Count samples by how often they were forgotten; `statistics` are those of `History.statistics`."""
    seen, right = np.asarray(statistics["visits"]) > 0, np.asarray(statistics["times_right"]) > 0
    events = np.asarray(statistics["forgetting_events"])
    return Forgetting(np.bincount(events[right]).astype(np.int64), int((seen & ~right).sum()), int((~seen).sum()))


@dataclasses.dataclass(frozen=True)
class SampleCourses:
    """What R samples were predicted as in each of P passes.

    Attributes:
        epoch: epoch of each pass, [P].
        pred: predicted class, int64 [R, P]; -1 where the pass did not see the sample.
        right: whether it was the label, bool [R, P].
        prob_label: probability of the label, float64 [R, P] in [0, 1]; NaN where the pass did not see the sample.
    """

    epoch: Integers
    pred: Integers
    right: Bools
    prob_label: Floats


def sample_courses(
    history: History, position: npt.NDArray[np.integer], split: str = "train", loader: int = 0
) -> SampleCourses:
    """Follow some samples through the run.

    Args:
        history: the recorded run.
        position: [R], rows of `History.samples(split, loader)`.
        split: which split.
        loader: which of its loaders.

    Raises:
        IndexError: if a position is not a row of the samples.
        HistoryError: if the split or loader was not recorded, or a part is damaged.
    """
    count = history.samples(split, loader).num_rows
    rows = np.asarray(position, np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise IndexError(f"position must lie in [0, {count}), got {rows.min()} to {rows.max()}.")
    epochs, columns = [], []
    for visits in history.visits(split, loader, measures=("prob_label",)):
        last = visits.is_last
        pred, right = np.full(count, _UNSEEN, np.int64), np.zeros(count, bool)
        prob = np.full(count, np.nan)
        where = visits.position[last]
        pred[where], right[where] = visits.pred[last], visits.correct[last]
        prob[where] = visits.measures["prob_label"][last]
        epochs.append(visits.epoch)
        columns.append((pred[rows], right[rows], prob[rows]))
    pred, right, prob = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    return SampleCourses(np.array(epochs, np.int64), pred, right, prob)
