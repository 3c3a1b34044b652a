"""Data: the sample index, label noise, update scenarios, and data sets that need no download."""

from lightning_flip.data._label_files import as_label_distributions, load_label_distributions
from lightning_flip.data.bundled import DigitsDataModule, IrisDataModule
from lightning_flip.data.class_subset import ClassSubset
from lightning_flip.data.corrected_labels import CorrectedLabels
from lightning_flip.data.indexed import IndexedBatch, IndexedDataset
from lightning_flip.data.label_distributions import LabelDistributions
from lightning_flip.data.noisy_labels import NoisyLabels
from lightning_flip.data.pairs import SameClassPairs
from lightning_flip.data.scenarios import (
    UpdateScenario,
    more_classes,
    more_samples,
    more_samples_and_classes,
    same_data,
    stratified_fraction,
)
from lightning_flip.data.splits import split_indices
from lightning_flip.data.threshold_samples import ThresholdSamples
from lightning_flip.data.toy_gaussian import ToyGaussian, ToyGaussianDataModule, class_means, true_distributions

__all__ = [
    "ClassSubset",
    "CorrectedLabels",
    "DigitsDataModule",
    "IndexedBatch",
    "IndexedDataset",
    "IrisDataModule",
    "LabelDistributions",
    "NoisyLabels",
    "SameClassPairs",
    "ThresholdSamples",
    "ToyGaussian",
    "ToyGaussianDataModule",
    "UpdateScenario",
    "as_label_distributions",
    "class_means",
    "load_label_distributions",
    "more_classes",
    "more_samples",
    "more_samples_and_classes",
    "same_data",
    "split_indices",
    "stratified_fraction",
    "true_distributions",
]
