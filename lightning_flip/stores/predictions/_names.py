"""Which column of a file is the id, the target, the prediction and the confidence."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_flip.stores.errors import PredictionError

__all__ = ["find_columns"]

_ARGUMENTS = {
    "sample_id": "id_column",
    "target": "target_column",
    "pred": "pred_column",
    "confidence": "confidence_column",
}
_MEANING = {
    "sample_id": "the sample's lasting id",
    "target": "the true label",
    "pred": "the predicted label",
    "confidence": "the probability of the prediction",
}


def find_columns(
    names: Sequence[str],
    where: str,
    *,
    id_column: str | None = None,
    target_column: str | None = None,
    pred_column: str | None = None,
    confidence_column: str | None = None,
) -> dict[str, str]:
    """Find the columns that every file of predictions needs.

    Returns the file's name of `sample_id`, `target`, `pred` and, where there is one, `confidence`.

    Args:
        names: the file's columns.
        where: the file, for messages.
        id_column: name of the id; `sample_id` if None, and `index` where there is no such column.
        target_column: name of the target; `target` if None.
        pred_column: name of the prediction; `pred` if None.
        confidence_column: name of the confidence; `confidence` if None, which the file may lack.

    Example:
        >>> find_columns(["index", "label", "pred"], "a.csv", target_column="label")
        {'sample_id': 'index', 'target': 'label', 'pred': 'pred'}
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PredictionError(
            f"{where} must name every column once, but repeats {repeated}. Rename or drop the repeats."
        )
    asked = dict(zip(_ARGUMENTS, (id_column, target_column, pred_column, confidence_column), strict=True))
    found = {}
    for role, argument in _ARGUMENTS.items():
        wanted = role if asked[role] is None else str(asked[role])
        if asked[role] is None and wanted not in names:
            if role == "confidence":
                continue
            if role == "sample_id" and "index" in names:
                wanted = "index"
        if wanted not in names:
            raise PredictionError(
                f"{where} must have a column {wanted!r} ({_MEANING[role]}), but has {list(names)}. Name the column with"
                f" {argument}= (--{argument.replace('_', '-')})."
            )
        found[role] = wanted
    if len(set(found.values())) < len(found):
        raise PredictionError(f"{where} must have a column of its own for each of {list(found)}, got {found}.")
    return found
