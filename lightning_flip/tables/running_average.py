"""The running average of what a network predicts for every sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_flip.tables.sample_table import SampleTable

__all__ = ["RunningAverage"]


class RunningAverage(SampleTable):
    """q[n] <- (1 - alpha) q[n] + alpha p at every visit of sample n (Filter-KD, Algorithm 1), in float32.

    The pending rows are the average as it stands: a visit counts at once for the next one. :meth:`commit` keeps a copy
    of it, the average of the best moment so far; :meth:`rows` and :meth:`seen` read that copy.

    Args:
        num_samples: number of rows N.
        width: number of classes K.
        alpha: weight of the new prediction in (0, 1].
        device: device of the rows.

    Raises:
        ValueError: if ``alpha`` is outside (0, 1], or a size is not positive.

    Example:
        >>> average, index = RunningAverage(3, 2, alpha=0.25), torch.tensor([1])
        >>> average.visit(index, torch.tensor([[1.0, 0.0]]))
        >>> average.commit()
        >>> average.visit(index, torch.tensor([[0.0, 1.0]]))
        >>> average.pending(index)[0], average.rows(index)
        (tensor([[0.7500, 0.2500]]), tensor([[1., 0.]]))
    """

    def __init__(self, num_samples: int, width: int, *, alpha: float, device: torch.device | str = "cpu") -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1]; got {alpha}.")
        super().__init__(num_samples, width, device=device)
        self.alpha = alpha
        self.begun = False

    def begin(self, rows: Tensor) -> None:
        """Start the average from predictions ``[N, K]`` made before training; that is not a visit yet."""
        self._pending.copy_(rows)
        self._clean = False
        self.begun = True

    def visit(self, index: Tensor, probs: Tensor, where: Tensor | None = None) -> None:
        """Take in one prediction of each sample; no host synchronization.

        Args:
            index: int64 ``[B]`` without repeats.
            probs: float32 ``[B, K]``; the first visit copies it, unless :meth:`begin` came before.
            where: bool ``[B]``; rows where it is False are left as they are.
        """
        before, seen = self.pending(index)
        average = (1 - self.alpha) * before + self.alpha * probs
        self.update(index, average if self.begun else torch.where(seen[:, None], average, probs), where)

    def grow(self, num_samples: int) -> None:
        """Append empty rows for a dataset that has grown; a ValueError if it began with a pass over all samples."""
        if self.begun and num_samples > self.num_samples:
            raise ValueError(
                f"the average began with predictions on {self.num_samples} samples before training, and the data have "
                f"grown to {num_samples}. Keep the data as they are, or leave out the first pass (initial_pass=False)."
            )
        super().grow(num_samples)

    def latest(self) -> tuple[Tensor, Tensor]:
        """The average as it stands ``[N, K]``, and whether a sample was visited ``[N]``; the tables, not copies."""
        return self._pending, self._pending_seen

    def kept(self) -> tuple[Tensor, Tensor]:
        """The average of the last :meth:`commit` ``[N, K]``, and whether a sample was visited by then ``[N]``."""
        return self._rows, self._seen

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: tensors on the CPU."""
        return {**super().state_dict(), "begun": torch.tensor(self.begun)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; one of another size is a ValueError, and changes nothing."""
        super().load_state_dict(state)
        self.begun = bool(state["begun"])
