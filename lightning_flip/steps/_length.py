"""How long a training is going to be."""

from __future__ import annotations

import math

import lightning.pytorch as pl

__all__ = ["training_length"]


def training_length(trainer: pl.Trainer) -> tuple[float, float]:
    """Epochs and optimizer steps of a training whose data are set up; infinity where nothing ends it.

    Lightning steps on an epoch's last batch, too: an epoch has ceil(batches / accumulated) steps.
    """
    batches = trainer.num_training_batches
    an_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else math.inf
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs)
    steps = epochs * an_epoch if an_epoch else 0.0
    if trainer.max_steps not in (None, -1):
        steps = min(steps, float(trainer.max_steps))
        if math.isfinite(an_epoch) and an_epoch:
            epochs = min(epochs, math.ceil(steps / an_epoch))
    return epochs, steps
