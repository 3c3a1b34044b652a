"""Logits of an old model that were computed before, by sample index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.data.identity import data_difference, describe_data
from lightning_flip.steps.identity import ChangedDataError
from lightning_flip.steps.outputs import as_logits, kind_of_values
from lightning_flip.steps.sample_step import SampleStep
from lightning_flip.stores import read_logits

__all__ = ["CACHED_SUFFIXES", "CachedLogits"]

CACHED_SUFFIXES = (".parquet", ".npz", ".npy")


class CachedLogits:
    """A table of logits with a row for every sample of one dataset.

    The index is a sample's position in the dataset that the training DataLoader is given, and the logits are those of
    one view of each sample: where the new model sees augmented samples, it is compared with the old one's predictions
    for the samples without augmentation, or with another.

    Args:
        index: int64 ``[R]``, the samples' indices, in any order.
        logits: float ``[R, K]``, minus infinity for masked classes; float16 is kept as it is, anything else in float32.
        num_samples: length of the dataset that was predicted; None where it is not known.
        name: where they came from, for messages.

    Example:
        >>> table = CachedLogits(torch.tensor([1, 0]), torch.tensor([[0.0, 3.0], [2.0, 0.0]]), name="memory")
        >>> table.rows(SampleStep(torch.tensor([0]), torch.zeros(1, 2), torch.tensor([0]), num_samples=2))
        tensor([[2., 0.]])
    """

    def __init__(self, index: Tensor, logits: Tensor, num_samples: int | None = None, *, name: str) -> None:
        if index.ndim != 1 or logits.ndim != 2 or len(index) != len(logits) or logits.shape[1] < 2:
            raise ValueError(
                f"{name} must have logits [R, K] of K >= 2 classes and an index [R], got the shapes "
                f"{list(logits.shape)} and {list(index.shape)}."
            )
        if not len(index):
            raise ValueError(f"{name} holds 0 rows of logits.")
        self.name = name
        self.num_samples = num_samples
        self._data: dict[str, Any] | None = None  # the fingerprint of the dataset that was predicted
        self._index, order = index.sort()
        repeated = int((self._index[1:] == self._index[:-1]).sum())
        if repeated or self._index[0] < 0:
            raise ValueError(
                f"{name} must have each index once and none below 0; {repeated} of {len(index)} rows repeat one, the "
                f"lowest is {int(self._index[0])}."
            )
        infinite = (~logits.amax(dim=1).isfinite()).nonzero()[:, 0]  # minus infinity masks a class
        if len(infinite):
            raise ValueError(
                f"{name}: {len(infinite)} of {len(logits)} rows have logits that are not finite, the first of them row "
                f"{int(infinite[0])}, sample {int(index[infinite[0]])}. Above 65504 float16 has no numbers; write them "
                "in float32. A model that gives NaN has no prediction."
            )
        kept = logits if logits.dtype == torch.float16 else logits.float()
        if logits.ndim == 2 and logits.shape[1] > 1 and kind_of_values(logits) == "probs":
            rank_zero_info(f"lightning_flip: {name} holds probabilities, which are turned into logits.")
            converted = as_logits(logits.float(), "probs")
            assert converted is not None
            kept = converted
        self._logits = kept[order]
        self._compared_with: tuple[int, int] | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CachedLogits:
        """Read a file. Returns the table, on the CPU."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist (looked for in {Path.cwd()}).")
        if path.suffix == ".parquet":
            index, logits, metadata = read_logits(path)
            cached = cls(torch.as_tensor(index), torch.as_tensor(logits), metadata.get("num_samples"), name=str(path))
            cached._data = metadata.get("data")
            return cached
        arrays = _read_arrays(path)
        logits = arrays["logits"]
        index = arrays.get("index", np.arange(len(logits) if logits.ndim else 0))
        if logits.dtype.kind != "f" or index.dtype.kind not in "iu":
            raise ValueError(
                f"{path} must hold logits of floats and an index of integers, got {logits.dtype} and {index.dtype}."
            )
        # torch takes neither foreign byte orders nor long doubles.
        plain = logits.astype(np.float16 if logits.dtype.itemsize == 2 else np.float32)
        return cls(torch.as_tensor(index.astype(np.int64)), torch.as_tensor(plain), name=str(path))

    @property
    def num_classes(self) -> int:
        """Number of classes K of the old model."""
        return int(self._logits.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the table is."""
        return self._logits.device

    def to(self, device: torch.device) -> None:
        """Move the table, saying how much memory it takes there."""
        if self.device == device:
            return
        needed = self._index.nbytes + self._logits.nbytes
        rank_zero_info(f"{self._said()} = {needed / 1e6:.1f} MB to {device}")
        try:
            self._index, self._logits = self._index.to(device), self._logits.to(device)
        except RuntimeError as error:
            raise MemoryError(
                f"{self._said()} take {needed / 1e9:.1f} GB and do not fit on {device}. Write them as float16, or give "
                "the old model itself as the reference."
            ) from error

    def rows(self, step: SampleStep) -> Tensor:
        """The logits of a step's samples. Returns float32 ``[B, K]`` where the step's logits are."""
        if step.num_samples is not None and (step.num_samples, id(step.dataset)) != self._compared_with:
            self._compare(step.num_samples, step.dataset)
            self._compared_with = step.num_samples, id(step.dataset)
        if self.device != step.logits.device:
            self.to(step.logits.device)
        if step.num_samples is not None:
            return self._logits[step.index].float()  # row i is sample i, as the comparison showed
        return self._logits[self._found(step)].float()

    def _compare(self, num_samples: int, dataset: Any) -> None:
        """Compare the table with the whole dataset once, so that steps need not read back from the device."""
        if self.num_samples is not None and self.num_samples != num_samples:
            raise ValueError(
                f"{self.name} was written for a dataset of {self.num_samples} samples, this one has {num_samples}. "
                "Predict this dataset with the old model again (PredictionWriter(logits=True))."
            )
        problem = "" if dataset is None or self._data is None else data_difference(self._data, describe_data(dataset))
        if problem:
            raise ChangedDataError(
                f"{self.name} was written for other data: {problem}. Its rows are found by position. Predict this "
                "dataset with the old model again (PredictionWriter(logits=True))."
            )
        outside = int((self._index >= num_samples).sum())
        missing = num_samples - (len(self._index) - outside)
        if outside or missing:
            raise ValueError(
                f"{self.name} has no logits for {missing} of the dataset's {num_samples} samples, and {outside} rows "
                "for indices beyond it. Predict the whole of this dataset with the old model (no limit on batches), "
                "or give the old model itself as the reference."
            )

    def _found(self, step: SampleStep) -> Tensor:
        """Row numbers, if the dataset's length is unknown."""
        rows = torch.searchsorted(self._index, step.index).clamp_(max=len(self._index) - 1)
        absent = self._index[rows] != step.index
        count = int(absent.sum())
        if count:
            raise ValueError(
                f"{self.name} has no logits for {count} of {len(rows)} samples of the batch, the id "
                f"{int(step.index[absent][0])} among them; its {len(self._index)} rows go up to "
                f"{int(self._index[-1])}. Predict all of the data with the old model."
            )
        return rows

    def _said(self) -> str:
        return f"cached logits of {self.name}: {len(self._index)} samples x {self.num_classes} x {self._logits.dtype}"


def _read_arrays(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:  # numpy leaves its own open where the archive is damaged
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"logits": content}
            arrays = {key: content[key] for key in ("logits", "index") if key in content}
            found = list(content)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as {path.suffix} of plain numbers; it may be cut off, or hold objects: {error}"
        ) from error
    if "logits" not in arrays:
        raise ValueError(f"{path} must hold an array 'logits' [R, K] and may hold 'index' [R]; got {found}.")
    return arrays
