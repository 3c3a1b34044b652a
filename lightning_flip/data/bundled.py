"""Small tasks that need no download: data modules over the data sets that come with scikit-learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_flip.data.class_subset import ClassSubset, checked_classes
from lightning_flip.data.noisy_labels import NoisyLabels
from lightning_flip.data.scenarios import stratified_fraction
from lightning_flip.data.splits import SplitDataModule, split_indices

__all__ = ["BundledDataModule", "DigitsDataModule", "IrisDataModule"]


def _load_bundled(name: str) -> Any:
    """Load a data set that comes with scikit-learn, as scikit-learn's bunch."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} comes from scikit-learn, which is not installed; run pip install 'lightning-flip[cli]'."
        ) from error
    load: Callable[[], Any] = getattr(datasets, name)
    return load()


class BundledDataModule(SplitDataModule, ABC):
    """Splits a small data set, replaces training labels on request, and makes the loaders.

    A subclass gives ``num_classes``, ``num_features`` and :meth:`load`. The splits are random and seeded, not
    stratified; the test split depends on ``split_seed`` and ``test_size`` alone. Labels are replaced in the training
    split, on request in the validation split, never in the test split.

    ``train_fraction`` and ``classes`` give an old model less to learn from than a new one. They choose among samples
    that already have their labels, wrong ones included: with the same seeds, a smaller training set is
    part of the larger one, label by label.

    Args:
        batch_size: samples per batch, in every loader.
        test_size: samples in the test split.
        val_size: samples in a validation split of its own, taken from the training split. 0 validates on the test
            split: its predictions are watched in every epoch, as the flipping error needs, and nothing may then be
            selected by them (no early stopping, no best checkpoint).
        noise_rate: probability in ``[0, 1]`` that a training label is replaced.
        noise: ``"symmetric"`` replaces it by another class, ``"redrawn"`` draws it anew over all classes.
        noise_seed: seed of the noise; None takes ``split_seed``.
        noisy_validation: replace labels of the validation split in the same way (needs ``val_size``).
        split_seed: seed of the split.
        num_workers: worker processes of each loader.
        train_fraction: share of each class, in ``(0, 1]``, that is left in the training split. Smaller shares are part
            of larger ones.
        classes: the labels to train and to evaluate on, which are then counted from 0 in this order; None keeps all.

    Attributes:
        num_classes: number of classes; that of ``classes`` if they are given.
        train_set, val_set, test_set: the splits, after ``setup``; ``train_set`` is a
            :class:`~lightning_flip.data.NoisyLabels` if there is noise, or a subset of one.

    Raises:
        ValueError: if an option is outside its range, or (in ``setup``) the splits leave nothing to train on.
        ModuleNotFoundError: in ``setup``, if scikit-learn is not installed.
    """

    num_classes: int
    num_features: int

    def __init__(
        self,
        *,
        batch_size: int,
        test_size: int,
        val_size: int = 0,
        noise_rate: float = 0.0,
        noise: Literal["symmetric", "redrawn"] = "symmetric",
        noise_seed: int | None = None,
        noisy_validation: bool = False,
        split_seed: int = 0,
        num_workers: int = 0,
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

    @abstractmethod
    def load(self) -> tuple[Tensor, Tensor]:
        """Load the whole data set: inputs ``[N, ...]`` float32 and labels ``[N]`` int64."""

    def preprocess(self, inputs: Tensor, train: list[int]) -> Tensor:
        """Preprocess all inputs ``[N, ...]`` with statistics of the training split; by default nothing is done."""
        return inputs

    def setup(self, stage: str | None = None) -> None:
        """Load, split and add noise; every call makes the same splits."""
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


class DigitsDataModule(BundledDataModule):
    """The 1797 digits as images ``[1, 8, 8]``, float32 in ``[0, 1]``: by default 1297 to train on, 500 to test on.

    Options, splits and attributes are those of :class:`~lightning_flip.data.bundled.BundledDataModule`. ``num_classes``
    is 10, ``num_features`` 64.

    Args:
        batch_size: samples per batch, in every loader.
        test_size: samples in the test split.
        **options: for :class:`~lightning_flip.data.bundled.BundledDataModule`.

    Example:
        >>> data = DigitsDataModule(noise_rate=0.4, noise_seed=1)
        >>> data.setup()
        >>> images, labels = next(iter(data.test_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64]))
        >>> len(data.train_set), round(float(data.train_set.is_noisy.float().mean()), 1)
        (1297, 0.4)
    """

    num_classes = 10
    num_features = 64

    def __init__(self, *, batch_size: int = 64, test_size: int = 500, **options: Any) -> None:
        super().__init__(batch_size=batch_size, test_size=test_size, **options)

    def load(self) -> tuple[Tensor, Tensor]:
        """Load images ``[1797, 1, 8, 8]`` float32 in ``[0, 1]`` and labels ``[1797]`` int64."""
        bunch = _load_bundled("load_digits")
        images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16  # pixels count from 0 to 16
        return images, torch.tensor(bunch.target, dtype=torch.int64)


class IrisDataModule(BundledDataModule):
    """The 150 flowers with 4 features, standardized by the training split: by default 120 to train on, 30 to test on.

    Mean and deviation are those of the whole training split, even if ``train_fraction`` or ``classes`` leave less of
    it, so that an old and a new model see the same inputs. Options, splits and attributes are those of
    :class:`~lightning_flip.data.bundled.BundledDataModule`. ``num_classes`` is 3, ``num_features`` 4.

    Args:
        batch_size: samples per batch, in every loader.
        test_size: samples in the test split.
        **options: for :class:`~lightning_flip.data.bundled.BundledDataModule`.

    Example:
        >>> data = IrisDataModule()
        >>> data.setup()
        >>> features, labels = next(iter(data.train_dataloader()))
        >>> features.shape, labels.shape
        (torch.Size([16, 4]), torch.Size([16]))
    """

    num_classes = 3
    num_features = 4

    def __init__(self, *, batch_size: int = 16, test_size: int = 30, **options: Any) -> None:
        super().__init__(batch_size=batch_size, test_size=test_size, **options)

    def load(self) -> tuple[Tensor, Tensor]:
        """Load features ``[150, 4]`` float32 in centimeters and labels ``[150]`` int64."""
        bunch = _load_bundled("load_iris")
        return torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target, dtype=torch.int64)

    def preprocess(self, inputs: Tensor, train: list[int]) -> Tensor:
        """Standardize every feature with mean and (population) standard deviation of the training split."""
        known = inputs[train]
        spread = known.std(0, unbiased=False)
        return (inputs - known.mean(0)) / spread.where(spread > 0, torch.ones_like(spread))
