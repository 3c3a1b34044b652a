"""Predictions of an old and a new model, joined sample by sample."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.update._evidence import doubts, refuse_other_data, refuse_strange_labels
from lightning_flip.reports.update._match import Match, as_arrow, match_ids
from lightning_flip.reports.update._scores import needed_columns, score_samples
from lightning_flip.reports.update._shared_classes import answer_among, known_labels
from lightning_flip.stores import PredictionError, PredictionSet, read_predictions
from lightning_flip.stores.predictions.columns import align_labels, arrow_table, as_text, shown

__all__ = ["ArrowTable", "JoinedPredictions", "Source", "as_predictions", "join_predictions"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


# A table of so many labels is small whatever the number of samples.
_FEW_LABELS = 1 << 20


class ArrowTable(Protocol):
    """A table of pandas, polars, Arrow, DuckDB or another library that speaks Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows."""
        ...


#: Predictions, the path of a file with them, or a table with the columns that `PredictionSet.from_table` names.
Source = str | os.PathLike[str] | PredictionSet | ArrowTable


@dataclasses.dataclass(frozen=True)
class JoinedPredictions:
    """Predictions of an old and a new model on the same N samples; `join_predictions` returns it.

    Attributes:
        ids: [N] text, each once, in the order of the old model's file.
        labels: the label behind each code, sorted; integers or text.
        target: [N], codes.
        old_pred: [N], codes.
        new_pred: [N], codes.
        old_confidence: [N] in [0, 1], NaN if unknown; None if the file has no confidences.
        new_confidence: the same for the new model.
        slices: [N] values as text (dtype object) by column; the empty text stands for a missing value.
        only_old: number of samples left out because only the old model's file has them.
        only_new: number of samples left out because only the new model's file has them.
        outside_classes: number of samples left out because one of the models does not know their class.
        unlabelled: number of samples left out because they have no target.
        old_name: where the old model's predictions came from.
        new_name: where the new model's predictions came from.
        old_parameters: the old model's number of parameters; None if its file does not say.
        new_parameters: the same for the new model.
        warnings: what makes the comparison doubtful, in sentences.
        scores: further numbers by name, [N] of the old and of the new model; see `join_predictions`.

    Example:
        >>> code = np.array([0, 1, 1])
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), (3, 7), code, code, np.array([1, 1, 0]))
        >>> joined.negative_flips.tolist(), joined.positive_flips.tolist()
        ([True, False, True], [False, False, False])
    """

    ids: pa.Array | pa.ChunkedArray
    labels: tuple[int | str, ...]
    target: Integers
    old_pred: Integers
    new_pred: Integers
    old_confidence: Floats | None = None
    new_confidence: Floats | None = None
    slices: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    only_old: int = 0
    only_new: int = 0
    outside_classes: int = 0
    old_name: str = "old"
    new_name: str = "new"
    old_parameters: int | None = None
    new_parameters: int | None = None
    unlabelled: int = 0
    warnings: tuple[str, ...] = ()
    scores: Mapping[str, tuple[Floats, Floats]] = dataclasses.field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.target)

    @property
    def old_right(self) -> Bools:
        """[N], whether the old model was right."""
        return np.asarray(self.old_pred == self.target)

    @property
    def new_right(self) -> Bools:
        """[N], whether the new model is right."""
        return np.asarray(self.new_pred == self.target)

    @property
    def negative_flips(self) -> Bools:
        """[N], whether the old model was right and the new one is wrong."""
        return self.old_right & ~self.new_right

    @property
    def positive_flips(self) -> Bools:
        """[N], whether the old model was wrong and the new one is right."""
        return ~self.old_right & self.new_right

    def slice_codes(self, column: str) -> tuple[tuple[str, ...], Integers]:
        """Encode a slice column.

        Args:
            column: one of `slices`.

        Returns:
            The distinct values, sorted, and the position of each sample's value among them, [N].

        Example:
            >>> code, slices = np.zeros(3, np.int64), {"camera": np.array(["b", "a", "b"], object)}
            >>> joined = JoinedPredictions(pa.array(["x", "y", "z"]), (0,), code, code, code, slices=slices)
            >>> values, codes = joined.slice_codes("camera")
            >>> values, codes.tolist()
            (('a', 'b'), [1, 0, 1])
        """
        values = pa.array(self.slices[column], pa.string())
        names = sorted(pc.unique(values).to_pylist())
        codes = pc.index_in(values, value_set=pa.array(names, pa.string()))
        return tuple(names), np.asarray(codes).astype(np.int64)


def join_predictions(
    old: Source,
    new: Source,
    *,
    allow_partial: bool = False,
    shared_classes: bool = False,
    shared_argmax: bool = False,
    slices: Sequence[str] = (),
    drop_unlabelled: bool = False,
    min_coverage: float = 0.0,
    scores: Sequence[str] = (),
) -> JoinedPredictions:
    """Join the predictions of an old and a new model by sample id.

    Args:
        old: the old model's predictions, the path of a file for `read_predictions`, or a table of pandas, polars or
            Arrow with the columns that `PredictionSet.from_table` expects.
        new: the new model's.
        allow_partial: keep the samples that both files have. Otherwise a sample that only one file has is an error.
        shared_classes: keep the samples whose target both models know: the classes that a file says its model has, else
            the labels that occur in it. Each prediction stays the model's best among all of its own classes.
        shared_argmax: with `shared_classes`, each prediction becomes the model's best among the classes that both
            know. Needs logits, or top classes that hold a shared one.
        slices: names of further columns to keep as text, from the new model's file, or from the old one's if the new
            one lacks the column.
        drop_unlabelled: leave out samples that have no target in one of the files, or in both.
        min_coverage: with `allow_partial`, the share of each file's samples, in [0, 1], that both files have to have.
        scores: what to compute for every sample from `prob_label`, `logits` or `top_classes` of both files:
            `"prob_label"`, the probability of its label; `"nll"`, the negative logarithm of that, at most -log 1e-4;
            `"brier"`, the squared distance of the probabilities from the label, from 0 to 2; `"in_top_5"` (or another
            number), 1 if its label is among the 5 best classes, else 0.

    Returns:
        The N samples, in the order of `old`.

    Raises:
        PredictionError: if a file cannot be read; an id comes twice in a file; the files disagree on the target of a
            sample; a sample that both have has no target; a file has no rows, or nothing is left; labels are integers
            in one file and text in the other; none of a file's predictions is one of its targets; files that are joined
            by position have different fingerprints; fewer samples than `min_coverage` are in both; a slice is not a
            column. The message has counts and an example.
        TypeError: if `old` or `new` is none of these.
        ValueError: if `shared_argmax` comes without `shared_classes`, or `min_coverage` without `allow_partial` or
            outside [0, 1].

    Example:
        >>> old = pa.table({"sample_id": ["a", "b", "c"], "target": [0, 1, 1], "pred": [0, 1, 0]})
        >>> new = pa.table({"sample_id": ["c", "a", "b"], "target": [1, 0, 1], "pred": [1, 0, 0]})
        >>> joined = join_predictions(PredictionSet.from_table(old, "old"), PredictionSet.from_table(new, "new"))
        >>> joined.negative_flips.tolist(), joined.positive_flips.tolist()
        ([False, True, False], [False, False, True])
    """
    if shared_argmax and not shared_classes:
        raise ValueError(
            "shared_argmax=True must come with shared_classes=True, which says among which classes to choose."
        )
    if not 0.0 <= min_coverage <= 1.0:
        raise ValueError(f"min_coverage must be in [0, 1], a share and no percentage, got {min_coverage}.")
    if min_coverage and not allow_partial:
        raise ValueError("min_coverage needs allow_partial=True; without it both files must have all samples.")
    slices = [slices] if isinstance(slices, str) else list(slices)
    columns, lists = [*slices, *needed_columns(scores)], shared_argmax or bool(scores)
    old, new = (as_predictions(source, name, columns, lists) for source, name in ((old, "old"), (new, "new")))
    sources = _slice_sources(old, new, slices)
    for predictions in (old, new):
        if not predictions.num_samples:
            raise PredictionError(
                f"{predictions.name} has 0 rows, so there is nothing to compare. Was the run cut off?"
            )
    old, new = _with_one_kind_of_label(old, new)
    refuse_other_data(old, new, allow_partial=allow_partial)
    match = match_ids(old.rows["sample_id"], new.rows["sample_id"], old.name, new.name)
    unlabelled = 0
    if drop_unlabelled:
        match, unlabelled = _without_unlabelled(match, old, new)
    _check_targets(match, old, new)
    shared, outside = None, 0
    if shared_classes:
        known = known_labels(old)
        shared = known.filter(pc.is_in(known, value_set=known_labels(new)))
        match, outside = _keep_shared(match, shared, old, new)
    if not allow_partial:
        match.refuse_partial(old.name, new.name)
    _check_coverage(match, min_coverage, old.name, new.name)
    if not match.count:
        reason = f"; {outside} samples are of classes that only one of the models knows" if outside else ""
        raise PredictionError(
            f"{old.name} ({old.num_samples} rows) and {new.name} ({new.num_samples} rows) have no sample to compare"
            f"{reason}. Are they predictions on the same data?"
        )
    if shared_argmax:
        old, new = answer_among(old, shared, match.old), answer_among(new, shared, match.new)
    labels, target, old_pred, new_pred = _encode(
        match.take_old(old.rows["target"]), match.take_old(old.rows["pred"]), match.take_new(new.rows["pred"])
    )
    refuse_strange_labels(old, new, labels, target, old_pred, new_pred)
    return JoinedPredictions(
        ids=match.take_old(old.rows["sample_id"]),
        labels=labels,
        target=target,
        old_pred=old_pred,
        new_pred=new_pred,
        old_confidence=_confidence(old, match.old),
        new_confidence=_confidence(new, match.new),
        slices={name: _slice_values(sources[name], name, match, old, new) for name in slices},
        only_old=len(match.only_old),
        only_new=len(match.only_new),
        outside_classes=outside,
        old_name=old.name,
        new_name=new.name,
        old_parameters=old.model_parameters,
        new_parameters=new.model_parameters,
        unlabelled=unlabelled,
        warnings=(*old.notes, *new.notes, *doubts(old, new, target, old_pred, new_pred)),
        scores={name: (score_samples(old, name, match.old), score_samples(new, name, match.new)) for name in scores},
    )


def as_predictions(source: Source, name: str, slices: Sequence[str], scores: bool) -> PredictionSet:
    """Read a source; `name` is that of a table, which has none."""
    if isinstance(source, PredictionSet):
        return source
    if isinstance(source, str | os.PathLike):
        return read_predictions(source, columns=slices, scores=scores)
    if hasattr(source, "__arrow_c_stream__"):
        return PredictionSet.from_table(arrow_table(source), name)
    raise TypeError(
        f"{name} must be predictions: the path of a file, a table of pandas, polars or Arrow, or a PredictionSet; got"
        f" {type(source).__name__}."
    )


def _slice_sources(old: PredictionSet, new: PredictionSet, slices: Sequence[str]) -> dict[str, str]:
    """The file that each slice comes from: "old" or "new"."""
    own = {"sample_id", "target", "pred", "confidence"}
    sources = {}
    for name in slices:
        holder = next((key for key, one in (("new", new), ("old", old)) if name in one.rows.column_names), None)
        if holder is None or name in own:
            columns = sorted({*old.columns, *new.columns} - own)
            raise PredictionError(
                f"slices must name further columns of {new.name} or {old.name}, got {name!r}; they have"
                f" {columns if columns else 'none'}."
            )
        sources[name] = holder
    return sources


def _with_one_kind_of_label(old: PredictionSet, new: PredictionSet) -> tuple[PredictionSet, PredictionSet]:
    if old.rows["pred"].type == new.rows["pred"].type:
        return old, new
    named = [(f"{one.name}, column {name!r}", one.rows[name]) for one in (old, new) for name in ("target", "pred")]
    aligned = align_labels(named)
    return _with_labels(old, *aligned[:2]), _with_labels(new, *aligned[2:])


def _with_labels(predictions: PredictionSet, target: pa.ChunkedArray, pred: pa.ChunkedArray) -> PredictionSet:
    rows, classes = predictions.rows, predictions.classes
    for name, values in (("target", target), ("pred", pred)):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    if classes is not None:
        column = pa.chunked_array([pa.array(classes)])
        wanted = (f"{predictions.name}, column 'pred'", pred.slice(0, 1))
        classes = tuple(align_labels([(f"{predictions.name}, classes", column), wanted])[0].to_pylist())
    return dataclasses.replace(predictions, rows=rows, classes=classes)


def _check_targets(match: Match, old: PredictionSet, new: PredictionSet) -> None:
    """Refuse samples of both files without a target, or with two."""
    before, after = match.take_old(old.rows["target"]), match.take_new(new.rows["target"])
    for predictions, target in ((old, before), (new, after)):
        if target.null_count:
            row = pc.index(pc.is_null(target), True).as_py()
            sample = match.take_old(match.old_ids)[row].as_py()
            raise PredictionError(
                f"{predictions.name} must have a target for every sample that is compared, but {target.null_count} of"
                f" {len(target)} have none (such as {shown(sample)}). Add the labels; or pass drop_unlabelled=True"
                " (--drop-unlabelled) to compare the other samples."
            )
    differs = pc.not_equal(before, after)
    count = pc.sum(differs).as_py()
    if count:
        row = pc.index(differs, True).as_py()
        sample = match.take_old(match.old_ids)[row].as_py()
        raise PredictionError(
            f"{old.name} and {new.name} must agree on the target of every sample, but differ on {count} of"
            f" {len(differs)} (such as {shown(sample)}: {shown(before[row].as_py())} in the old,"
            f" {shown(after[row].as_py())} in the new). Are the ids lasting, and the labels numbered in the same way?"
        )


def _without_unlabelled(match: Match, old: PredictionSet, new: PredictionSet) -> tuple[Match, int]:
    """Drop the samples without a target in a file that has them; also returns their number."""
    before, after = old.rows["target"], new.rows["target"]
    both = pc.and_(pc.is_valid(match.take_old(before)), pc.is_valid(match.take_new(after)))
    alone = [
        pc.is_valid(target.take(as_arrow(rows))) for target, rows in ((before, match.only_old), (after, match.only_new))
    ]
    inside = [np.asarray(part) for part in (both, *alone)]
    return match.keep(*inside), sum(int((~part).sum()) for part in inside)


def _check_coverage(match: Match, least: float, old_name: str, new_name: str) -> None:
    """Refuse a comparison of too small a share of a file."""
    for rows, name in ((match.only_old, old_name), (match.only_new, new_name)):
        share = match.count / max(match.count + len(rows), 1)
        if share < least:
            raise PredictionError(
                f"{share:.1%} of the {match.count + len(rows)} samples of {name} are in both files, and min_coverage"
                f" (--min-coverage) asks for {least:.1%}. Predict the same data with both models."
            )


def _keep_shared(match: Match, shared: pa.Array, old: PredictionSet, new: PredictionSet) -> tuple[Match, int]:
    """Drop the samples whose target is not shared; also returns their number."""
    inside = [
        np.asarray(pc.is_in(target, value_set=shared))
        for target in (
            match.take_old(old.rows["target"]),
            old.rows["target"].take(as_arrow(match.only_old)),
            new.rows["target"].take(as_arrow(match.only_new)),
        )
    ]
    return match.keep(*inside), sum(int((~part).sum()) for part in inside)


def _encode(*columns: pa.ChunkedArray) -> tuple[Any, ...]:
    """The labels that occur, sorted, and each column as positions among them, [N]."""
    if pa.types.is_int64(columns[0].type):
        numbers = [np.asarray(column) for column in columns]
        low, high = min(int(column.min()) for column in numbers), max(int(column.max()) for column in numbers)
        if high - low <= max(len(numbers[0]), _FEW_LABELS):
            return _encode_numbers(numbers, low, high)
    distinct = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type))
    labels = distinct.take(pc.sort_indices(distinct))
    target, old_pred, new_pred = (
        np.asarray(pc.index_in(column, value_set=labels)).astype(np.int64) for column in columns
    )
    return tuple(labels.to_pylist()), target, old_pred, new_pred


def _encode_numbers(columns: list[Integers], low: int, high: int) -> tuple[Any, ...]:
    """The same for numbers from `low` to `high`, a table of which fits into memory."""
    shifted = [column - low if low else column for column in columns]
    occurs = np.zeros(high - low + 1, bool)
    for column in shifted:
        occurs[column] = True
    labels = tuple((np.flatnonzero(occurs) + low).tolist())
    if occurs.all():
        return labels, *shifted
    position = np.cumsum(occurs) - 1
    return labels, *(position[column] for column in shifted)


def _confidence(predictions: PredictionSet, rows: Integers | None) -> Floats | None:
    if "confidence" not in predictions.rows.column_names:
        return None
    column = predictions.rows["confidence"]
    if column.null_count == len(column):
        return None
    values = column.to_numpy()  # NaN where null
    return (values if rows is None else values[rows]).astype(np.float64)


def _slice_values(
    holder: str, name: str, match: Match, old: PredictionSet, new: PredictionSet
) -> npt.NDArray[np.object_]:
    predictions, take = (new, match.take_new) if holder == "new" else (old, match.take_old)
    text = as_text(take(predictions.rows[name]), f"{predictions.name}, column {name!r}").combine_chunks()
    encoded = text.dictionary_encode()
    values = np.array([*encoded.dictionary.to_pylist(), None], object)[:-1]  # one text object for all its samples
    return np.asarray(values[np.asarray(encoded.indices)])
