"""Notices a diverging loss, without waiting for the device in every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_flip.mixins._definition import owners_of

__all__ = ["DivergenceWatch", "advice_of"]

FACTOR = 10.0


class DivergenceWatch:
    """Watches the loss of a fit, if there is advice for a diverging one.

    A fit diverges when its loss is not finite, or when the mean of the last ``log_every_n_steps`` steps is over 10
    times the fit's first loss. That first loss counts as at least log K, the loss of guessing: fine-tuning begins near
    0, where a rise by that factor means nothing.
    """

    def __init__(self) -> None:
        self.advice = ""  # what to change; without it nothing is watched
        self.finite_only = False  # leave a rise alone: of methods whose loss grows by a schedule
        self.first_loss: Tensor | float | None = None  # of this rank; of all ranks from the first look on
        self._num_classes = 1
        self._sum: Tensor | None = None
        self._steps = 0  # that are in the sum
        self._batches = 0  # since the last whole window: the same number on every rank

    @property
    def limit(self) -> float:
        """The largest mean loss that is not a divergence; may wait for the device."""
        first = math.inf if self.first_loss is None else float(self.first_loss)
        return FACTOR * max(first, math.log(self._num_classes))

    def add(self, loss: Tensor, num_classes: int) -> None:
        """Add a step's loss to the window."""
        if not self.advice:
            return
        loss = loss.float()
        if self.first_loss is None:
            self.first_loss = loss
        self._num_classes = num_classes
        self._sum = loss if self._sum is None else self._sum + loss
        self._steps += 1

    def look_now_and_then(self, trainer: pl.Trainer, module: pl.LightningModule, flush: Callable[[], None]) -> None:
        """Count a batch, and look every ``log_every_n_steps`` batches."""
        self._batches += 1
        if self._batches >= max(1, getattr(trainer, "log_every_n_steps", 50)):
            self.look(trainer, module, flush, whole=True)

    def look(self, trainer: pl.Trainer, module: pl.LightningModule, flush: Callable[[], None], *, whole: bool) -> None:
        """Look at the steps since the last whole window; waits for the device and the other ranks."""
        if not self.advice:
            return
        mean = self._mean_of_ranks(trainer)
        if whole:
            self._sum, self._steps, self._batches = None, 0, 0
        if mean is None or (math.isfinite(mean) and (self.finite_only or not whole or mean <= self.limit)):
            return
        if math.isfinite(mean):
            problem = (
                f"the mean loss of the last steps is {mean:.4g}, more than {FACTOR:g} times what this fit began with "
                f"({self.limit / FACTOR:.4g})"
            )
        else:
            flush()
            problem = f"the loss is not finite ({mean})"
        raise ValueError(
            f"{type(module).__name__} diverges: {problem} at step {trainer.global_step}, epoch "
            f"{trainer.current_epoch}. {self.advice}"
        )

    def _mean_of_ranks(self, trainer: pl.Trainer) -> float | None:
        """Mean of the window over steps and ranks; None without a step."""
        # All ranks decide together: one that stopped alone would leave the others waiting in the next step. A rank
        # without steps takes part with zeros.
        nothing = torch.zeros((), device=trainer.strategy.root_device)
        first = nothing if self.first_loss is None else torch.as_tensor(self.first_loss, device=nothing.device)
        counts = torch.tensor([float(self._steps), float(self.first_loss is not None)], device=nothing.device)
        sums = torch.stack([nothing if self._sum is None else self._sum.to(nothing.device), first.float(), *counts])
        if trainer.world_size > 1:
            reduced = trainer.strategy.reduce(sums, reduce_op="sum")
            assert isinstance(reduced, Tensor)
            sums = reduced
        total, first_loss, steps, known = sums.tolist()
        self.first_loss = first_loss / known if known else None
        return total / steps if steps else None


def advice_of(cls: type) -> tuple[str, bool]:
    """``advice`` and ``finite_only`` of a class.

    Example:
        >>> from lightning_flip.mixins import FlippingErrorReduction, NaivePositiveCongruent
        >>> class Both(NaivePositiveCongruent, FlippingErrorReduction): ...
        >>> advice_of(NaivePositiveCongruent)
        ('Lower the learning rate, or clip gradients.', False)
        >>> advice_of(Both)[1]
        True
    """
    advices = [vars(owner)["divergence_advice"] for owner in owners_of(cls, "divergence_advice", object)]
    methods: list[Any] = owners_of(cls, "method_loss", object)
    return " ".join(dict.fromkeys(advices)), not all(method.divergence_advice for method in methods)
