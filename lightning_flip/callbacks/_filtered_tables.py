"""The tables of a prediction filter: the running average, the labels that steps saw, and the best moment."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_flip.steps import SampleStep
from lightning_flip.tables import RunningAverage, SampleTable

__all__ = ["FilteredTables"]


class FilteredTables:
    """One row per training sample: its filtered prediction, now and at the best moment, and its label.

    Attributes:
        average: the running average; its committed copy is that of the best moment.
        best: the best moment (epoch, step, score), None before there is one.
        best_eval: float32 ``[N, K]`` on the CPU, predictions of the best moment in eval mode, if evaluated.

    Example:
        >>> tables = FilteredTables(3, 2, alpha=0.5, device="cpu")
        >>> tables.visit(SampleStep(torch.tensor([2]), torch.zeros(1, 2), torch.tensor([1])))
        >>> tables.average.latest()[0].tolist(), tables.labels().tolist()
        ([[0.0, 0.0], [0.0, 0.0], [0.5, 0.5]], [-1, -1, 1])
    """

    def __init__(self, num_samples: int, num_classes: int, *, alpha: float, device: torch.device | str) -> None:
        needed = RunningAverage.bytes_needed(num_samples, num_classes)
        needed += SampleTable.bytes_needed(num_samples, 1, torch.int64)
        rank_zero_info(f"PredictionFilter: 2 tables of {num_samples} samples x {num_classes} = {needed / 1e6:.1f} MB")
        try:
            self.average = RunningAverage(num_samples, num_classes, alpha=alpha, device=device)
            self._labels = SampleTable(num_samples, 1, dtype=torch.int64, device=device)
        except RuntimeError as error:
            raise MemoryError(
                f"the tables of {num_samples} samples x {num_classes} classes, now and at the best epoch, take "
                f"{needed / 1e9:.1f} GB and do not fit on {device}. Filter fewer samples or classes."
            ) from error
        self.best: dict[str, Any] | None = None
        self.best_eval: Tensor | None = None

    def grow(self, num_samples: int) -> None:
        """Append rows for a dataset that has grown; there is no prediction of the best moment on new samples."""
        self.average.grow(num_samples)
        self._labels.grow(num_samples)

    def visit(self, step: SampleStep) -> None:
        """Take in a step's predictions; nothing is read back from the device."""
        if step.num_classes != self.average.width or (step.num_samples or 0) > self.average.num_samples:
            raise ValueError(
                f"the tables are of {self.average.num_samples} samples x {self.average.width} classes, this step is of "
                f"{step.num_samples} x {step.num_classes}. Resume with the data the checkpoint was made with, look at "
                "what logits_from names, or start a new run."
            )
        step.require_below(self.average.num_samples)
        for part in step.pieces():
            self.average.visit(part.index, part.logits.softmax(dim=1).float(), part.valid)
            self._labels.update(part.index, part.target[:, None], part.valid)

    def labels(self) -> Tensor:
        """The labels that steps saw, int64 ``[N]``; -1 if no step saw the sample."""
        every = torch.arange(self._labels.num_samples, device=self._labels.device)
        labels, seen = self._labels.pending(every)
        return torch.where(seen, labels[:, 0], -1)

    def keep(self, moment: dict[str, Any], evaluated: Tensor | None) -> None:
        """Remember this moment as the best."""
        self.average.commit()
        self.best, self.best_eval = moment, evaluated

    def sync(self) -> None:
        """Bring all ranks' rows together; a collective that every rank has to reach."""
        self.average.sync()
        self._labels.sync()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, on the CPU: tensors, numbers and text."""
        return {
            "average": self.average.state_dict(),
            "labels": self._labels.state_dict(),
            "best": self.best,
            "best_eval": self.best_eval,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], *, alpha: float, device: torch.device | str) -> FilteredTables:
        """Tables that continue saved ones."""
        num_samples, num_classes = state["average"]["rows"].shape
        tables = cls(num_samples, num_classes, alpha=alpha, device=device)
        tables.average.load_state_dict(state["average"])
        tables._labels.load_state_dict(state["labels"])
        tables.best, tables.best_eval = state["best"], state["best_eval"]
        return tables
