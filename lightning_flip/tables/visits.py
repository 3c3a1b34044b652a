"""Statistics over all visits of every sample, kept in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_flip.tables.merging import gather_rows, is_distributed

__all__ = ["VisitStatistics"]

_SUMS = ("visits", "times_right", "forgetting_events", "margin_sum", "prob_sum", "prob_square_sum")
_STATES = (*_SUMS, "last_right", "first_learned", "last_pred")


class VisitStatistics:
    """Counts and sums over the visits of every sample: forgetting, AUM and the dataset map.

    - forgetting events (Toneva et al. 2019): right at one visit, wrong at the next one;
    - AUM (Pleiss et al. 2020): mean over visits of z_y - max_{j != y} z_j;
    - dataset map (Swayamdipta et al. 2020): mean and population standard deviation of p_y, share right.

    Sums are kept in float64, so that merging ranks loses nothing (float32 where a device has no float64).

    Args:
        num_samples: number of samples N.
        device: where the tensors lie.

    Raises:
        ValueError: if there are no samples.

    Example:
        >>> stats = VisitStatistics(3)
        >>> index = torch.tensor([0, 2])
        >>> margin, prob = torch.tensor([1.0, -1.0]), torch.tensor([0.8, 0.3])
        >>> for epoch, right in enumerate([[True, False], [False, True]]):
        ...     stats.update(index, torch.tensor(right), margin, prob, epoch=epoch)
        >>> stats.forgetting_events.tolist(), stats.first_learned.tolist()
        ([1, 0, 0], [0, -1, 1])
        >>> stats.aum.tolist()
        [1.0, nan, -1.0]
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
        self.num_samples = num_samples
        real = torch.float32 if torch.device(device).type == "mps" else torch.float64
        with torch.inference_mode(False):  # the tensors outlive the validation loop that may have made them
            zeros = torch.zeros(num_samples, dtype=torch.int64, device=device)
            self.visits = zeros.clone()
            self.times_right = zeros.clone()
            self.forgetting_events = zeros.clone()
            self.first_learned = zeros - 1
            self.last_pred = zeros - 1
            self.last_right = zeros.bool()
            self.margin_sum = zeros.to(real)
            self.prob_sum = zeros.to(real)
            self.prob_square_sum = zeros.to(real)
            self._unmerged = zeros.bool()
        self._base: dict[str, Tensor] | None = None

    @property
    def ever_right(self) -> Tensor:
        """Bool ``[N]``: right at some visit."""
        return self.times_right > 0

    @property
    def aum(self) -> Tensor:
        """Float ``[N]``: mean logit margin over visits; NaN without a visit."""
        return self.margin_sum / self.visits

    @property
    def confidence(self) -> Tensor:
        """Float ``[N]`` in [0, 1]: mean probability of the label; NaN without a visit."""
        return self.prob_sum / self.visits

    @property
    def variability(self) -> Tensor:
        """Float ``[N]``: population standard deviation of the label's probability; NaN without a visit."""
        return (self.prob_square_sum / self.visits - self.confidence**2).clamp(min=0).sqrt()

    @property
    def correctness(self) -> Tensor:
        """Float ``[N]`` in [0, 1]: share of visits that were right; NaN without a visit."""
        return self.times_right.to(self.prob_sum.dtype) / self.visits

    @property
    def nbytes(self) -> int:
        """Bytes that the statistics take."""
        return sum(int(getattr(self, name).nbytes) for name in (*_STATES, "_unmerged"))

    def update(
        self,
        index: Tensor,
        right: Tensor,
        margin: Tensor,
        prob_label: Tensor,
        *,
        epoch: int,
        pred: Tensor | None = None,
        where: Tensor | None = None,
    ) -> None:
        """Count one visit of some samples; no host synchronization.

        Args:
            index: int64 ``[B]`` without repeats.
            right: bool ``[B]``.
            margin: ``[B]`` logit margins.
            prob_label: ``[B]`` probabilities of the label.
            epoch: number of the epoch, for ``first_learned``.
            pred: int64 ``[B]`` predicted classes, kept as ``last_pred``.
            where: bool ``[B]``; visits where it is False are not counted.
        """
        counted = torch.ones_like(right) if where is None else where
        if is_distributed() and self._base is None:
            self._base = {name: getattr(self, name).clone() for name in _SUMS}
        real = self.margin_sum.dtype
        zero = torch.zeros((), dtype=real, device=right.device)
        prob, gap = (torch.where(counted, value.to(real), zero) for value in (prob_label, margin))
        forgotten = self.last_right[index] & ~right & counted
        self.visits[index] += counted.long()
        self.times_right[index] += (right & counted).long()
        self.forgetting_events[index] += forgotten.long()
        self.margin_sum[index] += gap
        self.prob_sum[index] += prob
        self.prob_square_sum[index] += prob * prob
        first = right & counted & (self.first_learned[index] < 0)
        self.first_learned[index] = torch.where(first, epoch, self.first_learned[index])
        self.last_right[index] = torch.where(counted, right, self.last_right[index])
        if pred is not None:
            self.last_pred[index] = torch.where(counted, pred, self.last_pred[index])
        self._unmerged[index] |= counted

    def sync(self) -> None:
        """Merge what the ranks counted since the last call; a collective that every rank has to reach.

        A sample that one rank visited is copied bit by bit. Where several ranks visited it (sampling with
        replacement), their counts are added; the order between their visits is unknown, so a change from
        right to wrong across ranks is not counted as forgetting, and the highest rank's visit is the last.
        """
        if not is_distributed():
            self._unmerged.zero_()
            return
        mine = self._unmerged.nonzero()[:, 0]
        base = self._base if self._base is not None else {name: getattr(self, name).clone() for name in _SUMS}
        columns = [getattr(self, name)[mine] for name in _STATES]
        touched = torch.zeros_like(self._unmerged)
        for index, *values in gather_rows(mine, *columns):
            again = touched[index]
            for name, value in zip(_STATES, values, strict=True):
                column = getattr(self, name)
                merged = value
                if name in _SUMS:
                    merged = torch.where(again, column[index] + (value - base[name][index]), value)
                elif name == "first_learned":
                    known = column[index]
                    earlier = torch.where((known >= 0) & ((value < 0) | (known < value)), known, value)
                    merged = torch.where(again, earlier, value)
                column[index] = merged
            touched[index] = True
        self._unmerged.zero_()
        self._base = None

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, on the CPU.

        Returns:
            Tensors only.
        """
        return {name: getattr(self, name).detach().cpu().clone() for name in _STATES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Args:
            state: what :meth:`state_dict` gave.

        Raises:
            ValueError: if it is of another number of samples; nothing is changed then.
        """
        saved = state["visits"].shape[0]
        if saved != self.num_samples:
            raise ValueError(
                f"the saved statistics are of {saved} samples, this run has {self.num_samples}: the checkpoint is of "
                "another dataset. Resume with the data it was made with, or start a new run."
            )
        for name in _STATES:
            getattr(self, name).copy_(state[name])
        self._unmerged.zero_()
        self._base = None
