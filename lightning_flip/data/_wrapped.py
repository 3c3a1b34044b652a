"""What datasets that change another dataset's samples have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from lightning_flip.data.origins import ask_dataset

__all__ = ["WrappedDataset", "fetch"]


def fetch(dataset: Any, positions: Sequence[int]) -> Any:
    """The samples at some positions, all at once if the dataset has ``__getitems__``."""
    at_once = getattr(dataset, "__getitems__", None)
    return at_once(positions) if at_once is not None else [dataset[position] for position in positions]


class WrappedDataset(Dataset[Any], ABC):
    """Hands out the samples of a map-style dataset, changed; all other attributes are the wrapped dataset's."""

    same_positions = True  # sample i is sample i of `.dataset`: origins are looked up through this wrapper
    dataset: Any

    @abstractmethod
    def _changed(self, sample: Any, index: int) -> Any:
        """The sample that is handed out in place of the wrapped dataset's."""

    def sample_id(self, index: int) -> Any:
        """The lasting name of a sample, from the wrapped dataset or one inside it; None if none names its samples."""
        return ask_dataset(self.dataset, index, "sample_id")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._changed(self.dataset[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        samples = fetch(self.dataset, indices)
        return [self._changed(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # copy and pickle look before there is a dataset
            raise AttributeError(name)
        return getattr(self.dataset, name)
