"""What an old model answered, read from a file of predictions and looked up sample by sample."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_flip.data.sample_names import sample_names
from lightning_flip.stores import PredictionError, PredictionSet, read_predictions

__all__ = ["MISSING", "UNKNOWN", "OldPredictions", "SampleAnswers", "holds_predictions"]

MISSING, UNKNOWN = -1, -2  # no answer; an answer or label that is none of the new model's classes


def holds_predictions(source: Any) -> bool:
    """Whether a source is a file of predictions, and not a model or cached logits.

    Example:
        >>> holds_predictions("old.parquet"), holds_predictions("torchvision:resnet18")
        (True, False)
    """
    if not isinstance(source, (str, Path)):
        return False
    path = Path(source)
    if path.suffix.lower() != ".npz" or not path.is_file():
        return path.suffix.lower() in (".parquet", ".csv")
    try:
        with zipfile.ZipFile(path) as archive:
            return "pred.npy" in archive.namelist()
    except zipfile.BadZipFile:
        return False  # reading it as logits raises the error


class SampleAnswers:
    """The old model's class and label of every sample, on the device, as numbers of the new model's classes.

    Args:
        keys: int64 ``[R]``, rising; None if the index is the row.
        pred: int64 ``[R]``, :data:`MISSING` or :data:`UNKNOWN` if there is none.
        target: int64 ``[R]``, the same.

    Example:
        >>> answers = SampleAnswers(torch.tensor([3, 8]), torch.tensor([0, 1]), torch.tensor([0, MISSING]))
        >>> [rows.tolist() for rows in answers.rows(torch.tensor([8, 5]))]
        [[1, -1], [-1, -1]]
    """

    def __init__(self, keys: Tensor | None, pred: Tensor, target: Tensor) -> None:
        self._keys = keys
        self._rows = torch.stack([pred, target])

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The old model's class and the label of its file, ``[B]`` each; nothing is read back from the device."""
        if self._keys is None:
            pred, target = self._rows[:, index]
            return pred, target
        places = torch.searchsorted(self._keys, index).clamp(max=len(self._keys) - 1)
        pred, target = self._rows[:, places].where(self._keys[places] == index, MISSING)
        return pred, target


class OldPredictions:
    """A file of predictions, matched with a dataset by ``sample_id``.

    Example:
        >>> table = pa.table({"sample_id": ["1", "0"], "target": [1, 0], "pred": [0, 0]})
        >>> old = OldPredictions(PredictionSet.from_table(table, "old.parquet"))
        >>> answers = old.match(["a", "b"], 2, None, torch.device("cpu"))
        >>> answers.rows(torch.tensor([0, 1]))
        (tensor([0, 0]), tensor([0, 1]))
    """

    def __init__(self, predictions: PredictionSet) -> None:
        self.predictions = predictions
        ids = predictions.rows["sample_id"]
        different = pc.count_distinct(ids).as_py()
        if different < len(ids):
            raise PredictionError(
                f"{predictions.name} has {len(ids)} rows for {different} different samples; expected one row per "
                "sample. Write it again with PredictionWriter, or drop the repeated rows."
            )
        if not len(ids):
            raise PredictionError(f"{predictions.name} has no rows, so that there is nothing to compare with.")

    @classmethod
    def read(cls, path: str | Path) -> OldPredictions:
        """Read a file. Returns its predictions."""
        predictions = read_predictions(path, columns=())
        for note in predictions.notes:
            rank_zero_warn(note)
        return cls(predictions)

    def match(
        self, dataset: Any, num_samples: int | None, labels: Sequence[int | str] | None, device: torch.device
    ) -> SampleAnswers:
        """Find the samples of a dataset. Returns the answers, which lack samples that the file lacks."""
        rows = self.predictions.rows
        pred, target = (self._codes(rows[name], labels) for name in ("pred", "target"))
        if dataset is None or num_samples is None:
            return self._by_number(pred, target, device)
        names = pa.array(sample_names(dataset).names, pa.string())
        places = pc.fill_null(pc.index_in(names, value_set=rows["sample_id"].combine_chunks()), -1).to_numpy()
        found = places >= 0
        if not found.any():
            raise PredictionError(
                f"{self.predictions.name} has none of the {num_samples} samples of this dataset: it has ids such as "
                f"{rows['sample_id'][0].as_py()!r}, the dataset has such as {names[0].as_py()!r}. Write it for the "
                "same data with PredictionWriter."
            )
        columns = [torch.from_numpy(np.where(found, codes[places], MISSING)) for codes in (pred, target)]
        return SampleAnswers(None, *(column.to(device) for column in columns))

    def _by_number(
        self, pred: npt.NDArray[np.int64], target: npt.NDArray[np.int64], device: torch.device
    ) -> SampleAnswers:
        ids = self.predictions.rows["sample_id"]
        try:
            numbers = ids.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            raise PredictionError(
                f"{self.predictions.name} has sample ids that are not integers, but index_from= gives integers. Write "
                "it with PredictionWriter and the same index_from=."
            ) from None
        order = np.argsort(numbers)
        return SampleAnswers(*(torch.from_numpy(column[order]).to(device) for column in (numbers, pred, target)))

    def _codes(self, column: pa.ChunkedArray, labels: Sequence[int | str] | None) -> npt.NDArray[np.int64]:
        """Labels as numbers of the new model's outputs."""
        if labels is None and pa.types.is_string(column.type) and column.null_count < len(column):
            raise PredictionError(
                f"{self.predictions.name} has words for labels, such as {column.drop_null()[0].as_py()!r}, and the new "
                "model has numbers. Pass class_labels=, the word for each of its outputs."
            )
        if labels is None:
            known = pc.fill_null(column.cast(pa.int64()), MISSING).to_numpy()
            codes = np.where(known < 0, UNKNOWN, known)
        else:
            words = pa.array([str(label) for label in labels], pa.string())
            places = pc.index_in(column.cast(pa.string()).combine_chunks(), value_set=words)
            codes = pc.fill_null(places, UNKNOWN).cast(pa.int64()).to_numpy()
            if column.null_count < len(column) and not (codes >= 0).any():
                raise PredictionError(
                    f"{self.predictions.name} has labels such as {column.drop_null()[0].as_py()!r}, none of which is "
                    f"among the new model's {len(labels)}, such as {labels[0]!r}. Pass class_labels=, the label of "
                    "each of its outputs as the file has it."
                )
        return np.where(pc.is_null(column).to_numpy(), MISSING, codes).astype(np.int64)
