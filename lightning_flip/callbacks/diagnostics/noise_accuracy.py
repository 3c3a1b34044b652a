"""What a network makes of right and of wrong training labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.callbacks.diagnostics._noise_diagnostic import NoiseDiagnostic
from lightning_flip.callbacks.diagnostics.base import Arrays
from lightning_flip.callbacks.diagnostics.finding import Finding
from lightning_flip.reports.figures.noise import noise_accuracies
from lightning_flip.steps import SampleStep

__all__ = ["NoiseAccuracy"]

_PARTS = ("all_true", "clean_true", "noisy_true", "noisy_label", "all_label")


class NoiseAccuracy(NoiseDiagnostic):
    """Accuracy on all, clean and mislabelled training samples, against true and given labels (Table 3 of LS-noise).

    Logs ``train_accuracy_all_true``, ``train_accuracy_clean_true``, ``train_accuracy_noisy_true`` (wrong labels
    undone), ``train_accuracy_noisy_label`` (wrong labels that were memorized) and ``train_accuracy_all_label``, and
    writes them as rows ``epoch, part, against, accuracy, samples`` to ``diagnostics/train_noise_accuracy.csv``. A part
    without samples is not logged. The dataset tells the true labels: ``true_target(index)``, as
    :class:`~lightning_flip.data.NoisyLabels` does. There is no figure.

    Args:
        every_n_epochs: how often; None: after the last epoch (then nothing is logged, only written).
        **kwargs: options of :class:`~lightning_flip.callbacks.Diagnostic`; ``passes="eval"`` is the paper's table.

    Raises:
        ValueError: when training starts, if the data know no true labels.

    Example:
        >>> NoiseAccuracy(passes="eval", every_n_epochs=10).state_key
        "NoiseAccuracy{'train': True, 'val': False, 'name': ''}"
    """

    title = "noise_accuracy"
    logs = tuple(f"accuracy_{part}" for part in _PARTS)

    def __init__(self, *, every_n_epochs: int | None = 1, **kwargs: Any) -> None:
        super().__init__(every_n_epochs=every_n_epochs, **kwargs)

    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """Prediction and label."""
        return {"pred": step.logits.argmax(dim=1), "label": step.target}

    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding:
        """The shares of right ones."""
        found = noise_accuracies(rows["pred"], rows["label"], self.true_labels(rows))
        shares = {part: share for part in _PARTS if (share := getattr(found, part)) is not None}
        return Finding(found.table(), found, scalars={f"accuracy_{part}": share for part, share in shares.items()})
