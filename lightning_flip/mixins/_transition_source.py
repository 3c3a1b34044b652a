"""Where a loss correction takes its transition from, and what it computes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from lightning_flip.functional.losses import widen
from lightning_flip.functional.smearing import check_share, smoothing_matrix
from lightning_flip.functional.transitions import check_transition
from lightning_flip.stores import read_transition

__all__ = ["ESTIMATE", "Transition", "TransitionSource"]

Transition = str | Path | Sequence[Sequence[float]] | Tensor

ESTIMATE = "estimate"
TRANSITION_SUFFIXES = (".npz", ".npy", ".csv")
DEFAULT_ALPHA = 0.1


class TransitionSource:
    """The transition of a loss correction: from alpha, a matrix, a file, or an estimate that comes during the fit.

    No ``nn.Module`` and no buffer, so that no precision plugin casts the matrix and no checkpoint needs it.

    Args:
        transition: T ``[K, K]``, the path of its file, "estimate", or None.
        alpha: a in [0, 1) of symmetric noise, T = (1 - a) I + (a/K) 1 1^T; 0.1 where neither is given.
        prepare: what the loss computes with, made of T float64 ``[K, K]``; raises ValueError for a T that it cannot
            use.
        prefix: what stands before ``correction_alpha`` and ``transition`` in the names of the mixin's options.
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
            check_share(self.alpha, alpha_name)
        self.prepare = prepare
        self.file: Path | None = None
        self.estimated = isinstance(transition, str) and transition == ESTIMATE
        self.matrix: Tensor | None = None
        self._prepared: Tensor | None = None
        self._at_hand: Tensor | None = None
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
        """Compute with a transition from now on.

        Args:
            matrix: T ``[K, K]``.
        """
        matrix = matrix.detach().to("cpu").to(torch.float64)
        check_transition(matrix, self.name)
        self._prepared, self.matrix, self._at_hand = self.prepare(matrix), matrix, None

    def begin(self, trainer: pl.Trainer) -> None:
        """Read the file, or make sure that somebody estimates; an earlier fit's estimate is forgotten."""
        if self.file is not None:
            self.take(torch.from_numpy(read_transition(self.file)))
        if not self.estimated:
            return
        self.matrix = self._prepared = self._at_hand = None
        callbacks = getattr(trainer, "callbacks", ())
        if not any(getattr(callback, "gives_transition", False) for callback in callbacks):
            raise ValueError(
                'transition="estimate" waits for an estimate, and no callback gives one. Add TransitionEstimator() to '
                "the Trainer's callbacks, or pass the file that an earlier fit wrote."
            )

    def prepared(self, logits: Tensor) -> Tensor | None:
        """What the loss computes with, where and as it computes; nothing is read back from the device.

        Returns what ``prepare`` made, ``[K, K]``; None while an estimate is awaited.

        Args:
            logits: ``[B, K]`` of the running step.
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
                "column for each of the model's outputs."
            )
        if self._at_hand is None or self._at_hand.device != logits.device or self._at_hand.dtype != dtype:
            self._at_hand = self._prepared.to(dtype).to(logits.device)
        return self._at_hand


def _as_matrix(transition: Any, name: str) -> Tensor:
    try:
        matrix = transition if isinstance(transition, Tensor) else torch.from_numpy(np.array(transition, np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a matrix of numbers, K rows of K probabilities: {error}") from error
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a matrix [K, K]; got the shape {tuple(matrix.shape)}.")
    return matrix
