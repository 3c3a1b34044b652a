"""Handwritten digits of 8x8 pixels that come with scikit-learn: an image task without a download."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_flip.data.bundled import BundledDataModule, load_bundled

__all__ = ["DigitsDataModule"]


class DigitsDataModule(BundledDataModule):
    """The 1797 digits as images ``[1, 8, 8]``, float32 in ``[0, 1]``: by default 1297 to train on, 500 to test on.

    The splits are random and seeded, not stratified. ``num_classes`` is 10, ``num_features`` 64.

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

    def __init__(
        self,
        *,
        batch_size: int = 64,
        test_size: int = 500,
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
        """Load all images and labels.

        Returns:
            Images ``[1797, 1, 8, 8]`` float32 in ``[0, 1]`` and labels ``[1797]`` int64.
        """
        bunch = load_bundled("load_digits")
        images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16  # pixels count from 0 to 16
        return images, torch.tensor(bunch.target, dtype=torch.int64)
