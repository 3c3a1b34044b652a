"""Statistics over all visits of every sample, kept in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_flip.tables.merging import append_rows, gather_rows, is_distributed

__all__ = ["VisitStatistics", "VisitsBefore"]

_COUNTS = ("visits", "times_right", "forgetting_events", "first_learned", "last_right", "last_pred")
_ADDED = 3  # the first counts add up over ranks, the others do not
_UNKNOWN = [_COUNTS.index("first_learned"), _COUNTS.index("last_pred")]  # -1 before the first visit
_SUMS = ("margin_sum", "prob_sum", "prob_square_sum")


class VisitsBefore(NamedTuple):
    """What was known of some samples before the visit that :meth:`VisitStatistics.update` counted, each ``[B]``.

    Attributes:
        visits: int64, earlier visits.
        last_right: bool, whether the visit before was right.
        first_learned: int64, epoch of the first right visit, -1 without one.
        last_pred: int64, class predicted at the visit before, -1 without one.
    """

    visits: Tensor
    last_right: Tensor
    first_learned: Tensor
    last_pred: Tensor


class VisitStatistics:
    """Counts and sums over the visits of every sample: forgetting, AUM and the dataset map.

    - forgetting events (Toneva et al. 2019): right at one visit, wrong at the next one;
    - AUM (Pleiss et al. 2020): mean over visits of z_y - max_{j != y} z_j;
    - dataset map (Swayamdipta et al. 2020): mean and population standard deviation of p_y, share right.

    Sums are kept in float64, so that merging ranks loses nothing (float32 if a device has no float64).

    Args:
        num_samples: number of samples N.
        device: device of the tensors.

    Raises:
        ValueError: if there are no samples.

    Example:
        >>> stats = VisitStatistics(3)
        >>> index = torch.tensor([0, 2])
        >>> margin, prob = torch.tensor([1.0, -1.0]), torch.tensor([0.8, 0.3])
        >>> for epoch, right in enumerate([[True, False], [False, True]]):
        ...     _ = stats.update(index, torch.tensor(right), margin, prob, epoch=epoch)
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
            # Two matrices, so that a step takes one gather and one scatter of each.
            self._counts = torch.zeros(num_samples, len(_COUNTS), dtype=torch.int64, device=device)
            self._sums = torch.zeros(num_samples, len(_SUMS), dtype=real, device=device)
            self._unmerged = torch.zeros(num_samples, dtype=torch.bool, device=device)
        self._counts[:, _UNKNOWN] = -1
        self._base: tuple[Tensor, Tensor] | None = None

    def grow(self, num_samples: int) -> None:
        """Append samples without visits for a dataset that has grown to N."""
        before, self.num_samples = self.num_samples, num_samples
        self._counts, self._sums = append_rows(self._counts, num_samples), append_rows(self._sums, num_samples)
        self._counts[before:, _UNKNOWN] = -1
        self._unmerged = append_rows(self._unmerged, num_samples)
        if self._base is not None:
            counts, sums = self._base
            self._base = append_rows(counts, num_samples), append_rows(sums, num_samples)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self._counts.device

    @property
    def visits(self) -> Tensor:
        """int64 ``[N]``."""
        return self._counts[:, 0]

    @property
    def times_right(self) -> Tensor:
        """int64 ``[N]``."""
        return self._counts[:, 1]

    @property
    def forgetting_events(self) -> Tensor:
        """int64 ``[N]``: changes from right to wrong between consecutive visits."""
        return self._counts[:, 2]

    @property
    def first_learned(self) -> Tensor:
        """int64 ``[N]``: epoch of the first right visit, -1 without one."""
        return self._counts[:, 3]

    @property
    def last_right(self) -> Tensor:
        """Whether the last visit was right, bool ``[N]``."""
        return self._counts[:, 4].bool()

    @property
    def last_pred(self) -> Tensor:
        """int64 ``[N]``: class predicted at the last visit, -1 without one."""
        return self._counts[:, 5]

    @property
    def ever_right(self) -> Tensor:
        """Bool ``[N]``: right at some visit."""
        return self.times_right > 0

    @property
    def aum(self) -> Tensor:
        """Float ``[N]``: mean logit margin over visits; NaN without a visit."""
        return self._sums[:, 0] / self.visits

    @property
    def confidence(self) -> Tensor:
        """Float ``[N]`` in [0, 1]: mean probability of the label; NaN without a visit."""
        return self._sums[:, 1] / self.visits

    @property
    def variability(self) -> Tensor:
        """Float ``[N]``: population standard deviation of the label's probability; NaN without a visit."""
        return (self._sums[:, 2] / self.visits - self.confidence**2).clamp(min=0).sqrt()

    @property
    def correctness(self) -> Tensor:
        """Float ``[N]`` in [0, 1]: share of visits that were right; NaN without a visit."""
        return self.times_right.to(self._sums.dtype) / self.visits

    @staticmethod
    def bytes_needed(num_samples: int) -> int:
        """Bytes that the statistics of N samples take; less on a device without float64.

        Example:
            >>> VisitStatistics.bytes_needed(50_000) / 1e6, VisitStatistics(10).nbytes
            (3.65, 730)
        """
        return num_samples * (len(_COUNTS) * 8 + len(_SUMS) * 8 + 1)

    @property
    def nbytes(self) -> int:
        """Bytes that the statistics take."""
        return int(self._counts.nbytes + self._sums.nbytes + self._unmerged.nbytes)

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
    ) -> VisitsBefore:
        """Count one visit of some samples; no host synchronization.

        Args:
            index: int64 ``[B]`` without repeats.
            right: bool ``[B]``.
            margin: ``[B]`` logit margins.
            prob_label: ``[B]`` probabilities of the label.
            epoch: number of the epoch, for ``first_learned``.
            pred: int64 ``[B]`` predicted classes, kept as ``last_pred``.
            where: bool ``[B]``; visits where it is False are not counted.

        Returns:
            What was known before.
        """
        if is_distributed() and self._base is None:
            self._base = self._counts.clone(), self._sums.clone()
        old, sums = self._counts[index], self._sums[index]
        visits, times_right, forgotten, learned, was_right, last_pred = old.unbind(dim=1)
        hit = right.long()
        new = torch.stack(
            [
                visits + 1,
                times_right + hit,
                forgotten + was_right * (1 - hit),
                torch.where(right & (learned < 0), epoch, learned),
                hit,
                last_pred if pred is None else pred,
            ],
            dim=1,
        )
        prob = prob_label.to(sums.dtype)
        added = sums + torch.stack([margin.to(sums.dtype), prob, prob * prob], dim=1)
        if where is not None:
            new, added = torch.where(where[:, None], new, old), torch.where(where[:, None], added, sums)
        self._counts[index], self._sums[index] = new, added
        self._unmerged[index] = True if where is None else self._unmerged[index] | where
        return VisitsBefore(visits, was_right.bool(), learned, last_pred)

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
        base_counts, base_sums = self._base if self._base is not None else (self._counts.clone(), self._sums.clone())
        touched = torch.zeros_like(self._unmerged)
        for index, counts, sums in gather_rows(mine, self._counts[mine], self._sums[mine]):
            again = touched[index][:, None]
            merged = counts.clone()
            known = self._counts[index]
            merged[:, :_ADDED] += known[:, :_ADDED] - base_counts[index, :_ADDED]
            learned = torch.stack([known[:, _ADDED], counts[:, _ADDED]])
            earliest = torch.where(learned < 0, torch.iinfo(torch.int64).max, learned).amin(dim=0)
            merged[:, _ADDED] = torch.where((learned < 0).all(dim=0), -1, earliest)
            self._counts[index] = torch.where(again, merged, counts)
            self._sums[index] = torch.where(again, self._sums[index] + (sums - base_sums[index]), sums)
            touched[index] = True
        self._unmerged.zero_()
        self._base = None

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: tensors on the CPU."""
        return {"counts": self._counts.detach().cpu().clone(), "sums": self._sums.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; one of another size is a ValueError, and changes nothing."""
        saved = state["counts"].shape[0]
        if saved != self.num_samples:
            raise ValueError(
                f"the saved statistics are of {saved} samples, this run has {self.num_samples}: the checkpoint is of "
                "another dataset. Resume with the data it was made with, or start a new run."
            )
        self._counts.copy_(state["counts"])
        self._sums.copy_(state["sums"])
        self._unmerged.zero_()
        self._base = None
