"""How sure a network is of true and of wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch import Tensor

from lightning_flip.callbacks.diagnostics._noise_diagnostic import NoiseDiagnostic
from lightning_flip.callbacks.diagnostics.base import Arrays
from lightning_flip.callbacks.diagnostics.finding import Finding
from lightning_flip.functional.predictions import logit_gap
from lightning_flip.reports.figures.noise import logit_gaps, plot_logit_gaps
from lightning_flip.steps import SampleStep

__all__ = ["LogitGaps"]


class LogitGaps(NoiseDiagnostic):
    """Densities of a logit less the mean of all logits (LS-noise, Fig. 3 and 7), of the training data.

    On the mislabelled part: of the true label's logit and of the given, wrong one's; on the clean part of the true
    label's; on all samples of the largest logit. Written to ``diagnostics/train_logit_gaps.csv`` (``epoch, low, high``
    and a column a curve) and drawn. The dataset tells the true labels: ``true_target(index)``, as
    :class:`~lightning_flip.data.NoisyLabels` does.

    Args:
        **kwargs: options of :class:`~lightning_flip.callbacks.Diagnostic`; ``passes="eval"`` is the paper's figure.

    Raises:
        ValueError: when training starts, if the data know no true labels.

    Example:
        >>> LogitGaps(every_n_epochs=50).state_key
        "LogitGaps{'train': True, 'val': False, 'name': ''}"
    """

    title = "logit_gaps"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._device_truth: Tensor | None = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the labels on the device."""
        super().teardown(trainer, pl_module, stage)
        self._device_truth = None

    def columns(self, step: SampleStep) -> Mapping[str, Tensor]:
        """The three gaps and the given label."""
        if self._device_truth is None:
            assert self._truth is not None
            self._device_truth = self._truth.to(step.logits.device)
        # A label that is not known, or wrong, is refused when the pass is over; a gather must not fall over it.
        true = self._device_truth[step.index].clamp(0, step.num_classes - 1)
        given = step.target.clamp(0, step.num_classes - 1)
        return {
            "label": step.target,
            "label_gap": logit_gap(step.logits, given),
            "true_gap": logit_gap(step.logits, true),
            "top_gap": logit_gap(step.logits),
        }

    def describe(self, trainer: pl.Trainer, split: str, rows: Arrays) -> Finding:
        """The densities."""
        masked = np.flatnonzero(~np.isfinite(rows["top_gap"]))
        if len(masked):
            raise ValueError(
                f"LogitGaps takes the mean of all logits, and {len(masked)} of {len(rows['index'])} {split} samples, "
                f"sample {rows['index'][masked[0]]} for one, have classes that are masked (logits of minus infinity), "
                "so that it is infinite. Name logits from before the mask with logits_from=, or leave LogitGaps out."
            )
        gaps = logit_gaps(
            label_gap=rows["label_gap"].astype(np.float64),
            true_gap=rows["true_gap"].astype(np.float64),
            top_gap=rows["top_gap"].astype(np.float64),
            is_noisy=self.true_labels(rows) != rows["label"],
        )
        return Finding(gaps.table(), gaps, lambda: plot_logit_gaps(gaps))
