"""When a recording of learning paths is due, and how much room is left for it."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_flip.callbacks.paths._plan import PathPlan
from lightning_flip.callbacks.paths._recording import PathRecording
from lightning_flip.stores.paths import path_bytes

__all__ = ["PathLimit", "check_times"]


class PathLimit:
    """Says before training how much will be recorded, and refuses more.

    Attributes:
        classes: number of classes K; 0 before :meth:`say` was called in a fit.
        rows: how many rows stay within the limit, as far as the classes are known.

    Example:
        >>> visits = PathLimit(10**9, every_n_steps=None, every_n_epochs=2, passes=False)
        >>> [visits.due(epoch) for epoch in range(4)]
        [True, False, True, False]
    """

    def __init__(self, max_bytes: int, *, every_n_steps: int | None, every_n_epochs: int | None, passes: bool) -> None:
        self.max_bytes = max_bytes
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.passes = passes
        self.classes = 0
        self.rows = max_bytes // path_bytes(1, 0, 1)

    def due(self, epoch: int) -> bool:
        """Whether visits of an epoch, or a pass at its end, are to be recorded."""
        if self.every_n_epochs is None:
            return False
        return (epoch + self.passes) % self.every_n_epochs == 0

    def say(self, trainer: pl.Trainer, samples: int, classes: int, folder: Path | None) -> None:
        """Say what will be written."""
        self.classes = classes
        self.rows = self.max_bytes // path_bytes(1, classes, 1)
        plan = PathPlan.of(
            trainer, passes=self.passes, every_n_steps=self.every_n_steps, every_n_epochs=self.every_n_epochs
        )
        refusal = plan.refusal(samples, classes, self.max_bytes)
        if refusal is not None:
            raise ValueError(refusal)
        rank_zero_info(f"LearningPath: {plan.describe(samples, classes)}, into {folder}")

    def room(self, recording: PathRecording) -> int:
        """How many more rows stay within the limit; it counts if a run's length was not known before."""
        return max(0, self.rows - recording.written - recording.rows.count)


def check_times(mode: str, every_n_steps: int | None, every_n_epochs: int | None) -> None:
    """Check when a recording is to record.

    Example:
        >>> check_times("eval", 100, None)
    """
    if mode not in ("visits", "eval"):
        raise ValueError(f'mode must be "visits" or "eval"; got {mode!r}.')
    if mode == "visits" and every_n_steps is not None:
        raise ValueError('every_n_steps is for mode="eval": visits come when the sampler draws a sample.')
    for option, value in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1; got {value}.")
