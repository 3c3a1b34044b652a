"""Models that do not know the same classes: the classes that both know, and each model's best among these."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores import PredictionError, PredictionSet
from lightning_flip.stores.predictions.columns import first_without_class, logit_blocks, stack_lists

__all__ = ["answer_among", "known_labels"]


def known_labels(predictions: PredictionSet) -> pa.Array:
    """The distinct labels that a model knows, int64 or string."""
    if predictions.classes is not None:
        return pa.array(predictions.classes)
    rows = predictions.rows
    seen = pa.chunked_array([*rows["target"].chunks, *rows["pred"].chunks], rows["pred"].type)
    return pc.unique(seen.drop_null())


def answer_among(
    predictions: PredictionSet, shared: pa.Array, needed: npt.NDArray[np.int64] | None = None
) -> PredictionSet:
    """Replace each prediction by the model's best class among `shared`.

    A prediction that is among them stays, as it was the best of all. The others come from the logits, or else from the
    best classes that the file lists. The confidence becomes the probability that the model gave to the class, among all
    of its classes. `needed` are the rows that matter; None means all.
    """
    rows = predictions.rows
    pred = rows["pred"]
    shared = shared.cast(pred.type)
    outside = np.flatnonzero(~np.asarray(pc.is_in(pred, value_set=shared)))
    if needed is not None:
        outside = np.intersect1d(outside, needed, assume_unique=True)
    if not len(outside):
        return predictions
    part = rows.take(pa.array(outside))
    if "logits" in rows.column_names:
        best, probability = _best_by_logits(part, predictions, shared, outside)
    elif {"top_classes", "top_probs"} <= set(rows.column_names):
        best, probability = _best_by_top_classes(part, predictions, shared, outside)
    else:
        raise PredictionError(
            f"shared_argmax=True needs the logits of {predictions.name} (or top_classes and top_probs): in"
            f" {len(outside)} of its rows the model predicts a class that the other model does not know. Record it with"
            " PredictionWriter(logits=True) and read it with read_predictions(..., scores=True), or omit"
            " shared_argmax: each model then predicts among all of its own classes."
        )
    mask = np.zeros(len(pred), bool)
    mask[outside] = True
    changed = {"pred": pc.replace_with_mask(pred.combine_chunks(), pa.array(mask), best)}
    if "confidence" in rows.column_names:
        old = rows["confidence"].combine_chunks()
        changed["confidence"] = pc.replace_with_mask(old, pa.array(mask), pa.array(probability, pa.float32()))
    for name, values in changed.items():
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return dataclasses.replace(predictions, rows=rows)


def _best_by_logits(
    rows: pa.Table, predictions: PredictionSet, shared: pa.Array, numbers: npt.NDArray[np.int64]
) -> tuple[pa.Array, npt.NDArray[np.float32]]:
    best, probability = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    outputs = None
    for start, logits in logit_blocks(rows["logits"], f"{predictions.name}, column 'logits'", numbers):
        if outputs is None:
            outputs = _outputs(predictions, logits.shape[1], shared.type)
            among = np.flatnonzero(np.asarray(pc.is_in(outputs, value_set=shared)))
            if not len(among):
                raise PredictionError(f"{predictions.name} has no logit of a class that both models know.")
        wide = logits.astype(np.float32)
        without = first_without_class(wide[:, among])
        if without is not None:
            raise PredictionError(
                f"{predictions.name}, column 'logits', row {numbers[start + without]}, counted from 0, has minus"
                " infinity for all classes that both models know, and so no prediction among them. Leave it out."
            )
        found = among[wide[:, among].argmax(1)]
        top = wide.max(1, keepdims=True)
        picked = np.take_along_axis(wide, found[:, None], 1)
        place = slice(start, start + len(wide))
        best[place] = found
        probability[place] = np.exp(picked - top)[:, 0] / np.exp(wide - top).sum(1)
    assert outputs is not None  # rows are not empty
    return outputs.take(pa.array(best)), probability


def _outputs(predictions: PredictionSet, width: int, kind: pa.DataType) -> pa.Array:
    """The label of each output."""
    if predictions.classes is None:
        if pa.types.is_string(kind):
            raise PredictionError(
                f"{predictions.name} has logits but does not say the class of each, and its labels are text. Write it"
                " with write_predictions(..., classes=...), or with integer labels that are the logits' positions."
            )
        return pa.array(np.arange(width))
    if len(predictions.classes) != width:
        raise PredictionError(
            f"{predictions.name} names {len(predictions.classes)} classes but has {width} logits per row."
        )
    return pa.array(predictions.classes).cast(kind)


def _best_by_top_classes(
    rows: pa.Table, predictions: PredictionSet, shared: pa.Array, numbers: npt.NDArray[np.int64]
) -> tuple[pa.Array, npt.NDArray[np.float32]]:
    where = f"{predictions.name}, column"
    classes, width = stack_lists(rows["top_classes"], f"{where} 'top_classes'")
    probs, _ = stack_lists(rows["top_probs"], f"{where} 'top_probs'")
    if len(probs) != len(classes):
        raise PredictionError(f"{predictions.name} must have as many top_probs per row as top_classes.")
    chosen = np.asarray(probs.cast(pa.float32())).reshape(-1, width).copy()
    without = first_without_class(chosen)
    if without is not None:
        raise PredictionError(
            f"{where} 'top_probs', must hold probabilities, but row {numbers[without]}, counted from 0, has NaN in it."
            " Such a row has no prediction: leave it out, or write it again."
        )
    chosen[~np.asarray(pc.is_in(classes.cast(shared.type), value_set=shared)).reshape(-1, width)] = -1
    place = chosen.argmax(1)
    probability = np.take_along_axis(chosen, place[:, None], 1)[:, 0]
    nowhere = int((probability < 0).sum())
    if nowhere:
        raise PredictionError(
            f"shared_argmax=True needs more than the {width} top classes per row of {predictions.name}: in {nowhere}"
            " rows none of them is known to both models. Record it with PredictionWriter(logits=True), or a larger"
            " top_k."
        )
    return classes.take(pa.array(place + width * np.arange(len(place)))).cast(shared.type), probability
