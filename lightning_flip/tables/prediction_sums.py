"""Sums of what a network predicted for every sample, from which zig-zag scores come without a stored path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_flip.functional.paths import other_classes
from lightning_flip.tables.merging import append_rows, gather_rows, is_distributed

__all__ = ["PredictionSums"]

_STATE = ("sums", "visits", "target")


class PredictionSums:
    """The sum over visits of q[n], the number of visits, and the label of the last one: O(N x K) memory.

    Sums are kept in float32; a sum over a thousand visits has a relative error below 1e-4, usually far below.

    Args:
        num_samples: number of samples N.
        num_classes: number of classes K, at least 2.
        device: device of the tensors.

    Attributes:
        sums: float32 ``[N, K]``.
        visits: int64 ``[N]``.
        target: int64 ``[N]``, -1 without a visit.

    Raises:
        ValueError: if there are no samples or fewer than two classes.

    Example:
        >>> table, label = PredictionSums(3, 2), torch.tensor([0])
        >>> for q in ([[0.2, 0.8]], [[0.6, 0.4]], [[1.0, 0.0]]):
        ...     table.add(torch.tensor([2]), torch.tensor(q), label)
        >>> table.zigzag()
        tensor([   nan,    nan, 1.2000])
    """

    def __init__(self, num_samples: int, num_classes: int, *, device: torch.device | str = "cpu") -> None:
        if num_samples < 1 or num_classes < 2:
            raise ValueError(f"a table needs at least one sample and two classes; got {num_samples} x {num_classes}.")
        with torch.inference_mode(False):  # the tensors outlive the loop that may have made them
            self.sums = torch.zeros(num_samples, num_classes, device=device)
            self.visits = torch.zeros(num_samples, dtype=torch.int64, device=device)
            self.target = torch.full_like(self.visits, -1)
            self._unmerged = torch.zeros(num_samples, dtype=torch.bool, device=device)
        self._base: tuple[Tensor, Tensor] | None = None

    @property
    def num_samples(self) -> int:
        """Number of samples N."""
        return int(self.sums.shape[0])

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return int(self.sums.shape[1])

    @staticmethod
    def bytes_needed(num_samples: int, num_classes: int) -> int:
        """Bytes that a table of a size takes in one process; several ranks keep the sums twice.

        Example:
            >>> PredictionSums.bytes_needed(50_000, 100) / 1e6
            20.85
        """
        return num_samples * (4 * num_classes + 17)

    def grow(self, num_samples: int) -> None:
        """Append samples without visits for a dataset that has grown to N."""
        self.sums, self.visits = append_rows(self.sums, num_samples), append_rows(self.visits, num_samples)
        self.target, self._unmerged = (
            append_rows(self.target, num_samples, -1),
            append_rows(self._unmerged, num_samples),
        )
        if self._base is not None:
            sums, visits = self._base
            self._base = append_rows(sums, num_samples), append_rows(visits, num_samples)

    def add(self, index: Tensor, probs: Tensor, target: Tensor, where: Tensor | None = None) -> None:
        """Add one visit of some samples; no host synchronization.

        Args:
            index: int64 ``[B]`` without repeats.
            probs: ``[B, K]``.
            target: int64 ``[B]``, the labels.
            where: bool ``[B]``; visits where it is False do not count.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if probs.shape != (index.shape[0], self.num_classes):
            raise ValueError(
                f"probs must be [{index.shape[0]}, {self.num_classes}] for {index.shape[0]} indices and a table of "
                f"{self.num_classes} classes; got {list(probs.shape)}."
            )
        if is_distributed() and self._base is None:
            self._base = self.sums.clone(), self.visits.clone()
        added = self.sums[index] + probs.float()
        if where is None:
            self.sums[index], self.target[index], self._unmerged[index] = added, target, True
            self.visits[index] += 1
        else:
            self.sums[index] = torch.where(where[:, None], added, self.sums[index])
            self.target[index] = torch.where(where, target, self.target[index])
            self.visits[index] += where
            self._unmerged[index] |= where

    @property
    def merged(self) -> bool:
        """Whether nothing was added since the last :meth:`sync`; waits for the device."""
        return not bool(self._unmerged.any())

    def zigzag(self) -> Tensor:
        """The scores float32 ``[N]``: the largest sum of a class other than the label; NaN without a visit."""
        return torch.where(self.visits > 0, self._others().amax(dim=1), torch.nan)

    def other(self) -> Tensor:
        """The class that each path strays to, int64 ``[N]``; -1 without a visit."""
        return torch.where(self.visits > 0, self._others().argmax(dim=1), -1)

    def sync(self) -> None:
        """Merge what the ranks added since the last call; a collective that every rank has to reach.

        The row of a sample that one rank visited is copied bit by bit, so that ranks add up as one process does. Where
        several ranks visited it (sampling with replacement), their additions are summed, and the highest rank's label
        is the last.
        """
        if not is_distributed():
            self._unmerged.zero_()
            return
        mine = self._unmerged.nonzero()[:, 0]
        base_sums, base_visits = self._base if self._base is not None else (self.sums.clone(), self.visits.clone())
        touched = torch.zeros_like(self._unmerged)
        for index, sums, visits, target in gather_rows(mine, self.sums[mine], self.visits[mine], self.target[mine]):
            again = touched[index]
            more, times = self.sums[index] + (sums - base_sums[index]), self.visits[index] + visits - base_visits[index]
            self.sums[index] = torch.where(again[:, None], more, sums)
            self.visits[index] = torch.where(again, times, visits)
            self.target[index] = target
            touched[index] = True
        self._unmerged.zero_()
        self._base = None

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: tensors on the CPU."""
        return {name: getattr(self, name).detach().cpu().clone() for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; one of another size is a ValueError, and changes nothing."""
        if state["sums"].shape != self.sums.shape:
            raise ValueError(
                f"the saved sums are of {state['sums'].shape[0]} samples x {state['sums'].shape[1]} classes, this run "
                f"has {self.num_samples} x {self.num_classes}: the checkpoint is of another dataset or network. Resume "
                "with what it was made with, or start a new run."
            )
        for name in _STATE:
            getattr(self, name).copy_(state[name])
        self._unmerged.zero_()
        self._base = None

    def _others(self) -> Tensor:
        return other_classes(self.sums, self.target.clamp(min=0))
