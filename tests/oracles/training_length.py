"""How long a training is, by training it: a counter of batches, steps and epochs that follows Lightning's own rules."""

from __future__ import annotations

from collections.abc import Callable


def trained(
    batches: int, accumulated: Callable[[int], int], max_epochs: int | None, max_steps: int | None, optimizers: int = 1
) -> tuple[int, int]:
    """Epochs that begin and optimizer steps that are taken; `accumulated` is asked with the epoch, counted from 0.

    An optimizer steps when enough batches are accumulated, and on an epoch's last batch. None is no limit.
    """
    epochs = steps = 0
    while (max_epochs is None or epochs < max_epochs) and (max_steps is None or steps < max_steps):
        factor = accumulated(epochs)
        epochs += 1
        for batch in range(1, batches + 1):
            if batch % factor == 0 or batch == batches:
                steps += optimizers
            if max_steps is not None and steps >= max_steps:
                break
    return epochs, steps
