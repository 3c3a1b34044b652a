"""The iris flowers that come with scikit-learn: the smallest tabular task of the FER paper."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_flip.data.bundled import BundledDataModule, load_bundled

__all__ = ["IrisDataModule"]


class IrisDataModule(BundledDataModule):
    """The 150 flowers with 4 features, standardized by the training split: by default 120 to train on, 30 to test on.

    Mean and deviation are those of the whole training split, also where ``train_fraction`` or ``classes`` leave less of
    it, so that an old and a new model see the same inputs. The splits are random and seeded, not stratified.
    ``num_classes`` is 3, ``num_features`` 4.

    Args:
        batch_size: samples a batch, in every loader.
        test_size: samples in the test split.
        val_size: samples in a validation split of its own, taken from the training split. 0 validates on the test
            split: its predictions are watched in every epoch, as the flipping error needs, and nothing may then be
            selected by them (no early stopping, no best checkpoint).
        noise_rate: probability in ``[0, 1]`` that a training label is replaced.
        noise: ``"symmetric"`` replaces it by another class, ``"redrawn"`` draws it anew over all classes.
        noise_seed: seed of the noise; None takes ``split_seed``.
        noisy_validation: spoil the labels of the validation split in the same way (needs ``val_size``).
        split_seed: seed of the split.
        num_workers: worker processes of each loader.
        train_fraction: share of each class, in ``(0, 1]``, that is left in the training split: what an old model
            learns from, when a new one learns from all of it. Smaller shares are part of larger ones.
        classes: the labels to train and to evaluate on, which are then counted from 0 in this order, and whose number
            is then ``num_classes``; None keeps all.

    Raises:
        ValueError: if an option is outside its range, or (in ``setup``) the splits leave nothing to train on.
        ModuleNotFoundError: in ``setup``, if scikit-learn is not installed.

    Example:
        >>> data = IrisDataModule()
        >>> data.setup()
        >>> features, labels = next(iter(data.train_dataloader()))
        >>> features.shape, labels.shape
        (torch.Size([16, 4]), torch.Size([16]))
    """

    num_classes = 3
    num_features = 4

    def __init__(
        self,
        *,
        batch_size: int = 16,
        test_size: int = 30,
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
        super().__init__(
            batch_size=batch_size,
            test_size=test_size,
            val_size=val_size,
            noise_rate=noise_rate,
            noise=noise,
            noise_seed=noise_seed,
            noisy_validation=noisy_validation,
            split_seed=split_seed,
            num_workers=num_workers,
            train_fraction=train_fraction,
            classes=classes,
        )

    def load(self) -> tuple[Tensor, Tensor]:
        """Load all features and labels.

        Returns:
            Features ``[150, 4]`` float32 in centimeters and labels ``[150]`` int64.
        """
        bunch = load_bundled("load_iris")
        return torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target, dtype=torch.int64)

    def preprocess(self, inputs: Tensor, train: list[int]) -> Tensor:
        """Standardize every feature with mean and (population) standard deviation of the training split.

        Args:
            inputs: all features ``[150, 4]``.
            train: positions of the training split.

        Returns:
            Features ``[150, 4]``; over the training split they have mean 0 and standard deviation 1.
        """
        known = inputs[train]
        spread = known.std(0, unbiased=False)
        return (inputs - known.mean(0)) / spread.where(spread > 0, torch.ones_like(spread))
