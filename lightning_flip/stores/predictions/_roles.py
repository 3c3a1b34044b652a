"""Which columns of a table are the ids, the targets, the predictions and the confidences, and which others to read."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.predictions._derivation import SCORES, Derivation, Deriver, find_derivation
from lightning_flip.stores.predictions.columns import shown

__all__ = ["Choice", "Plan", "find_columns"]

_ROLES = {  # of columns: the argument that names it, and what it holds
    "sample_id": ("id_column", "the sample's lasting id"),
    "target": ("target_column", "the true label"),
    "pred": ("pred_column", "the predicted label"),
    "confidence": ("confidence_column", "the probability of the prediction"),
}
# Names that other tools use, without case and punctuation. They are offered, and never taken.
_USUAL = {
    "sample_id": (
        *("id", "ids", "sampleids", "sample", "uuid", "guid", "key", "imageid", "image", "file", "filename"),
        *("filepath", "path", "rowid", "exampleid", "instanceid", "recordid"),
    ),
    "target": (
        *("label", "labels", "y", "ytrue", "targets", "truelabel", "true", "truth", "groundtruth", "gt", "gold"),
        *("actual", "class", "reference", "expected"),
    ),
    "pred": (
        *("prediction", "predictions", "predicted", "ypred", "yhat", "preds", "predlabel", "predictedlabel"),
        *("predictedclass", "predclass", "output", "answer", "argmax"),
    ),
    "confidence": ("conf", "confidences", "score", "prob", "proba", "probability", "maxprob", "predprob"),
}
_OFFERED = 3
_LISTED = 30  # a table with a column per class has thousands of names


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to read from one table.

    Attributes:
        names: all of its columns.
        roles: its names of `sample_id`, `target`, `pred` and, if there is one, `confidence`.
        columns: the columns to read, in the table's order.
        derivation: where the column `pred` comes from if the table lacks it.
        derives_confidence: whether the column `confidence` comes from there, too.
        dropped: the columns that are needed for that alone.
    """

    names: list[str]
    roles: dict[str, str]
    columns: list[str]
    derivation: Derivation | None = None
    derives_confidence: bool = False
    dropped: tuple[str, ...] = ()

    def derive(self, pieces: Iterable[pa.Table], where: str, classes: Sequence[int | str] | None = None) -> pa.Table:
        """Put the pieces of a table together, with the predictions if they are to be derived.

        `classes` are the labels of the scores in a list.
        """
        if self.derivation is None:
            return pa.concat_tables(pieces)
        deriver = Deriver(self.derivation, where, classes)
        return pa.concat_tables([self._with_derived(rows, deriver) for rows in pieces])

    def _with_derived(self, rows: pa.Table, deriver: Deriver) -> pa.Table:
        pred, confidence = deriver(rows)
        rows = rows.drop_columns(list(self.dropped)).append_column("pred", pred)
        return rows.append_column("confidence", confidence) if self.derives_confidence else rows


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which columns to read, whatever the format.

    Attributes:
        given: the user's names of columns, by argument.
        further: which further columns; None for all with one value per row.
        scores: whether to keep `logits`, `top_classes` and `top_probs`, too.
    """

    given: Mapping[str, str | None]
    further: Collection[str] | None = None
    scores: bool = False

    def plan(self, schema: pa.Schema, where: str) -> Plan:
        """Find the columns of a table; `where` is its name, for messages."""
        names = list(schema.names)
        derivation = None
        if self.given.get("pred_column") in (None, "pred") and "pred" not in names:
            derivation = find_derivation(schema)
        roles = find_columns(names, where, derived=derivation is not None, **self.given)
        kept = {*roles.values(), *(field.name for field in schema if self.takes(field))}
        if derivation is None:
            return Plan(names, roles, [name for name in names if name in kept])
        confidence = derivation.has_confidence and "confidence" not in roles
        roles |= {"pred": "pred"} | ({"confidence": "confidence"} if confidence else {})
        columns = [name for name in names if name in kept or name in derivation.columns]
        dropped = tuple(name for name in derivation.columns if name not in kept)
        return Plan(names, roles, columns, derivation, confidence, dropped)

    def takes(self, field: pa.Field) -> bool:
        """Whether to keep a further column."""
        nested = pa.types.is_nested(field.type)
        if nested and field.name in SCORES and self.scores:
            return True
        return not nested if self.further is None else field.name in self.further


def find_columns(names: Sequence[str], where: str, *, derived: bool = False, **given: str | None) -> dict[str, str]:
    """The table's names of the columns `sample_id`, `target`, `pred` and, if there is one, `confidence`.

    By default they have these names; the id may be called `index`. `where` is the table, for messages. With `derived`
    the predictions are not a column.

    Example:
        >>> find_columns(["index", "label", "pred"], "a.csv", target_column="label")
        {'sample_id': 'index', 'target': 'label', 'pred': 'pred'}
    """
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise PredictionError(
            f"{where} must name every column once, but repeats {repeated}. Rename or drop the repeats."
        )
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for role, (argument, _) in _ROLES.items():
        if role == "pred" and derived:
            continue
        wanted = given.get(argument)
        if wanted is None:
            wanted = "index" if role == "sample_id" and role not in names and "index" in names else role
            if role == "confidence" and role not in names:
                continue
        (found if wanted in names else missing)[role] = wanted
    if missing:
        raise PredictionError(_missing_message(names, where, missing, set(found.values())))
    if len(set(found.values())) < len(found):
        raise PredictionError(f"{where} must have a column of its own for each of {list(found)}, got {found}.")
    return found


def _missing_message(names: Sequence[str], where: str, missing: Mapping[str, str], used: Collection[str]) -> str:
    """Every missing column, what the table has, and the option that names each, with the columns it may mean."""
    free = [name for name in names if name not in used]
    wanted = ", ".join(f"{name!r} ({_ROLES[role][1]})" for role, name in missing.items())
    listed = [*names] if len(names) <= _LISTED else [*names[:_LISTED], f"... {len(names) - _LISTED} more"]
    ways = ", ".join(_way(_ROLES[role][0], _likely(role, name, free)) for role, name in missing.items())
    columns = "a column" if len(missing) == 1 else "the columns"
    return f"{where} must have {columns} {wanted}, but has {listed}. Pass {ways}."


def _way(argument: str, likely: Sequence[str]) -> str:
    """The argument and the option that name a column, with the ones that may be meant."""
    option = f"--{argument.replace('_', '-')}"
    if not likely:
        return f"{argument}= ({option})"
    first, *others = map(shown, likely)
    typed = likely[0] if re.fullmatch(r"[\w.]+", likely[0], re.ASCII) else first
    return f"{argument}={first} ({option} {typed}{''.join(f'; or {other}' for other in others)})"


def _likely(role: str, wanted: str, free: Sequence[str]) -> list[str]:
    """Columns that may be meant: those with a usual name first, then those with a similar one."""
    plain = {name: re.sub(r"[\W_]", "", name).casefold() for name in free}
    usual = sorted(
        (name for name in free if plain[name] in _USUAL[role]), key=lambda name: _USUAL[role].index(plain[name])
    )
    close = difflib.get_close_matches(re.sub(r"[\W_]", "", wanted).casefold(), plain.values(), n=_OFFERED)
    similar = sorted((name for name in free if plain[name] in close), key=lambda name: close.index(plain[name]))
    return list(dict.fromkeys([*usual, *similar]))[:_OFFERED]
