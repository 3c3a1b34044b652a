"""Which labels look wrong: the score of every sample, the class it probably belongs to, and what is surely wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores.history._statistics import PassRows
from lightning_flip.stores.history.parts import UNKNOWN, other_probability
from lightning_flip.stores.history.samples import labels_of

__all__ = [
    "SUSPICIONS",
    "LabelScores",
    "ScoreSums",
    "Suspicion",
    "add_scores",
    "chosen_epochs",
    "rank_suspects",
    "validation_curve",
]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

Suspicion = Literal["label_score", "mislabelled", "confidence", "forgotten", "flipped"]
SUSPICIONS: tuple[Suspicion, ...] = get_args(Suspicion)
# Cells of the table [samples of a chunk, K]: 8 MB in float64.
_CELLS = 2**20
# As cleanlab's: sums in another order must not push a sample below the mean of equal ones.
_SLACK = 1e-6
# The label's averaged probability above which no label is almost certainly wrong.
_DOUBT = 0.05


def chosen_epochs(accuracy: npt.ArrayLike, nll: npt.ArrayLike) -> Bools:
    """The epochs that tell best which labels are wrong, judged on validation data.

    Early epochs know too little, and late ones of a run that memorizes its labels have learned the wrong ones. Chosen
    are those whose rank by rising accuracy plus rank by falling negative log likelihood is at least the median.

    Args:
        accuracy: validation accuracy of each epoch, [E].
        nll: mean cross entropy of each epoch, [E]; NaN counts as the worst.

    Returns:
        [E], True for at least half of the epochs. Equal values share the mean of their ranks.

    Raises:
        ValueError: if the two are not of one length.

    Example:
        The last epoch is the most accurate, but sure of its mistakes.

        >>> chosen_epochs([0.2, 0.6, 0.7, 0.71], [2.0, 1.1, 0.9, 1.6]).tolist()
        [False, False, True, True]
    """
    rising, falling = np.asarray(accuracy, np.float64), np.asarray(nll, np.float64)
    if rising.ndim != 1 or rising.shape != falling.shape:
        raise ValueError(
            f"accuracy and nll must hold one number for each epoch, [E]; got the shapes {rising.shape} and"
            f" {falling.shape}. Give both for the same epochs."
        )
    total = _ranks(rising) + _ranks(-np.where(np.isnan(falling), np.inf, falling))
    chosen: Bools = total >= np.median(total) if len(total) else np.zeros(0, bool)
    return chosen


def _ranks(values: Floats) -> Floats:
    """1 for the smallest; equal values share the mean of their places."""
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (below + upto + 1) / 2


def validation_curve(passes: Iterable[PassRows], epochs: Sequence[int]) -> tuple[Floats, Floats] | None:
    """Accuracy and mean cross entropy of the validation that each training epoch belongs to, [E] each.

    That is the first one at its end or later (a run may validate every few epochs), or the last one of all. The last
    pass within an epoch counts, and the last visit of a sample. None if no pass saw a sample. Passes have the measure
    `cross_entropy`.
    """
    measured = {}
    for rows in passes:
        last = rows.is_last
        if last.any():
            entropy = rows.measures["cross_entropy"][last]
            measured[rows.epoch] = float(rows.correct[last].mean()), float(entropy.mean())
    if not measured:
        return None
    known = np.array(sorted(measured))
    belongs = known[np.minimum(np.searchsorted(known, np.asarray(epochs)), len(known) - 1)].tolist()
    curve = np.array([measured[epoch] for epoch in belongs], np.float64).reshape(-1, 2)
    return curve[:, 0], curve[:, 1]


@dataclasses.dataclass(frozen=True)
class LabelScores:
    """How wrong the labels of N samples look, each [N]. NaN, -1 or False where no chosen epoch saw the sample.

    Attributes:
        visits: how many visits the score is made of.
        label_score: (1 + mean_prob_label - mean_prob_other) / 2, in [0, 1]: low for a label that is probably wrong.
        mean_prob_label: mean probability of the label.
        mean_prob_other: mean probability of the best other class, whichever it was.
        suggestion: the class with the largest sum of the best other class's probability; of equal ones the first. -1 if
            no visit tells one.
        mean_prob_suggestion: that sum over the number of visits.
        disagrees: whether the averaged prediction is the suggestion, not the label.
        surely_wrong: whether, of the classes whose averaged probability reaches the mean that their own samples give
            them, another one than the label is the most probable (the confident joint of Northcutt et al. 2021, off
            its diagonal), the averaged prediction disagrees, and it has at most 5% for the label.
    """

    visits: Integers
    label_score: Floats
    mean_prob_label: Floats
    mean_prob_other: Floats
    suggestion: Integers
    mean_prob_suggestion: Floats
    disagrees: Bools
    surely_wrong: Bools


class ScoreSums:
    """Sums over the visits of the epochs that count; :meth:`scores` makes the scores of them.

    A history knows the probabilities of two classes at each visit. An averaged prediction is made of these: a class
    that was neither the label nor the best other one counts 0 in that visit. Sums are exact: 12 bytes a visit are
    kept, and a table of samples and classes is made for a chunk of samples at a time.

    Args:
        target: label of each sample, [N]; -1 if unknown.

    Example:
        >>> sums = ScoreSums(np.array([0, 1]))
        >>> sums.add(PassRows(0, 0, np.array([0, 1]), np.array([0, 0]), np.array([True, False]), {
        ...     "prob_label": np.array([0.75, 0.25]), "logit_margin": np.array([np.log(3), -np.log(3)]),
        ...     "cross_entropy": np.array([np.log(4 / 3), np.log(4)]), "best_other": np.array([1.0, 0.0])}))
        >>> found = sums.scores()
        >>> found.label_score.round(3).tolist(), found.suggestion.tolist(), found.disagrees.tolist()
        ([0.75, 0.25], [1, 0], [False, True])
    """

    def __init__(self, target: npt.NDArray[np.integer]) -> None:
        self.target = np.asarray(target, np.int64)
        count = len(self.target)
        self._visits = np.zeros(count, np.int64)
        self._label, self._other = np.zeros(count), np.zeros(count)
        self._passes: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]] = []
        self._classes = int(self.target.max(initial=-1)) + 1

    def add(self, rows: PassRows) -> None:
        """Add a pass; it has the measures `prob_label`, `logit_margin`, `cross_entropy` and `best_other`."""
        where, count = rows.position, len(self.target)
        other = other_probability(rows.measures["logit_margin"], rows.measures["cross_entropy"])
        best = rows.measures["best_other"].astype(np.int32)
        self._visits += np.bincount(where, minlength=count)
        with np.errstate(invalid="ignore"):
            self._label += np.bincount(where, weights=rows.measures["prob_label"], minlength=count)
            self._other += np.bincount(where, weights=other, minlength=count)
        self._classes = max(self._classes, int(best.max(initial=-1)) + 1)
        self._passes.append((where.astype(np.int32), best, other.astype(np.float32)))

    def scores(self) -> LabelScores:
        """The scores of everything added."""
        count = len(self.target)
        seen = self._visits > 0
        divisor = np.where(seen, self._visits, np.nan)
        label, other = self._label / divisor, self._other / divisor
        threshold = self._thresholds(label)
        suggestion, average = np.full(count, UNKNOWN, np.int64), np.full(count, np.nan)
        surely = np.zeros(count, bool)
        for start, table in self._chunks():
            stop = start + len(table)
            row, target = np.arange(len(table)), self.target[start:stop]
            known = target >= 0
            table /= np.maximum(self._visits[start:stop], 1)[:, None]
            table[row[known], target[known]] = -1.0  # where labels may change, a best other class may be the label now
            best = table.argmax(axis=1)
            told = table[row, best] > 0
            suggestion[start:stop][told], average[start:stop][told] = best[told], table[row, best][told]
            table[table < threshold - _SLACK] = -1.0
            own = np.where(label[start:stop] >= threshold[target] - _SLACK, label[start:stop], 0.0)
            surely[start:stop] = table.max(axis=1) > own
        with np.errstate(invalid="ignore"):
            disagrees, hopeless = average > label, label <= _DOUBT
        return LabelScores(
            visits=self._visits,
            label_score=(1 + label - other) / 2,
            mean_prob_label=label,
            mean_prob_other=other,
            suggestion=suggestion,
            mean_prob_suggestion=average,
            disagrees=disagrees,
            surely_wrong=surely & disagrees & hopeless,
        )

    def _thresholds(self, label: Floats) -> Floats:
        """What a class's own samples give it on average, [K]; infinite for a class without samples."""
        known = (self.target >= 0) & ~np.isnan(label)
        size = max(self._classes, 1)
        members = np.bincount(self.target[known], minlength=size)
        total = np.bincount(self.target[known], weights=label[known], minlength=size)
        return np.where(members > 0, total / np.maximum(members, 1), np.inf)

    def _chunks(self) -> Iterator[tuple[int, Floats]]:
        """Sums of the best other class's probability, [samples of a chunk, K], and where each chunk starts."""
        width = max(self._classes, 1)
        rows = max(1, _CELLS // width)
        for start in range(0, len(self.target), rows):
            stop = min(start + rows, len(self.target))
            table = np.zeros((stop - start) * width)
            for where, best, other in self._passes:  # each sorted by sample
                first, last = np.searchsorted(where, [start, stop])
                told = best[first:last] >= 0
                cell = (where[first:last][told].astype(np.int64) - start) * width + best[first:last][told]
                table += np.bincount(cell, weights=other[first:last][told], minlength=len(table))
            yield start, np.nan_to_num(table).reshape(-1, width)


def add_scores(
    statistics: pa.Table, scores: LabelScores, *, class_names: Sequence[str] | None = None, paths: bool = False
) -> pa.Table:
    """The table of :meth:`History.suspects` for all samples: what cleanlab would name so first, statistics behind.

    `paths` says whether the sample ids are paths. A class without a name has none.
    """
    target, count = labels_of(statistics), statistics.num_rows
    nothing = scores.visits == 0
    untold = scores.suggestion < 0
    columns: list[tuple[str, pa.Array | pa.ChunkedArray]] = [
        ("index", statistics["index"]),
        ("sample_id", statistics["sample_id"]),
        ("path", statistics["sample_id"] if paths else pa.nulls(count, pa.string())),
        ("given_label", statistics["target"]),
        ("given_name", _named(target, class_names)),
        ("predicted_label", pa.array(scores.suggestion.astype(np.int32), mask=untold)),
        ("predicted_name", _named(scores.suggestion, class_names)),
        ("label_score", pa.array(scores.label_score, mask=nothing)),
        ("is_label_issue", pa.array(scores.surely_wrong)),
        ("disagrees", pa.array(scores.disagrees)),
        ("mean_prob_label", pa.array(scores.mean_prob_label, mask=nothing)),
        ("mean_prob_other", pa.array(scores.mean_prob_other, mask=nothing)),
        ("mean_prob_predicted", pa.array(scores.mean_prob_suggestion, mask=untold)),
        ("scored_visits", pa.array(scores.visits)),
    ]
    given = {name for name, _ in columns}
    columns += [(name, statistics[name]) for name in statistics.column_names if name not in given]
    kept = {field.name: field for field in statistics.schema}
    fields = [kept.get(name, pa.field(name, column.type)) for name, column in columns]
    return pa.table([column for _, column in columns], schema=pa.schema(fields))


def _named(label: npt.NDArray[np.integer], names: Sequence[str] | None) -> pa.Array:
    known = list(names or ())
    return pa.array([known[one] if 0 <= one < len(known) else None for one in label.tolist()], pa.string())


def rank_suspects(statistics: pa.Table, by: Suspicion) -> pa.Table:
    """The suspicious samples, the worst first, equal ones by index; see :meth:`History.suspects`."""

    def ranked(chosen: pa.ChunkedArray, *keys: tuple[str, str]) -> pa.Table:
        return statistics.filter(pc.and_(seen, chosen)).sort_by([*keys, ("index", "ascending")])

    seen, lowest_margin = pc.greater(statistics["visits"], 0), ("aum", "ascending")
    if by == "label_score":
        return ranked(pc.is_valid(statistics["label_score"]), ("label_score", "ascending"))
    if by == "mislabelled":
        return ranked(seen, lowest_margin)
    if by == "confidence":
        return ranked(seen, ("confidence", "ascending"))
    if by == "forgotten":
        never = ranked(pc.equal(statistics["times_right"], 0), lowest_margin)
        events = ("forgetting_events", "descending")
        return pa.concat_tables([never, ranked(pc.greater(statistics[events[0]], 0), events, lowest_margin)])
    flipped = pc.and_(pc.greater(statistics["times_right"], 0), pc.invert(statistics["last_right"]))
    return ranked(flipped, ("times_right", "descending"))
