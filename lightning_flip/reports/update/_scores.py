"""What a model's scores say about each sample: the probability of its label, Brier score, loss, its best classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores import PredictionError, PredictionSet
from lightning_flip.stores.predictions.columns import logit_blocks, stack_lists

__all__ = ["MOST_LOSS", "needed_columns", "score_samples"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Probabilities below 1e-4 count as that, so that a negative log-likelihood has a largest value.
MOST_LOSS = -math.log(1e-4)


def needed_columns(scores: Sequence[str]) -> list[str]:
    """The plain columns that scores are read from, besides lists."""
    return ["prob_label"] if {"prob_label", "nll"} & {*scores} else []


def score_samples(predictions: PredictionSet, score: str, rows: Integers | None) -> Floats:
    """One score of some rows (None: of all), [N]: `prob_label`, `nll`, `brier`, or `in_top_K`, which is 0 or 1.

    Raises:
        PredictionError: if the file does not hold what the score is computed from.
    """
    if score == "nll":
        loss: Floats = -np.log(np.maximum(score_samples(predictions, "prob_label", rows), math.exp(-MOST_LOSS)))
        return loss
    names = predictions.rows.column_names
    part = predictions.rows if rows is None else predictions.rows.take(pa.array(rows))
    if score == "prob_label" and "prob_label" in names:
        values = part["prob_label"].cast(pa.float64())
        _refuse_unless(
            pc.all(pc.and_(pc.greater_equal(values, -1e-3), pc.less_equal(values, 1.001))).as_py() is True
            and not values.null_count,
            predictions,
            "prob_label must be a probability in [0, 1] in every row; write the file again, or leave the limit out",
        )
        probability: Floats = np.clip(values.to_numpy(), 0.0, 1.0)
        return probability
    if "logits" in names:
        return _from_logits(predictions, part, score, rows)
    if score.startswith("in_top_") and "top_classes" in names:
        return _from_top_classes(predictions, part, int(score.removeprefix("in_top_")))
    what = {"prob_label": "the column prob_label or logits", "brier": "logits"}.get(score, "top_classes or logits")
    raise PredictionError(
        f"{predictions.name} must have {what} for this limit, but has {', '.join(names)}. Record it with"
        " PredictionWriter(logits=True), or leave the limit out."
    )


def _from_logits(predictions: PredictionSet, part: pa.Table, score: str, rows: Integers | None) -> Floats:
    result: Floats = np.empty(len(part), np.float64)
    place = _places(predictions, part)
    for start, logits in logit_blocks(part["logits"], f"{predictions.name}, column 'logits'", rows):
        where = slice(start, start + len(logits))
        wide, label = logits.astype(np.float64), place[where, None]
        _refuse_unless(int(label.max()) < wide.shape[1], predictions, "logits must have a value for every label")
        of_label = np.take_along_axis(wide, label, 1)
        if score.startswith("in_top_"):
            # Of equal logits the first ones win, as in argmax.
            before = (wide > of_label) | ((wide == of_label) & (np.arange(wide.shape[1]) < label))
            result[where] = before.sum(1) < int(score.removeprefix("in_top_"))
            continue
        probability = np.exp(wide - wide.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        own = np.take_along_axis(probability, label, 1)[:, 0]
        result[where] = own if score == "prob_label" else (probability**2).sum(1) - 2 * own + 1
    return result


def _from_top_classes(predictions: PredictionSet, part: pa.Table, k: int) -> Floats:
    classes, width = stack_lists(part["top_classes"], f"{predictions.name}, column 'top_classes'")
    _refuse_unless(width >= k, predictions, f"top_classes must hold {k} classes or more, or pass a smaller top_k")
    target = part["target"].combine_chunks()
    own = target.take(pa.array(np.repeat(np.arange(len(part)), width)))
    hit = np.asarray(pc.equal(classes.cast(own.type), own)).reshape(-1, width)
    inside: Floats = np.asarray(hit[:, :k].any(1), np.float64)
    return inside


def _places(predictions: PredictionSet, part: pa.Table) -> Integers:
    """The output that stands for each sample's label, [N]."""
    target = part["target"]
    if predictions.classes is None:
        _refuse_unless(
            pa.types.is_integer(target.type),
            predictions,
            "the class of each logit must be known; write the file with write_predictions(..., classes=...)",
        )
        place = target
    else:
        place = pc.index_in(target, value_set=pa.array(predictions.classes).cast(target.type))
    numbers = np.asarray(pc.fill_null(place.cast(pa.int64()), -1))
    _refuse_unless(int(numbers.min()) >= 0, predictions, "every label must be one of the logits' classes")
    return numbers


def _refuse_unless(fine: bool, predictions: PredictionSet, expected: str) -> None:
    if not fine:
        raise PredictionError(f"{predictions.name} cannot give the score that a limit needs: {expected}.")
