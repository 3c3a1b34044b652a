"""The cyclic learning rate of snapshot distillation."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_flip.functional.cycles import cosine_of_cycle, cycle_of

__all__ = ["CyclicCosine"]


class CyclicCosine(LRScheduler):
    """Cosine decay from the optimizer's learning rate to ``min_lr``, once per cycle.

    The learning rate in the i-th of a cycle's n epochs is min_lr + (lr - min_lr) (1 + cos(pi i / n)) / 2, i from 0.
    Cycles are those of :class:`~lightning_flip.mixins.SnapshotDistillation`: if M is not a multiple of C, lengths
    differ by one epoch. Step it once per epoch, as a Trainer does by default, or with ``steps_per_epoch`` once per
    optimizer step (``interval="step"``); i is then the fraction of epochs done. Every value depends on the number of
    steps alone, so that a resumed run continues exactly.

    Args:
        optimizer: the optimizer to schedule.
        total_epochs: M, the Trainer's ``max_epochs``.
        cycles: C.
        min_lr: the learning rate at the end of each cycle.
        last_epoch: the step before the first one, -1 for a new run.
        steps_per_epoch: how often it is stepped per epoch: 1, or the number of optimizer steps,
            ceil(batches / ``accumulate_grad_batches``).

    Raises:
        ValueError: if ``total_epochs``, ``cycles`` or ``steps_per_epoch`` is below 1, or ``min_lr`` below 0.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
        >>> scheduler, rates = CyclicCosine(optimizer, total_epochs=4, cycles=2), []
        >>> for _ in range(5):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.1, 0.05, 0.1, 0.05, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_epochs: int,
        cycles: int = 4,
        min_lr: float = 0.0,
        last_epoch: int = -1,
        steps_per_epoch: int = 1,
    ) -> None:
        if total_epochs < 1 or cycles < 1 or not min_lr >= 0:
            raise ValueError(
                "CyclicCosine needs total_epochs >= 1, cycles >= 1 and min_lr >= 0; got "
                f"{total_epochs}, {cycles} and {min_lr}."
            )
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1; got {steps_per_epoch}.")
        self.total_epochs = total_epochs
        self.cycles = cycles
        self.min_lr = min_lr
        self.steps_per_epoch = steps_per_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the current epoch or step, one per parameter group."""
        share = cosine_of_cycle(self.last_epoch / self.steps_per_epoch, self.total_epochs, self.cycles)
        return [self.min_lr + (float(base) - self.min_lr) * share for base in self.base_lrs]

    def cycle(self, epoch: int) -> int:
        """The cycle that an epoch is in; both count from 0."""
        return cycle_of(epoch, self.total_epochs, self.cycles)
