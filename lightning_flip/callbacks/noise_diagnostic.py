"""The base of diagnostics that hold what was trained on against the true labels."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_flip.callbacks.diagnostic import Arrays, Diagnostic
from lightning_flip.callbacks.soft_target_files import training_data
from lightning_flip.data.sources import true_targets

__all__ = ["NoiseDiagnostic"]


class NoiseDiagnostic(Diagnostic):
    """Knows the true labels of the training data.

    Args:
        **kwargs: options of :class:`~lightning_flip.callbacks.Diagnostic`.

    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(train=True, val=False, **kwargs)
        self._truth: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask the data set for the true labels, before the work begins.

        Raises:
            ValueError: if it knows none.
        """
        super().on_train_start(trainer, pl_module)
        if not self.fitting:
            return
        dataset = training_data(trainer, self.source)
        truth = None if dataset is None else true_targets(dataset)
        if truth is None or (truth < 0).all():
            raise ValueError(
                f"{type(self).__name__} compares with true labels, and the training data "
                f"({type(dataset).__name__}) know none. Give the data set a method true_target(index), or wrap it: "
                "NoisyLabels(dataset, ...) keeps the labels that were there before."
            )
        self._truth = torch.from_numpy(truth)

    def true_labels(self, rows: Arrays) -> npt.NDArray[np.int64]:
        """The true labels of rows.

        Args:
            rows: with ``index``.

        Returns:
            int64 ``[n]``.

        Raises:
            ValueError: if one of them is not known.
        """
        assert self._truth is not None
        truth: npt.NDArray[np.int64] = self._truth.numpy()[rows["index"]]
        if (truth < 0).any():
            raise ValueError(
                f"the true label of sample {int(rows['index'][truth < 0][0])} is not known, and others are. Let "
                "true_target(index) answer for every sample."
            )
        return truth
