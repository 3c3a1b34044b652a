"""When a recording of learning paths is due, and how much it may write: logged and refused before training starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from lightning_flip.steps.length import training_length
from lightning_flip.stores.paths import path_bytes

__all__ = ["PathBudget", "PathPlan", "check_times"]


def check_times(passes: str, every_n_steps: int | None, every_n_epochs: int | None) -> None:
    """Refuse times that are out of range, or do not fit the passes."""
    if passes == "train" and every_n_steps is not None:
        raise ValueError('every_n_steps is for passes="eval": training visits a sample when the sampler draws it.')
    for option, value in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1; got {value}.")


class PathBudget:
    """Refuses a recording of more than ``max_bytes``; a run of unknown length is stopped there.

    Attributes:
        classes: number of classes K; 0 before :meth:`announce` was called in a fit.

    Example:
        >>> visits = PathBudget(10**9, every_n_steps=None, every_n_epochs=2, evaluated=False)
        >>> [visits.due(epoch) for epoch in range(4)]
        [True, False, True, False]
    """

    def __init__(
        self, max_bytes: int, *, every_n_steps: int | None, every_n_epochs: int | None, evaluated: bool
    ) -> None:
        self.max_bytes = max_bytes
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.evaluated = evaluated
        self.classes = 0

    def due(self, epoch: int) -> bool:
        """Whether visits of an epoch, or a pass at its end, are recorded."""
        return self.every_n_epochs is not None and (epoch + self.evaluated) % self.every_n_epochs == 0

    def announce(self, trainer: pl.Trainer, samples: int, classes: int, folder: Path | None) -> None:
        """Log how much will be written, or refuse it."""
        self.classes = classes
        options = {"every_n_steps": self.every_n_steps, "every_n_epochs": self.every_n_epochs}
        plan = PathPlan.of(trainer, evaluated=self.evaluated, **options)
        plan.require(samples, classes, self.max_bytes)
        rank_zero_info(f"LearningPath: {plan.describe(samples, classes)}, into {folder}")

    def room(self, rows: int) -> int:
        """How many rows may be written after so many."""
        return max(0, self.max_bytes // path_bytes(1, self.classes, 1) - rows)


@dataclass(frozen=True)
class PathPlan:
    """When a run of some length records.

    Attributes:
        epochs: epochs of the run, infinity if not known.
        steps: updates of the run.
        every_n_steps: a pass after so many updates; None for none.
        every_n_epochs: a recording every so many epochs; None for none.
        evaluated: evaluations are recorded, and not visits.
        world_size: number of ranks.

    Example:
        >>> plan = PathPlan(epochs=10, steps=220, every_n_steps=50, every_n_epochs=None, evaluated=True)
        >>> plan.times
        5.0
        >>> print(plan.describe(samples=100, classes=10))
        100 samples x 10 classes x 5 times = 0.1 MB on disk at most, 0.02 MB of memory for the rows of an epoch
        >>> plan.require(samples=100, classes=10, max_bytes=50_000)
        Traceback (most recent call last):
            ...
        ValueError: LearningPath would write up to 54480 bytes (100 samples x 10 classes x 5 times), more than
        max_bytes=50000. Raise max_bytes=, record fewer samples, or less often (every_n_steps=).
    """

    epochs: float
    steps: float
    every_n_steps: int | None
    every_n_epochs: int | None
    evaluated: bool
    world_size: int = 1

    @classmethod
    def of(
        cls, trainer: pl.Trainer, *, every_n_steps: int | None, every_n_epochs: int | None, evaluated: bool
    ) -> PathPlan:
        """The plan of a Trainer whose training data are set up."""
        epochs, steps = training_length(trainer)
        return cls(epochs, steps, every_n_steps, every_n_epochs, evaluated, trainer.world_size)

    @property
    def times(self) -> float:
        """How often each sample is recorded; a sampler that draws with replacement may visit it more often."""
        if not self.evaluated:
            assert self.every_n_epochs is not None
            return _rounded(math.ceil, self.epochs / self.every_n_epochs)
        stepped = 0.0 if self.every_n_steps is None else _rounded(math.floor, self.steps / self.every_n_steps)
        ended = 0.0 if self.every_n_epochs is None else _rounded(math.floor, self.epochs / self.every_n_epochs)
        return 1 + stepped + ended

    @property
    def times_of_an_epoch(self) -> float:
        """How often in one epoch."""
        if not self.evaluated or self.every_n_steps is None or self.epochs == 0:
            return 1.0
        if math.isinf(self.epochs):
            return 1.0 if math.isfinite(self.steps) else math.inf
        return min(self.times, 2 + _rounded(math.ceil, self.steps / self.epochs / self.every_n_steps))

    def bytes_needed(self, samples: int, classes: int) -> float:
        """Upper bound of the bytes written; infinity if the length of the run is not known."""
        if math.isinf(self.times):
            return math.inf
        files = min(self.times, self.epochs + 1) * (1 if self.evaluated else self.world_size)
        return path_bytes(samples, classes, int(self.times), int(files) if math.isfinite(files) else int(self.times))

    def describe(self, samples: int, classes: int) -> str:
        """What is going to be recorded."""
        what = f"{samples} samples x {classes} classes"
        if math.isinf(self.times):
            each = path_bytes(samples, classes, 1) / 1e6
            return f"{what} = {each:.2f} MB a time, and the length of the run is not known"
        memory = path_bytes(samples, classes, int(min(self.times_of_an_epoch, self.times)))
        return (
            f"{what} x {int(self.times)} times = {self.bytes_needed(samples, classes) / 1e6:.1f} MB on disk at most, "
            f"{memory / 1e6:.2f} MB of memory for the rows of an epoch"
        )

    def require(self, samples: int, classes: int, max_bytes: int) -> None:
        """Refuse a recording that is known to be too large."""
        needed = self.bytes_needed(samples, classes)
        if math.isfinite(needed) and needed > max_bytes:
            period = "every_n_epochs" if self.every_n_steps is None else "every_n_steps"
            raise ValueError(
                f"LearningPath would write up to {int(needed)} bytes ({samples} samples x {classes} classes x "
                f"{int(self.times)} times), more than max_bytes={max_bytes}. Raise max_bytes=, record fewer samples, "
                f"or less often ({period}=)."
            )


def _rounded(how: Callable[[float], int], number: float) -> float:
    return float(how(number)) if math.isfinite(number) else number
