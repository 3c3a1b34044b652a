"""How much a recording of learning paths will take, said and limited before training starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lightning.pytorch as pl

from lightning_flip.steps.length import training_length
from lightning_flip.stores.paths import path_bytes

__all__ = ["PathPlan"]


@dataclass(frozen=True)
class PathPlan:
    """When a run of some length records.

    Attributes:
        epochs: epochs of the run, infinity where nobody knows.
        steps: updates of the run.
        every_n_steps: a pass after so many updates; None for none.
        every_n_epochs: a recording every so many epochs; None for none.
        passes: clean passes, and not visits.
        world_size: number of ranks.

    Example:
        >>> plan = PathPlan(epochs=10, steps=220, every_n_steps=50, every_n_epochs=None, passes=True)
        >>> plan.times
        5.0
        >>> print(plan.describe(samples=100, classes=10))
        100 samples x 10 classes x 5 times = 0.1 MB on disk at most, 0.02 MB of memory for the rows of an epoch
        >>> plan.refusal(samples=100, classes=10, max_bytes=50_000)
        'LearningPath would write up to 0.1 MB, more than max_bytes=50000: 100 samples x 10 classes x 5 times. \
every_n_steps=56 fits; so do fewer samples, or a larger max_bytes.'
    """

    epochs: float
    steps: float
    every_n_steps: int | None
    every_n_epochs: int | None
    passes: bool
    world_size: int = 1

    @classmethod
    def of(
        cls, trainer: pl.Trainer, *, every_n_steps: int | None, every_n_epochs: int | None, passes: bool
    ) -> PathPlan:
        """The plan of a Trainer whose training data are set up."""
        epochs, steps = training_length(trainer)
        return cls(epochs, steps, every_n_steps, every_n_epochs, passes, trainer.world_size)

    @property
    def times(self) -> float:
        """How often each sample is recorded; a sampler that draws with replacement may visit it more often."""
        if not self.passes:
            assert self.every_n_epochs is not None
            return _ceil(self.epochs / self.every_n_epochs)
        stepped = 0.0 if self.every_n_steps is None else _floor(self.steps / self.every_n_steps)
        ended = 0.0 if self.every_n_epochs is None else _floor(self.epochs / self.every_n_epochs)
        return 1 + stepped + ended

    @property
    def times_of_an_epoch(self) -> float:
        """How often in one epoch."""
        if not self.passes or self.every_n_steps is None or self.epochs == 0:
            return 1.0
        if math.isinf(self.epochs):
            return 1.0 if math.isfinite(self.steps) else math.inf
        return min(self.times, 2 + _ceil(self.steps / self.epochs / self.every_n_steps))

    def bytes_needed(self, samples: int, classes: int) -> float:
        """Upper bound of what is written. Returns bytes; infinity where the length of the run is not known."""
        if math.isinf(self.times):
            return math.inf
        files = min(self.times, self.epochs + 1) * (1 if self.passes else self.world_size)
        return path_bytes(samples, classes, int(self.times), int(files) if math.isfinite(files) else int(self.times))

    def describe(self, samples: int, classes: int) -> str:
        """What is going to be recorded."""
        what = f"{samples} samples x {classes} classes"
        if math.isinf(self.times):
            each = path_bytes(samples, classes, 1) / 1e6
            return f"{what} = {each:.2f} MB a time, and the length of the run is not known"
        of_an_epoch = self.times_of_an_epoch
        memory = path_bytes(samples, classes, int(min(of_an_epoch, self.times)))
        return (
            f"{what} x {int(self.times)} times = {self.bytes_needed(samples, classes) / 1e6:.1f} MB on disk at most, "
            f"{memory / 1e6:.2f} MB of memory for the rows of an epoch"
        )

    def refusal(self, samples: int, classes: int, max_bytes: int) -> str | None:
        """Why a recording is too large, and which option makes it fit.

        Returns a sentence; None where it fits, or nobody knows.
        """
        needed = self.bytes_needed(samples, classes)
        if math.isinf(needed) or needed <= max_bytes:
            return None
        option = self._option_that_fits(samples, classes, max_bytes)
        return (
            f"LearningPath would write up to {needed / 1e6:.1f} MB, more than max_bytes={max_bytes}: {samples} samples "
            f"x {classes} classes x {int(self.times)} times. {option}; so do fewer samples, or a larger max_bytes."
        )

    def _option_that_fits(self, samples: int, classes: int, max_bytes: int) -> str:
        stepped = self.every_n_steps is not None
        period = self.every_n_steps if stepped else self.every_n_epochs
        whole = self.steps if stepped else self.epochs
        assert period is not None
        low, high = period, int(whole) + 1  # of a longer period than the run is the start alone recorded
        if self._with(high).bytes_needed(samples, classes) > max_bytes:
            each = path_bytes(1, classes, int(self.times))
            room = max_bytes - (self.bytes_needed(samples, classes) - path_bytes(samples, classes, int(self.times)))
            return f"At most {max(int(room // each), 0)} samples fit (samples= or k=)"
        while low < high:
            middle = (low + high) // 2
            if self._with(middle).bytes_needed(samples, classes) <= max_bytes:
                high = middle
            else:
                low = middle + 1
        return f"{'every_n_steps' if stepped else 'every_n_epochs'}={high} fits"

    def _with(self, period: int) -> PathPlan:
        steps, epochs = (period, self.every_n_epochs) if self.every_n_steps is not None else (None, period)
        return PathPlan(self.epochs, self.steps, steps, epochs, self.passes, self.world_size)


def _ceil(number: float) -> float:
    return float(math.ceil(number)) if math.isfinite(number) else number


def _floor(number: float) -> float:
    return float(math.floor(number)) if math.isfinite(number) else number
