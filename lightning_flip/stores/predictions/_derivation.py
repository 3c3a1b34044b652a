"""The predicted class of tables that lack it, from logits, probabilities or the best classes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.predictions.columns import first_without_class, shown, stack_lists

__all__ = ["SCORES", "Derivation", "Deriver", "find_derivation"]

Floats = npt.NDArray[np.floating[Any]]
SCORES = ("logits", "top_classes", "top_probs")
_LISTS = {"logits": True, "probs": False, "probabilities": False}  # whether they are logits
_WIDE = re.compile(r"(logit|prob|proba|probability)s?_(.+)")
# What follows `prob_` in columns that hold one number per sample, and not one class's.
_SUMMARIES = {"label", "pred", "prediction", "predicted", "target", "true", "max", "top", "top1", "top2", "other"}
_BLOCK = 32_768
# Probabilities that were rounded, or computed in half precision, may be off by this much.
_ROUNDING = 0.01


@dataclasses.dataclass(frozen=True)
class Derivation:
    """Where the predictions of a table without a column of them come from.

    Attributes:
        columns: a column of lists (and with `top_classes`, `top_probs` if it is there), or one column per class.
        logits: whether the scores are logits; otherwise they are probabilities.
        labels: the class of each column, as text; None for a column of lists.
    """

    columns: tuple[str, ...]
    logits: bool = False
    labels: tuple[str, ...] | None = None

    @property
    def has_confidence(self) -> bool:
        """Whether the columns tell the probability of the prediction."""
        return self.columns != ("top_classes",)

    @property
    def words(self) -> str:
        """What a prediction is, for messages."""
        if self.columns[0] == "top_classes":
            return "the most probable of 'top_classes'" if self.has_confidence else "the first of 'top_classes'"
        if self.labels is None:
            return f"the class with the largest of {self.columns[0]!r}"
        ends = f"{shown(self.columns[0])} to {shown(self.columns[-1])}"
        return f"the class with the largest of the {len(self.columns)} columns {ends}"

    def classes(self, kind: pa.DataType) -> tuple[int | str, ...] | None:
        """The labels of the columns, of the type that predictions have; None if they are not known or not of it."""
        if self.labels is None or pa.types.is_string(kind):
            return self.labels
        return tuple(map(int, self.labels)) if all(label.isdecimal() for label in self.labels) else None


def find_derivation(schema: pa.Schema) -> Derivation | None:
    """The columns that tell the predicted class; None if there are none.

    Lists of logits come first, then lists of probabilities, the best classes, and one column per class.

    Example:
        >>> find_derivation(pa.schema([("prob_cat", pa.float32()), ("prob_dog", pa.float32())])).labels
        ('cat', 'dog')
    """
    nested = {field.name for field in schema if pa.types.is_nested(field.type)}
    for name, logits in _LISTS.items():
        if name in nested:
            return Derivation((name,), logits)
    if "top_classes" in nested:
        return Derivation(("top_classes", "top_probs") if "top_probs" in nested else ("top_classes",))
    families: dict[str, list[tuple[str, str]]] = {}
    for name in schema.names:
        match = _WIDE.fullmatch(name)
        if match and name not in nested and match[2] not in _SUMMARIES:
            families.setdefault(match[1], []).append((name, match[2]))
    for prefix, columns in families.items():
        if len(columns) > 1 and len({label for _, label in columns}) == len(columns):
            if all(label.isdecimal() for _, label in columns):  # so that a tie goes to the first class, as in argmax
                columns.sort(key=lambda column: int(column[1]))
            names, labels = zip(*columns, strict=True)
            return Derivation(names, prefix == "logit", labels)
    return None


class Deriver:
    """Derives the predictions of a table that comes in pieces.

    Args:
        derivation: where they come from.
        where: the table, for messages.
        classes: the label of each score of a list; None for the numbers from 0.
    """

    def __init__(self, derivation: Derivation, where: str, classes: Sequence[int | str] | None = None) -> None:
        self.derivation = derivation
        self.where = where
        self.classes = None if derivation.columns[0] == "top_classes" else derivation.labels or classes
        self._width = None if self.classes is None else len(self.classes)
        self._rows = 0

    def __call__(self, rows: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
        """The predicted classes [R] and their probabilities, for the next R rows."""
        derive = self._from_best_classes if self.derivation.columns[0] == "top_classes" else self._from_scores
        parts = [derive(rows.slice(start, _BLOCK)) for start in range(0, max(len(rows), 1), _BLOCK)]
        pred = pa.chunked_array([part[0] for part in parts])
        if not self.derivation.has_confidence:
            return pred, None
        return pred, pa.chunked_array([pa.array(part[1], pa.float32()) for part in parts], pa.float32())

    def _from_scores(self, rows: pa.Table) -> tuple[pa.Array, Floats]:
        scores = self._scores(rows)
        self._check_numbers(scores)
        best = scores.argmax(1)
        top = np.take_along_axis(scores, best[:, None], 1)
        if self.derivation.logits:
            confidence = 1 / np.exp(scores - top).sum(1)
        else:
            self._check_probabilities(scores)
            confidence = top[:, 0]
        self._rows += len(rows)
        labels = pa.array(range(scores.shape[1]) if self.classes is None else self.classes)
        return labels.take(pa.array(best)), confidence

    def _from_best_classes(self, rows: pa.Table) -> tuple[pa.Array, Floats | None]:
        labels, width = self._flat(rows, "top_classes")
        place = np.zeros(len(rows), np.int64)
        confidence = None
        if self.derivation.has_confidence:
            values, _ = self._flat(rows, "top_probs")
            probs = self._floats(values, "top_probs").to_numpy(zero_copy_only=False).reshape(-1, width)
            self._check_numbers(probs)
            place = probs.argmax(1)
            confidence = probs.max(1)
        self._rows += len(rows)
        return labels.take(pa.array(place + width * np.arange(len(rows)))), confidence

    def _scores(self, rows: pa.Table) -> Floats:
        """The scores, [R, K]."""
        columns = self.derivation.columns
        if self.derivation.labels is not None:
            parts = [self._floats(rows[name], name) for name in columns]
            return np.stack([part.to_numpy() for part in parts], axis=1)
        if not len(rows):
            return np.zeros((0, self._width or 1))
        values, width = self._flat(rows, columns[0])
        scores: Floats = self._floats(values, columns[0]).to_numpy(zero_copy_only=False).reshape(-1, width)
        return scores

    def _floats(self, values: Any, name: str) -> Any:
        kind = values.type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
            raise PredictionError(f"{self.where}, column {name!r} must hold numbers, got {kind}.")
        return values.cast(pa.float64() if kind == pa.float64() else pa.float32(), safe=False)

    def _flat(self, rows: pa.Table, name: str) -> tuple[pa.Array, int]:
        """The values of lists, and their one length."""
        if not len(rows):
            return pa.array([], rows[name].type.value_type), 1
        values, width = stack_lists(rows[name], f"{self.where}, column {name!r}")
        if self._width not in (None, width):
            of = "classes" if self.classes else "numbers in the lists before"
            raise PredictionError(
                f"{self.where}, column {name!r} must hold lists of one length, got {width}, and there are {self._width}"
                f" {of}."
            )
        self._width = width
        return values, width

    def _check_numbers(self, scores: Floats) -> None:
        without = first_without_class(scores) if scores.size else None
        if without is not None:
            raise PredictionError(
                f"{self.where} must hold numbers from which to derive the prediction, but row {self._rows + without},"
                " counted from 0, has a missing number or NaN, or minus infinity for all classes. Leave it out."
            )

    def _check_probabilities(self, scores: Floats) -> None:
        """Refuse what is not a distribution: other ranges, or two classes that are both probable."""
        if not scores.size:
            return
        wrong = (scores.min(1) < -_ROUNDING) | (scores.max(1) > 1 + _ROUNDING)
        if scores.shape[1] > 1:
            wrong |= np.partition(scores, -2, axis=1)[:, -2:].sum(1) > 1 + _ROUNDING
        if wrong.any():
            row = int(wrong.argmax())
            largest = ", ".join(f"{value:.4g}" for value in np.sort(scores[row])[::-1][:2])
            raise PredictionError(
                f"{self.where} must hold the probabilities of one class per sample, but row {self._rows + row}, counted"
                f" from 0, has {largest} as the largest. Divide percentages by 100, call logits `logits`, or write the"
                " predicted class as a column `pred`."
            )
