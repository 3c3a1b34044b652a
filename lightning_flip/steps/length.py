"""How long a training is going to be."""

from __future__ import annotations

import itertools
import math

import lightning.pytorch as pl

__all__ = ["steps_per_epoch", "training_length"]


def steps_per_epoch(batches: float, accumulated: int) -> float:
    """Optimizer steps of an epoch: Lightning steps on its last batch, too; infinity if its length is not known."""
    return math.ceil(batches / accumulated) if math.isfinite(batches) else math.inf


def training_length(trainer: pl.Trainer) -> tuple[float, float]:
    """Epochs and optimizer steps of a training whose data are set up; infinity where nothing ends it.

    Of data of unknown length, and of manual optimization, which may step at any time, both are upper bounds.
    """
    batches = trainer.num_training_batches
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs)
    limit = math.inf if trainer.max_steps in (None, -1) else float(trainer.max_steps)
    if not batches or math.isinf(batches):
        return epochs, min(limit, epochs * batches if batches else 0.0)
    steps = 0.0
    for (first, accumulated), (until, _) in itertools.pairwise([*_accumulated(trainer), (math.inf, 0)]):
        an_epoch = steps_per_epoch(batches, accumulated) * max(1, len(trainer.optimizers))
        span = max(0.0, min(until, epochs) - first)
        if math.isfinite(limit) and steps + span * an_epoch >= limit:
            return first + math.ceil((limit - steps) / an_epoch), limit
        steps += span * an_epoch
    return epochs, steps


def _accumulated(trainer: pl.Trainer) -> list[tuple[int, int]]:
    """From which epoch on how many batches are accumulated; the callback may be either package's."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if any(part.__name__ == "GradientAccumulationScheduler" for part in type(callback).__mro__):
            return sorted(callback.scheduling.items())
    return [(0, trainer.accumulate_grad_batches)]
