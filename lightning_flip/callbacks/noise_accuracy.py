"""What a network makes of right and of wrong training labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.callbacks.diagnostic import Arrays
from lightning_flip.callbacks.diagnostic_files import Finding
from lightning_flip.callbacks.noise_diagnostic import NoiseDiagnostic
from lightning_flip.reports.noise_figures import noise_accuracies
from lightning_flip.steps import SampleStep

__all__ = ["NoiseAccuracy"]


class NoiseAccuracy(NoiseDiagnostic):
    """Accuracy on all, clean and mislabelled training samples, against true and given labels (Table 3 of LS-noise).

    Logs ``train_accuracy_all_true``, ``train_accuracy_clean_true``, ``train_accuracy_noisy_true`` (wrong labels
    undone), ``train_accuracy_noisy_label`` (wrong labels learned by heart) and ``train_accuracy_all_label``, and writes
    them as rows ``epoch, part, against, accuracy, samples`` to ``diagnostics/train_noise_accuracy.csv``. A part without
    samples is not logged. The data set tells the true labels: ``true_target(index)``, as
    :class:`~lightning_flip.data.NoisyLabels` does. There is no figure.

    Args:
        mode: "visits": as the training forward predicted, before each update, at no further cost; "eval": a pass in
            eval mode over the training data, as in the paper's table.
        every_n_epochs: how often; None: after the last epoch (then nothing is logged, only written).
        dirpath: the run's folder; None: the Trainer's ``log_dir``, without a logger its ``default_root_dir``.
        overwrite: replace another run's table instead of refusing.
        name: tells two of one Trainer apart.
        logits_from: where the logits are, see :class:`~lightning_flip.steps.StepSource`.
        target_from: where the targets are.
        loader: which training loader to follow, where there are several.

    Raises:
        ValueError: if an option is out of range; when training starts, if the data know no true labels.
        FileExistsError: when a fit begins and another run's table is there.

    Example:
        >>> NoiseAccuracy(mode="eval", every_n_epochs=10).state_key
        "NoiseAccuracy{'train': True, 'val': False, 'name': ''}"
    """

    title = "noise_accuracy"

    def __init__(
        self,
        *,
        mode: Literal["visits", "eval"] = "visits",
        every_n_epochs: int | None = 1,
        dirpath: str | Path | None = None,
        overwrite: bool = False,
        name: str = "",
        logits_from: str | Callable[[Any], Any] = "",
        target_from: str | int | Callable[[Any], Any] | None = None,
        loader: int | str | None = None,
    ) -> None:
        super().__init__(
            mode=mode,
            every_n_epochs=every_n_epochs,
            figures=False,
            dirpath=dirpath,
            overwrite=overwrite,
            name=name,
            source={"logits_from": logits_from, "target_from": target_from, "index_from": None, "loader": loader},
        )

    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """Prediction and label."""
        return {"pred": step.logits.argmax(dim=1), "label": step.target}

    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding:
        """The shares of right ones."""
        found = noise_accuracies(rows["pred"], rows["label"], self.true_labels(rows))
        parts = ("all_true", "clean_true", "noisy_true", "noisy_label", "all_label")
        shares = {part: share for part in parts if (share := getattr(found, part)) is not None}
        return Finding(found.table(), found, scalars={f"accuracy_{part}": share for part, share in shares.items()})
