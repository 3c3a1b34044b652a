"""The predictions of one model, in the few types that everything downstream relies on, and what is known of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.predictions._roles import Choice, Plan
from lightning_flip.stores.predictions.columns import (
    align_labels,
    as_confidence,
    as_ids,
    as_labels,
    without_spelled_nulls,
)

__all__ = ["PredictionMetadata", "PredictionSet"]

Labels = tuple[int | str, ...]
_MARK = (b"lightning_flip", b"predictions")
_DETAILS = b"lightning_flip_predictions"
_SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class PredictionMetadata:
    """What `write_predictions` keeps in the Parquet footer: its options of the same names."""

    classes: Labels | None = None
    model_parameters: int | None = None
    num_samples: int | None = None
    data: Mapping[str, Any] | None = None
    stage: str | None = None

    def to_footer(self) -> dict[bytes, bytes]:
        """Key-value metadata, with the mark of our files and the schema's version."""
        details = {"schema": _SCHEMA} | dataclasses.asdict(self)
        return dict([_MARK, (_DETAILS, json.dumps(details).encode())])

    @classmethod
    def from_footer(cls, footer: Mapping[bytes, bytes] | None, name: str) -> PredictionMetadata | None:
        """Read it back; None if the file is not one of ours."""
        if footer is None or footer.get(_MARK[0]) != _MARK[1]:
            return None
        try:
            details: dict[str, Any] = json.loads(footer[_DETAILS])
            schema = int(details["schema"])
            found = cls(**{field.name: details.get(field.name) for field in dataclasses.fields(cls)})
            if found.classes is not None:
                found = dataclasses.replace(found, classes=tuple(found.classes))
        except (KeyError, TypeError, ValueError) as error:
            raise PredictionError(f"{name} has damaged metadata ({error!r}). Write the file again.") from error
        if schema > _SCHEMA:
            raise PredictionError(
                f"{name} was written by a newer lightning-flip (schema {schema}, known: {_SCHEMA}). Update yours."
            )
        return found


@dataclasses.dataclass(frozen=True)
class PredictionSet:
    """Predictions of one model, one row per sample; `read_predictions` and `from_table` make it.

    Attributes:
        rows: columns `sample_id` (string), `target` (int64 or string; null if unlabelled), `pred` (of the same
            type), `confidence` (float32, null if unknown; absent if the file has none), and further columns as
            they were in the file.
        name: where the predictions came from, for messages.
        classes: the label of each of the model's outputs; None if the file does not say.
        columns: names of all further columns of the file, also of those not read.
        model_parameters: the model's number of parameters; None if the file does not say.
        dataset_size: number of samples in the dataset that was predicted; None if the file does not say.
        data: the fingerprint of that dataset; None if the file does not say.
        id_column: the column that the ids came from; None if unknown.
        notes: how the rows were derived, in sentences for the report.

    Example:
        >>> table = pa.table({"sample_id": [4, 9], "target": [0, 1], "pred": [0, 0], "camera": ["a", "b"]})
        >>> predictions = PredictionSet.from_table(table, "memory")
        >>> predictions.num_samples, predictions.rows["sample_id"].to_pylist(), predictions.columns
        (2, ['4', '9'], ('camera',))
    """

    rows: pa.Table
    name: str
    classes: Labels | None = None
    columns: tuple[str, ...] = ()
    model_parameters: int | None = None
    dataset_size: int | None = None
    data: Mapping[str, Any] | None = None
    id_column: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rows of other types than those above."""
        types = {name: self.rows.schema.field(name).type for name in self.rows.column_names}
        label = types.get("pred")
        fits = types.get("sample_id") == pa.string() and label in (pa.int64(), pa.string())
        fits = fits and types.get("target") == label and types.get("confidence", pa.float32()) == pa.float32()
        if not fits:
            shown = {name: str(kind) for name, kind in types.items()}
            raise PredictionError(
                f"rows of {self.name} must have sample_id (string), target and pred (both int64 or both string) and may"
                f" have confidence (float32), got {shown}. PredictionSet.from_table brings a table to these types."
            )
        if self.classes is not None and self.num_samples:
            wanted = str if pa.types.is_string(label) else int
            if not self.classes or any(type(one) is not wanted for one in self.classes):
                raise PredictionError(
                    f"classes of {self.name} must be labels of the same kind as its predictions"
                    f" ({'text' if wanted is str else 'integers'}), got {self.classes!r:.200}."
                )
            if len(set(self.classes)) < len(self.classes):
                raise PredictionError(f"classes of {self.name} must be distinct, got {self.classes!r:.200}.")

    @property
    def num_samples(self) -> int:
        """R, the number of rows."""
        return int(self.rows.num_rows)

    @classmethod
    def from_table(
        cls,
        table: pa.Table,
        name: str,
        *,
        id_column: str | None = None,
        target_column: str | None = None,
        pred_column: str | None = None,
        confidence_column: str | None = None,
        **options: Any,
    ) -> PredictionSet:
        """Bring a table of predictions to the types of `rows`.

        Args:
            table: an id (text, whole numbers or UUIDs), target and prediction (integers, floats that are whole numbers,
                booleans or text), optionally a confidence (in [0, 1]), and further columns. A further column that has
                one of these four names is left out. Without a prediction it is derived as by `read_predictions`.
            name: where it came from, for messages.
            id_column: name of the id; `sample_id` if None, or else `index`.
            target_column: name of the target; `target` if None.
            pred_column: name of the prediction; `pred` if None.
            confidence_column: name of the confidence; `confidence` if None, which may be absent.
            **options: the attributes `classes`, `columns`, `model_parameters`, `dataset_size` and `data`.

        Returns:
            The predictions, in the table's order.

        Raises:
            PredictionError: if a column is missing or repeated, an id or a prediction is missing, or values do not
                fit.
        """
        given = {
            "id_column": id_column,
            "target_column": target_column,
            "pred_column": pred_column,
            "confidence_column": confidence_column,
        }
        plan = Choice(given, table.column_names, scores=True).plan(table.schema, name)
        table = plan.derive([table.select(plan.columns)], name, options.get("classes"))
        return cls.from_plan(table, name, plan, **options)

    @classmethod
    def from_plan(
        cls,
        table: pa.Table,
        name: str,
        plan: Plan,
        columns: tuple[str, ...] | None = None,
        **options: Any,
    ) -> PredictionSet:
        """The same for a table whose columns have been found, and the predictions derived if it had none."""
        found, derivation = plan.roles, plan.derivation
        where = {role: f"{name}, column {column!r}" for role, column in found.items()}
        if derivation is not None:
            where["pred"] = f"{name}, {derivation.words},"
            options["notes"] = (_derivation_note(name, plan),)
        given = as_labels(table[found["target"]], where["target"], nullable=True)
        answers = as_labels(table[found["pred"]], where["pred"], nullable=False)
        given = without_spelled_nulls(given, answers, options.get("classes"))
        target, pred = align_labels([(where["target"], given), (where["pred"], answers)])
        if derivation is not None and options.get("classes") is None:
            options["classes"] = derivation.classes(pred.type)
        rows = {"sample_id": as_ids(table[found["sample_id"]], where["sample_id"]), "target": target, "pred": pred}
        if "confidence" in found:
            rows["confidence"] = as_confidence(table[found["confidence"]], where["confidence"])
        used = {"sample_id", "target", "pred", "confidence", *found.values()} - {"index"}
        further = [column for column in table.column_names if column not in used]
        named = tuple(column for column in (further if columns is None else columns) if column not in used)
        rows |= {column: table[column] for column in further}
        return cls(pa.table(rows), name, columns=named, id_column=found["sample_id"], **options)


def _derivation_note(name: str, plan: Plan) -> str:
    """Tell that the predictions were derived, and from what."""
    assert plan.derivation is not None
    confidence = " with its probability as the confidence," if plan.derives_confidence else ""
    return f"{name} has no column 'pred'; the prediction is {plan.derivation.words},{confidence}".rstrip(",") + "."
