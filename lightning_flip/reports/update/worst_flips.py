"""The negative flips that hurt most: the old model was sure and right, the new one is sure and wrong."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.update.joining import JoinedPredictions

__all__ = ["WorstFlip", "WorstFlips", "worst_flips"]

Floats = npt.NDArray[np.float64]


class WorstFlip(NamedTuple):
    """One negative flip.

    Attributes:
        sample_id: which sample.
        right: its class, which the old model predicted.
        wrong: the class that the new model predicts.
        old_confidence: probability that the old model gave to the right class; None where unknown.
        new_confidence: probability that the new model gives to the wrong class; None where unknown.

    Example:
        >>> WorstFlip("17", "cat", "dog", 0.9, 0.8)._asdict()["wrong"]
        'dog'
    """

    sample_id: str
    right: int | str
    wrong: int | str
    old_confidence: float | None
    new_confidence: float | None


@dataclasses.dataclass(frozen=True)
class WorstFlips:
    """Negative flips, worst first; `worst_flips` makes it.

    Attributes:
        flips: the first of them.
        total: how many negative flips there are.
        order: what they are ordered by, in words.

    Example:
        >>> WorstFlips((), 0, "sample id").to_list()
        []
    """

    flips: tuple[WorstFlip, ...]
    total: int
    order: str

    def to_list(self) -> list[dict[str, int | float | str | None]]:
        """One dict a flip."""
        return [flip._asdict() for flip in self.flips]


def worst_flips(joined: JoinedPredictions, most: int = 20) -> WorstFlips:
    """Rank negative flips by how sure both models were.

    The score is old_confidence + new_confidence, the probability that the old model gave to the right class plus the
    one that the new model gives to the wrong class. A confidence that a file has no value for counts as 0. Where only
    one file has confidences the score is that one alone; where neither has, flips are ordered by sample id as text.
    Equal scores are ordered by sample id too.

    Returns the worst flips, and what they are ordered by.

    Example:
        >>> codes = np.array([[0, 1, 1], [0, 1, 1], [1, 0, 0]])
        >>> sure, unsure = np.array([0.9, 0.6, 0.9]), np.array([0.5, 0.9, 0.8])
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), (3, 7), *codes, sure, unsure)
        >>> [flip.sample_id for flip in worst_flips(joined, 2).flips]
        ['c', 'b']
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


def _or_none(confidence: Floats | None, rows: npt.NDArray[np.int64]) -> list[float | None]:
    if confidence is None:
        return [None] * len(rows)
    return [None if np.isnan(value) else value for value in confidence[rows].tolist()]
