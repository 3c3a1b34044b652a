"""Whether two files are evidence at all: labels that can match, the same data, and models that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lightning_flip.stores import PredictionError, PredictionSet
from lightning_flip.stores.predictions.columns import shown

__all__ = ["doubts", "refuse_other_data", "refuse_strange_labels"]

Integers = npt.NDArray[np.int64]

_EXAMPLES = 3
_MOST = 0.8  # a share of rows
_FACTS = {"length": "number of samples", "labels": "labels", "positions": "positions in the innermost dataset"}
# Two models with independent errors have a relative negative flip rate of 1; models of the same task are far below.
_MISALIGNED = 0.8
_FEW_FLIPS = 10


def refuse_strange_labels(
    old: PredictionSet,
    new: PredictionSet,
    labels: Sequence[int | str],
    target: Integers,
    old_pred: Integers,
    new_pred: Integers,
) -> None:
    """Refuse a file whose predictions are written in another way than the labels, so that all would be wrong.

    None of them is a label that occurs, or most are the label's number plus or minus 1. A model that is right on no
    sample is accepted if its file tells the classes, and has the labels among them, or if the other model, which knows
    the labels, predicts the same ones. The last three arguments are positions in `labels`.
    """
    occurring = _named(labels, target)
    answers = {one.name: _named(labels, pred) | _top(one) for one, pred in ((old, old_pred), (new, new_pred))}
    strange = [one for one in (old, new) if not answers[one.name] & occurring]
    one_knows = len(strange) == 1 and set.intersection(*answers.values())
    for one, pred in ((old, old_pred), (new, new_pred)):
        if one.classes is not None and occurring <= set(one.classes):
            continue
        found = answers[one.name]
        shift = _shift(labels, target, pred)
        if shift:
            reason = f"most of its predictions are the target's number {shift}; count classes from the same number"
        elif one in strange and not one_knows:
            reason = (
                f"none of its {len(found)} predicted labels ({_examples(found)}) is one of the {len(occurring)} target"
                f" labels ({_examples(occurring)}){_hint(occurring, found)}"
            )
        else:
            continue
        raise PredictionError(
            f"{one.name} must write predictions and targets alike, but in {len(target)} rows {reason}. As it is, the"
            f" model is right on {int((pred == target).sum())} of them."
        )


def _top(predictions: PredictionSet) -> set[int | str]:
    """Further labels that a model told."""
    if "top_classes" not in predictions.rows.column_names:
        return set()
    return set(pc.unique(pc.list_flatten(predictions.rows["top_classes"])).to_pylist())


def _shift(labels: Sequence[int | str], target: Integers, pred: Integers) -> str:
    """How most predictions differ from the target's number, "plus 1" or "minus 1"; "" if they do not."""
    if not labels or isinstance(labels[0], str) or (pred == target).mean() >= 1 - _MOST:
        return ""
    numbers = np.array(labels, np.int64)
    difference = numbers[pred] - numbers[target]
    for step, words in ((1, "plus 1"), (-1, "minus 1")):
        moved = difference == step
        if moved.mean() > _MOST and len(np.unique(target[moved])) > 1:
            return words
    return ""


def _named(labels: Sequence[int | str], codes: Integers) -> set[int | str]:
    """The labels that occur."""
    return {labels[code] for code in np.flatnonzero(np.bincount(codes)).tolist()}


def _hint(labels: set[int | str], answers: set[int | str]) -> str:
    """What probably differs."""
    one, other = ({str(value) for value in values} for values in (labels, answers))

    if {text.strip() for text in one} & {text.strip() for text in other}:
        return "; they differ in blanks around the names"
    if {text.strip().casefold() for text in one} & {text.strip().casefold() for text in other}:
        return "; they differ in upper and lower case"
    truths = {"true", "false"}
    if any({text.casefold() for text in texts} <= truths for texts in (one, other)):
        return "; one column holds true and false, the other does not: write 1 and 0 in both"
    numbers = [all(text.lstrip("+-").isdecimal() for text in texts) for texts in (one, other)]
    if numbers[0] != numbers[1]:
        return "; one column holds class numbers and the other names: write the same in both"
    return "; write the same labels in both columns"


def _examples(values: set[int | str]) -> str:
    first = sorted(values, key=str)[:_EXAMPLES]
    return ", ".join(map(shown, first)) + (", ..." if len(values) > _EXAMPLES else "")


def refuse_other_data(old: PredictionSet, new: PredictionSet, *, allow_partial: bool) -> None:
    """Refuse files that are joined by position though their fingerprints say that the data differ."""
    differing = _differing(old, new)
    if not differing or allow_partial:
        return
    raise PredictionError(
        f"{old.name} and {new.name} are joined by position in the dataset, but were predicted on different data: the"
        f" {', the '.join(_FACTS[fact] for fact in differing)} differ. Predict the same data with both models, or give"
        " the samples ids (sample_id_from=) and join by these."
    )


def _differing(old: PredictionSet, new: PredictionSet) -> list[str]:
    """The facts of the fingerprints that differ though both files are joined by position.

    Ids that are positions count in the innermost dataset, so that subsets of it have other facts and the same ids; only
    labels at the same positions have to agree. The column `index` counts in the dataset that was predicted.
    """
    if not (_by_position(old) and _by_position(new)) or old.data is None or new.data is None:
        return []
    facts = [*_FACTS]
    if "index" not in (old.id_column, new.id_column):
        facts = ["labels"] if old.data.get("positions") == new.data.get("positions") is not None else []
    both = [fact for fact in facts if old.data.get(fact) is not None and new.data.get(fact) is not None]
    return [fact for fact in both if old.data[fact] != new.data[fact]]


def _by_position(predictions: PredictionSet) -> bool:
    """Whether the ids are positions in a dataset."""
    if predictions.id_column == "index":
        return True
    return predictions.data is not None and predictions.data.get("ids_are") == "positions"


def doubts(
    old: PredictionSet, new: PredictionSet, target: Integers, old_pred: Integers, new_pred: Integers
) -> Iterator[str]:
    """What makes a comparison doubtful without being an error, one sentence each."""
    count = len(target)
    if np.array_equal(old_pred, new_pred):
        yield (
            f"Both files predict the same class for every one of the {count:,} samples. If one is a copy of the other,"
            " this comparison says nothing about an update."
        )
    differing = _differing(old, new)
    if differing:
        yield (
            "The samples are joined by position, and the fingerprints of the data differ: the"
            f" {', the '.join(_FACTS[fact] for fact in differing)}."
        )
    elif _by_position(old) and _by_position(new) and (old.data is None or new.data is None):
        yield (
            "The samples are joined by position, and no fingerprint of the data shows that a position is the same"
            " sample in both files; it is assumed."
        )
    old_right, new_wrong = old_pred == target, new_pred != target
    flips, expected = int((old_right & new_wrong).sum()), float(old_right.mean() * new_wrong.mean() * count)
    if flips >= _FEW_FLIPS and flips > _MISALIGNED * expected:
        yield (
            f"There are {flips:,} negative flips, where two models with independent errors would have {expected:,.0f}."
            " Such files are often misaligned: check that an id is the same sample in both."
        )
