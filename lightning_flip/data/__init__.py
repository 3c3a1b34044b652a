"""Data: the sample index, label noise, update scenarios, and data sets that need no download."""

from lightning_flip.data.class_subset import ClassSubset
from lightning_flip.data.digits import DigitsDataModule
from lightning_flip.data.indexed import IndexedBatch, IndexedDataset
from lightning_flip.data.iris import IrisDataModule
from lightning_flip.data.noisy_labels import NoisyLabels
from lightning_flip.data.scenarios import (
    UpdateScenario,
    more_classes,
    more_samples,
    more_samples_and_classes,
    same_data,
    stratified_fraction,
)
from lightning_flip.data.splits import split_indices

__all__ = [
    "ClassSubset",
    "DigitsDataModule",
    "IndexedBatch",
    "IndexedDataset",
    "IrisDataModule",
    "NoisyLabels",
    "UpdateScenario",
    "more_classes",
    "more_samples",
    "more_samples_and_classes",
    "same_data",
    "split_indices",
    "stratified_fraction",
]
