"""The base of the methods that correct for label noise, and where their transition comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from lightning_flip.functional.losses import widen
from lightning_flip.functional.smearing import smoothing_matrix
from lightning_flip.functional.transitions import check_transition
from lightning_flip.mixins.base import LossTerm
from lightning_flip.steps.options import check_fractions
from lightning_flip.stores import read_transition

__all__ = ["ESTIMATE", "CorrectedLoss", "Transition", "TransitionSource"]

Transition = str | Path | Sequence[Sequence[float]] | Tensor

ESTIMATE = "estimate"
TRANSITION_SUFFIXES = (".npz", ".npy", ".csv")
DEFAULT_ALPHA = 0.1


class CorrectedLoss(LossTerm):
    """Base of the methods that correct the loss for label noise with a transition T.

    T[true, noisy] is the probability that a sample of a class carries a label. With neither ``correction_alpha`` nor
    ``transition``, a is 0.1.

    Args:
        correction_alpha: a in [0, 1) of symmetric noise, T = (1 - a) I + (a/K) 1 1^T. If a label becomes one of the
            K - 1 others with probability r, a = r K / (K - 1).
        transition: T instead, row-stochastic ``[K, K]``; the path of a file that holds it (.npz, .npy, .csv), which is
            read when a fit begins; or "estimate": until
            :class:`~lightning_flip.callbacks.TransitionEstimator` has one, the loss is cross entropy.

    Raises:
        ValueError: if T is not row-stochastic, or a and T are both given.
    """

    def __init__(
        self,
        *args: Any,
        correction_alpha: float | None = None,
        transition: Transition | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._mixin.correction = TransitionSource(transition, correction_alpha, type(self)._prepared_transition)

    @staticmethod
    def _prepared_transition(transition: Tensor) -> Tensor:
        """What the loss computes with, from T float64 ``[K, K]``; raises ValueError for a T that it cannot use."""
        return transition

    @property
    def awaits_transition(self) -> bool:
        """Whether an estimate is still to come."""
        return bool(self._mixin.correction.awaited)

    def take_transition(self, transition: Tensor) -> None:
        """Correct with an estimated T ``[K, K]`` from the next step on; a T that was given as an option stays.

        Raises:
            ValueError: if T is not row-stochastic, or the method cannot use it.
        """
        if self._mixin.correction.estimated:
            self._mixin.correction.take(transition)

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Read the transition's file."""
        super().begin_fit(trainer)
        self._mixin.correction.begin(trainer)


class TransitionSource:
    """The transition of a loss correction: from alpha, a matrix, a file, or an estimate made during the fit.

    It is neither an ``nn.Module`` nor a buffer, so no precision plugin casts the matrix and no checkpoint needs it.
    ``prepare`` makes what the loss computes with from T float64 ``[K, K]``; ``prefix`` begins the options' names.
    """

    def __init__(
        self,
        transition: Transition | None,
        alpha: float | None,
        prepare: Callable[[Tensor], Tensor],
        *,
        prefix: str = "",
    ) -> None:
        self.name, alpha_name = f"{prefix}transition", f"{prefix}correction_alpha"
        if transition is not None and alpha is not None:
            raise ValueError(
                f"give {alpha_name}= (symmetric noise) or {self.name}=, not both; got {alpha_name}={alpha}."
            )
        self.alpha = DEFAULT_ALPHA if transition is None and alpha is None else alpha
        if self.alpha is not None:
            named: dict[str, Any] = {alpha_name: self.alpha}
            self.alpha = check_fractions(**named)[alpha_name]
        self.prepare = prepare
        self.file: Path | None = None
        self.estimated = isinstance(transition, str) and transition == ESTIMATE
        self.matrix: Tensor | None = None
        self._prepared: Tensor | None = None
        self._on_device: Tensor | None = None
        if isinstance(transition, (str, Path)):
            self.file = None if self.estimated else Path(transition)
            if self.file is not None and self.file.suffix.lower() not in TRANSITION_SUFFIXES:
                raise ValueError(
                    f'{self.name} must be a matrix [K, K], "{ESTIMATE}", or the path of a file that ends in '
                    f"{', '.join(TRANSITION_SUFFIXES)}; got {str(transition)!r}."
                )
        elif transition is not None:
            self.take(_as_matrix(transition, self.name))

    @property
    def awaited(self) -> bool:
        """Whether an estimate is to come."""
        return self.estimated and self.matrix is None

    def take(self, matrix: Tensor) -> None:
        """Compute with a T ``[K, K]`` from now on."""
        matrix = matrix.detach().to("cpu").to(torch.float64)
        check_transition(matrix, self.name)
        self._prepared, self.matrix, self._on_device = self.prepare(matrix), matrix, None

    def begin(self, trainer: pl.Trainer) -> None:
        """Read the file, or check that a callback gives an estimate and forget that of an earlier fit."""
        if self.file is not None:
            self.take(torch.from_numpy(read_transition(self.file)))
        if not self.estimated:
            return
        self.matrix = self._prepared = self._on_device = None
        callbacks = getattr(trainer, "callbacks", ())
        if not any(getattr(callback, "gives_transition", False) for callback in callbacks):
            raise ValueError(
                'transition="estimate" waits for an estimate, and no callback gives one. Add TransitionEstimator() to '
                "the Trainer's callbacks, or pass the file that an earlier fit wrote."
            )

    def prepared(self, logits: Tensor) -> Tensor | None:
        """What ``prepare`` made, ``[K, K]``, for the logits ``[B, K]`` of a step; None while an estimate is awaited.

        Nothing is read back from the device.
        """
        if self.awaited:
            return None
        classes, dtype = logits.shape[1], widen(logits[:0]).dtype
        if self.alpha is not None and (self._prepared is None or len(self._prepared) != classes):
            self.take(smoothing_matrix(classes, self.alpha))
        assert self._prepared is not None
        if len(self._prepared) != classes:
            raise ValueError(
                f"the {self.name} is of {len(self._prepared)} classes, the logits are of {classes}. Give one row and "
                "one column per output of the model."
            )
        if self._on_device is None or self._on_device.device != logits.device or self._on_device.dtype != dtype:
            self._on_device = self._prepared.to(dtype).to(logits.device)
        return self._on_device


def _as_matrix(transition: Any, name: str) -> Tensor:
    try:
        matrix = transition if isinstance(transition, Tensor) else torch.from_numpy(np.array(transition, np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a matrix of numbers, K rows of K probabilities: {error}") from error
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a matrix [K, K]; got the shape {tuple(matrix.shape)}.")
    return matrix
