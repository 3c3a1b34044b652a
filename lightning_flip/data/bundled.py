"""What the data modules over scikit-learn's bundled data sets share: split, label noise, loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_flip.data.class_subset import ClassSubset, checked_classes
from lightning_flip.data.noisy_labels import NoisyLabels
from lightning_flip.data.scenarios import stratified_fraction
from lightning_flip.data.splits import split_indices

__all__ = ["BundledDataModule", "load_bundled"]


def load_bundled(name: str) -> Any:
    """Load a data set that comes with scikit-learn; nothing is downloaded. Returns scikit-learn's bunch."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} comes from scikit-learn, which is not installed; run pip install 'lightning-flip[cli]'."
        ) from error
    load: Callable[[], Any] = getattr(datasets, name)
    return load()


class BundledDataModule(LightningDataModule, ABC):
    """Splits a small data set, spoils training labels on request, and makes the loaders.

    A subclass gives ``num_classes``, ``num_features`` and :meth:`load`. The splits are random and seeded, not
    stratified; the test split depends on ``split_seed`` and ``test_size`` alone. Labels are spoiled in the training
    split, on request in the validation split, never in the test split.

    ``train_fraction`` and ``classes`` give an old model less to learn from than a new one. They choose among samples
    that have their labels, wrong ones included, already: with the same seeds, what the smaller training set holds is
    part of the larger one, label by label.

    Args:
        batch_size: samples a batch, in every loader.
        test_size: samples in the test split.
        val_size: samples in a validation split of its own; 0 validates on the test split.
        noise_rate: probability in ``[0, 1]`` that a training label is replaced.
        noise: ``"symmetric"`` replaces it by another class, ``"redrawn"`` draws it anew over all classes.
        noise_seed: seed of the noise; None takes ``split_seed``.
        noisy_validation: spoil the labels of the validation split in the same way.
        split_seed: seed of the split.
        num_workers: worker processes of each loader.
        train_fraction: share of each class, in ``(0, 1]``, that is left in the training split.
        classes: the labels to train and to evaluate on, which are then counted from 0 in this order; None keeps all.

    Attributes:
        num_classes: number of classes; that of ``classes`` where they are given.
        train_set, val_set, test_set: the splits, after ``setup``; ``train_set`` is a
            :class:`~lightning_flip.data.noisy_labels.NoisyLabels` where there is noise, or a subset of one.
    """

    num_classes: int
    num_features: int

    def __init__(
        self,
        *,
        batch_size: int,
        test_size: int,
        val_size: int,
        noise_rate: float,
        noise: Literal["symmetric", "redrawn"],
        noise_seed: int | None,
        noisy_validation: bool,
        split_seed: int,
        num_workers: int,
        train_fraction: float = 1.0,
        classes: list[int] | None = None,
    ) -> None:
        super().__init__()
        if noise not in ("symmetric", "redrawn"):
            raise ValueError(f"noise must be 'symmetric' or 'redrawn', got {noise!r}.")
        if not 0 <= noise_rate <= 1:
            raise ValueError(f"noise_rate is a probability in [0, 1], got {noise_rate}; 40% noise is noise_rate=0.4.")
        if noisy_validation and not val_size:
            raise ValueError(
                "noisy_validation=True needs a validation split of its own, got val_size=0, which validates on the "
                "test split, and that stays clean; set val_size."
            )
        if test_size < 1:
            raise ValueError(f"test_size must be at least 1, got {test_size}.")
        if not 0 < train_fraction <= 1:
            raise ValueError(
                f"train_fraction is a share in (0, 1], got {train_fraction}; half of the training split is "
                "train_fraction=0.5."
            )
        self.classes = None if classes is None else checked_classes(classes, self.num_classes)
        self.save_hyperparameters()
        self.batch_size = batch_size
        self.test_size = test_size
        self.val_size = val_size
        self.noise_rate = noise_rate
        self.noise = noise
        self.noise_seed = split_seed if noise_seed is None else noise_seed
        self.noisy_validation = noisy_validation
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.train_fraction = train_fraction
        if self.classes is not None:
            self.num_classes = len(self.classes)
        self.train_set: Dataset[Any] | None = None
        self.val_set: Dataset[Any] | None = None
        self.test_set: Dataset[Any] | None = None

    @abstractmethod
    def load(self) -> tuple[Tensor, Tensor]:
        """Load the whole data set. Returns inputs ``[N, ...]`` float32 and labels ``[N]`` int64."""

    def preprocess(self, inputs: Tensor, train: list[int]) -> Tensor:
        """Preprocess the inputs with statistics of the training split; by default nothing is done.

        Returns inputs of the same length.

        Args:
            inputs: all inputs ``[N, ...]``.
            train: positions of the training split.
        """
        return inputs

    def setup(self, stage: str | None = None) -> None:
        """Load, split and spoil; every call makes the same splits."""
        inputs, labels = self.load()
        test, val, train = split_indices(len(labels), [self.test_size, self.val_size], self.split_seed)
        whole = TensorDataset(self.preprocess(inputs, train), labels)
        self.train_set = self._chosen(self._spoiled(Subset(whole, train), self.noise_seed))
        if self.train_fraction < 1:
            self.train_set = stratified_fraction(self.train_set, self.train_fraction, seed=self.split_seed)
        self.test_set = self._chosen(Subset(whole, test))
        self.val_set = self.test_set
        if val:
            held_out: Dataset[Any] = Subset(whole, val)
            if self.noisy_validation:
                held_out = self._spoiled(held_out, self.noise_seed + 1)
            self.val_set = self._chosen(held_out)

    def train_dataloader(self) -> DataLoader[Any]:
        """Make the shuffled loader of the training split; the last batch may be smaller, no sample is dropped."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Make the loader of the validation split, or of the test split where ``val_size`` is 0."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Any]:
        """Make the loader of the test split."""
        return self._loader(self.test_set)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Make the loader of the test split."""
        return self._loader(self.test_set)

    def _chosen(self, dataset: Dataset[Any]) -> Dataset[Any]:
        return dataset if self.classes is None else ClassSubset(dataset, self.classes)

    def _spoiled(self, dataset: Dataset[Any], seed: int) -> Dataset[Any]:
        if self.noise_rate == 0:
            return dataset
        return NoisyLabels(
            dataset,
            rate=self.noise_rate,
            num_classes=type(self).num_classes,  # labels are wrong among all classes, whichever are chosen
            seed=seed,
            include_true_class=self.noise == "redrawn",
        )

    def _loader(self, dataset: Dataset[Any] | None, shuffle: bool = False) -> DataLoader[Any]:
        if dataset is None:
            raise RuntimeError(f"{type(self).__name__} has no data yet; call setup() first, as a Trainer does.")
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
