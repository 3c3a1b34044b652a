"""Seeded random splits, and the loaders of a data module with three of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

__all__ = ["SplitDataModule", "split_indices"]


def split_indices(num_samples: int, sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Split N positions into disjoint random parts: one seeded permutation, cut in order.

    The parts are not stratified. Earlier parts depend only on the seed and on the sizes before them, so that a test
    split put first stays the same whatever is split off after it.

    Args:
        num_samples: number of samples N.
        sizes: number of samples of each part but the last, which takes the rest.
        seed: seed of the permutation; the global random state is not touched.

    Returns:
        ``len(sizes) + 1`` lists of positions that together hold each of ``0 .. N - 1`` once.

    Raises:
        ValueError: if a size is negative, or nothing is left for the last part.

    Example:
        >>> test, val, train = split_indices(10, [3, 2], seed=0)
        >>> len(test), len(val), len(train), sorted(test + val + train) == list(range(10))
        (3, 2, 5, True)
    """
    if any(size < 0 for size in sizes):
        raise ValueError(f"sizes must not be negative, got {list(sizes)}; 0 leaves a part out.")
    if sum(sizes) >= num_samples:
        raise ValueError(
            f"sizes {list(sizes)} take {sum(sizes)} of {num_samples} samples and leave none for the last part "
            "(the training split); make them smaller."
        )
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed)).tolist()
    parts, start = [], 0
    for size in [*sizes, num_samples - sum(sizes)]:
        parts.append(order[start : start + size])
        start += size
    return parts


class SplitDataModule(LightningDataModule):
    """Makes the loaders of ``train_set``, ``val_set`` and ``test_set``, which a subclass's ``setup`` gives."""

    batch_size: int
    eval_batch_size: int | None = None  # None: batch_size
    num_workers: int

    def __init__(self) -> None:
        super().__init__()
        self.train_set: Dataset[Any] | None = None
        self.val_set: Dataset[Any] | None = None
        self.test_set: Dataset[Any] | None = None

    def train_dataloader(self) -> DataLoader[Any]:
        """Make the shuffled loader of the training split; the last batch may be smaller, no sample is dropped."""
        return self._loader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Make the loader of the validation split."""
        return self._loader(self.val_set, self.eval_batch_size or self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Make the loader of the test split."""
        return self._loader(self.test_set, self.eval_batch_size or self.batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Make the loader of the test split."""
        return self.test_dataloader()

    def _loader(self, dataset: Dataset[Any] | None, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        if dataset is None:
            raise RuntimeError(f"{type(self).__name__} has no data yet; call setup() first, as a Trainer does.")
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
