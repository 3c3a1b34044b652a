"""The base of diagnostics that compare the labels that were trained on with the true ones."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_flip.callbacks._evaluation import training_data
from lightning_flip.callbacks.diagnostics.base import Arrays, Diagnostic
from lightning_flip.data.labels import kept_labels
from lightning_flip.data.origins import true_targets

__all__ = ["NoiseDiagnostic"]


class NoiseDiagnostic(Diagnostic):
    """Knows the true labels of the training data."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(train=True, val=False, **kwargs)
        self._truth: Tensor | None = None
        self._data_name = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask the dataset for the true labels, before the work begins."""
        super().on_train_start(trainer, pl_module)
        if not self.fitting:
            return
        dataset = training_data(trainer, self.source)
        if dataset is None:
            raise TypeError(
                f"{type(self).__name__} asks the training data for true labels by position: that needs a map-style "
                "dataset whose positions are the samples' indices (no index_from=), and loader= if training draws "
                "from several loaders."
            )
        truth, labels = true_targets(dataset), kept_labels(dataset)
        self._data_name = type(dataset).__name__
        if (truth < 0).all():
            raise ValueError(self._unknown("know none"))
        # A sample without a label, which the loss leaves out, has no row, and need not have a true one.
        missing = (truth < 0) & (labels >= 0 if labels is not None and len(labels) == len(truth) else False)
        if missing.any():
            raise ValueError(self._unknown(f"do not know that of sample {int(missing.argmax())}"))
        self._truth = torch.from_numpy(truth)

    def _unknown(self, what: str) -> str:
        return (
            f"{type(self).__name__} compares with true labels, and the training data ({self._data_name}) {what}. Give "
            "the dataset a method true_target(index), or wrap it: NoisyLabels(dataset, ...) keeps the labels that "
            "were there before."
        )

    def true_labels(self, rows: Arrays) -> npt.NDArray[np.int64]:
        """The true labels of rows. Returns int64 ``[n]``."""
        assert self._truth is not None
        truth: npt.NDArray[np.int64] = self._truth.numpy()[rows["index"]]
        if (truth < 0).any():
            raise ValueError(self._unknown(f"do not know that of sample {rows['index'][truth < 0][0]}"))
        return truth

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the labels."""
        super().teardown(trainer, pl_module, stage)
        self._truth = None
