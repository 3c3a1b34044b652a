"""The rows of a running pass, kept on the device until the pass is over."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from lightning_flip.steps import SampleStep
from lightning_flip.tables import gather_rows

__all__ = ["VisitBuffer"]

_INTEGERS = ("loader", "global_step", "index", "pred", "target")
_MEASURES = ("prob_label", "prob_pred", "logit_margin", "cross_entropy")


class VisitBuffer:
    """Collects rows without reading anything back from the device.

    Attributes:
        epoch: the epoch that the rows belong to.
    """

    def __init__(self, epoch: int, dtype: torch.dtype = torch.float32) -> None:
        self.epoch = epoch
        self.dtype = dtype
        self._integers: list[Tensor] = []
        self._measures: list[Tensor] = []

    def __len__(self) -> int:
        return sum(rows.shape[1] for rows in self._integers)

    def add(self, step: SampleStep, *, loader: int) -> None:
        """Append a row for every sample."""
        facts = step.predictions
        assert step.global_step is not None
        global_step = step.global_step.to(step.index.device, non_blocking=True)
        place = torch.full_like(step.index, loader)
        self._integers.append(torch.stack([place, global_step, step.index_of_valid, facts.pred, step.target]))
        self._measures.append(torch.stack([getattr(facts, name) for name in _MEASURES]).to(self.dtype))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All rows, in the order in which they were added; waits for the device.

        Returns one numpy array a column of the store, and ``target``.
        """
        integers, measures = self._tensors()
        arrays: dict[str, npt.NDArray[Any]] = dict(zip(_INTEGERS, integers.cpu().numpy(), strict=True))
        arrays.update(zip(_MEASURES, measures.cpu().numpy(), strict=True))
        return arrays

    def gathered(self, device: torch.device) -> VisitBuffer:
        """The rows of all ranks, rank after rank; a collective."""
        merged = VisitBuffer(self.epoch, self.dtype)
        integers, measures = self._tensors()
        for rows, values in gather_rows(integers.T.contiguous().to(device), measures.T.contiguous().to(device)):
            merged._integers.append(rows.T)
            merged._measures.append(values.T)
        return merged

    def state_dict(self) -> dict[str, Any]:
        """The rows, on the CPU."""
        integers, measures = self._tensors()
        return {"epoch": self.epoch, "integers": integers.cpu().clone(), "measures": measures.cpu().clone()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> VisitBuffer:
        """A buffer with saved rows."""
        buffer = cls(state["epoch"], state["measures"].dtype)
        buffer._integers, buffer._measures = [state["integers"]], [state["measures"]]
        return buffer

    def _tensors(self) -> tuple[Tensor, Tensor]:
        if not self._integers:
            return torch.zeros(len(_INTEGERS), 0, dtype=torch.int64), torch.zeros(len(_MEASURES), 0, dtype=self.dtype)
        device = self._integers[-1].device  # rows of a checkpoint are on the CPU, later ones may not be
        integers = torch.cat([rows.to(device) for rows in self._integers], dim=1)
        measures = torch.cat([rows.to(device) for rows in self._measures], dim=1)
        counted = integers[_INTEGERS.index("index")] >= 0
        if not counted.all():
            integers, measures = integers[:, counted], measures[:, counted]
        self._integers, self._measures = [integers], [measures]
        return integers, measures
