"""What a run knows of its samples: labels as they were seen, names and origins as the dataset tells them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_flip.data.sources import ask_dataset, resolve_source

__all__ = ["KnownSamples"]


class KnownSamples:
    """Remembers which samples are in ``samples.parquet`` already."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], set[int]] = {}

    def new(self, split: str, loader: int, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of the first row of every sample that is not known yet.

        Args:
            split: "train" or "val".
            loader: position of the loader.
            index: ``[V]``.

        Returns:
            Positions in ``index``.

        Example:
            >>> known = KnownSamples()
            >>> known.new("val", 0, np.array([3, 1, 3])).tolist()
            [1, 0]
            >>> known.add("val", 0, np.array([3, 1]))
            >>> known.new("val", 0, np.array([3, 4])).tolist()
            [1]
        """
        known = self._known.get((split, loader), set())
        values, first = np.unique(index, return_index=True)
        fresh = np.array([value not in known for value in values.tolist()], dtype=bool)
        return np.asarray(first[fresh])

    def add(self, split: str, loader: int, index: npt.NDArray[np.int64]) -> None:
        """Count samples as known, once they are written.

        Args:
            split: "train" or "val".
            loader: position of the loader.
            index: the samples.
        """
        self._known.setdefault((split, loader), set()).update(index.tolist())

    def has(self, split: str, loader: npt.NDArray[np.integer], index: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the samples are known.

        Args:
            split: "train" or "val".
            loader: ``[V]`` positions of the loaders.
            index: ``[V]``.

        Returns:
            ``[V]``.

        Example:
            >>> known = KnownSamples()
            >>> known.add("val", 0, np.array([3, 1]))
            >>> known.has("val", np.array([0, 0, 1]), np.array([1, 2, 1])).tolist()
            [True, False, False]
        """
        pairs = zip(loader.tolist(), index.tolist(), strict=True)
        return np.array([number in self._known.get((split, place), ()) for place, number in pairs], dtype=bool)

    @staticmethod
    def rows(
        split: str, loader: int, index: npt.NDArray[np.int64], target: npt.NDArray[np.int64], dataset: Any
    ) -> dict[str, Any]:
        """Rows for ``samples.parquet``.

        Args:
            split: "train" or "val".
            loader: position of the loader.
            index: ``[n]`` positions.
            target: ``[n]`` labels as training saw them.
            dataset: the dataset given to the DataLoader; None where the batch carried the index.

        Returns:
            One list a column.
        """
        positions = index.tolist()
        if dataset is None:
            sources = [(None, 0, position) for position in positions]
            ids, true = [None] * len(positions), [None] * len(positions)
        else:
            sources = [resolve_source(dataset, position) for position in positions]
            ids = [ask_dataset(dataset, position, "sample_id") for position in positions]
            true = [ask_dataset(dataset, position, "true_target") for position in positions]
        return {
            "split": split,
            "loader": loader,
            "index": positions,
            "source": [number for _, number, _ in sources],
            "source_index": [position for _, _, position in sources],
            "sample_id": [None if name is None else str(name) for name in ids],
            "target": target.tolist(),
            "true_target": [None if label is None else int(label) for label in true],
        }
