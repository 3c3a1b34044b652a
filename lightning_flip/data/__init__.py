"""Data: the sample index, label noise, and data sets that need no download."""

from lightning_flip.data.digits import DigitsDataModule
from lightning_flip.data.indexed import IndexedBatch, IndexedDataset
from lightning_flip.data.iris import IrisDataModule
from lightning_flip.data.noisy_labels import NoisyLabels
from lightning_flip.data.splits import split_indices

__all__ = ["DigitsDataModule", "IndexedBatch", "IndexedDataset", "IrisDataModule", "NoisyLabels", "split_indices"]
