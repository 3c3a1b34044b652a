"""The predictions of one model, in the few types that everything downstream counts on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.predictions._names import find_columns
from lightning_flip.stores.predictions.columns import as_confidence, as_ids, as_labels
from lightning_flip.stores.predictions.labels import align_labels

__all__ = ["PredictionSet"]

Labels = tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class PredictionSet:
    """Predictions of one model, one row a sample; `read_predictions` and `from_table` make it.

    Attributes:
        rows: columns `sample_id` (string), `target` (int64 or string; null where unlabelled), `pred` (of the same
            type), `confidence` (float32, null where unknown; absent where the file has none), and further columns as
            they were in the file.
        name: where the predictions came from, for messages.
        classes: the labels that the model can answer, one an output; None where the file does not say.
        columns: names of all further columns of the file, also of those not read.
        model_parameters: the model's number of parameters; None where the file does not say.
        dataset_size: number of samples in the dataset that was predicted; None where the file does not say.
        data: the fingerprint of that dataset; None where the file does not say.

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

    def __post_init__(self) -> None:
        """Refuse rows that nobody brought to the types above."""
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
        classes: Labels | None = None,
        columns: tuple[str, ...] | None = None,
        model_parameters: int | None = None,
        dataset_size: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> PredictionSet:
        """Bring a table of predictions to the types of `rows`.

        Args:
            table: an id (text or integers), target and prediction (integers, floats that are whole numbers, booleans or
                text), optionally a confidence (in [0, 1]), and further columns. A further column that has one of these
                four names is left out.
            name: where it came from, for messages.
            id_column: name of the id; `sample_id` if None, and `index` where there is no such column.
            target_column: name of the target; `target` if None.
            pred_column: name of the prediction; `pred` if None.
            confidence_column: name of the confidence; `confidence` if None, which may be absent.
            classes: see the class.
            columns: see the class; the further columns of `table` if None.
            model_parameters: see the class.
            dataset_size: see the class.
            data: see the class.

        Returns:
            The predictions, in the table's order.

        Raises:
            PredictionError: when a column is missing or repeated, an id or a prediction is missing, or values do not
                fit.
        """
        found = find_columns(
            table.column_names,
            name,
            id_column=id_column,
            target_column=target_column,
            pred_column=pred_column,
            confidence_column=confidence_column,
        )
        where = {role: f"{name}, column {column!r}" for role, column in found.items()}
        target, pred = align_labels(
            [
                (where["target"], as_labels(table[found["target"]], where["target"], nullable=True)),
                (where["pred"], as_labels(table[found["pred"]], where["pred"], nullable=False)),
            ]
        )
        rows = {"sample_id": as_ids(table[found["sample_id"]], where["sample_id"]), "target": target, "pred": pred}
        if "confidence" in found:
            rows["confidence"] = as_confidence(table[found["confidence"]], where["confidence"])
        used = {"sample_id", "target", "pred", "confidence", *found.values()} - {"index"}
        further = [column for column in table.column_names if column not in used]
        return cls(
            pa.table(rows | {column: table[column] for column in further}),
            name,
            classes,
            tuple(further) if columns is None else tuple(column for column in columns if column not in used),
            model_parameters,
            dataset_size,
            data,
        )
