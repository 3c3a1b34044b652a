"""Backward correction as a mixin."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.functional.smearing import check_share, smeared_loss
from lightning_flip.functional.transitions import inverse_transition
from lightning_flip.mixins._transition_source import Transition, TransitionSource
from lightning_flip.mixins.base import LossTerm
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_numbers

__all__ = ["BackwardCorrection"]


class BackwardCorrection(LossTerm):
    """sum_j T^-1[y, j] (-log p_j): in expectation over the label noise T, the loss of the true label.

    The inverse has negative entries: other classes' losses are subtracted, and the loss may be negative. Without a
    bound a network would drive it to minus infinity, hence log p is clipped at log ``backward_eps``. With neither
    ``correction_alpha`` nor ``transition`` a is 0.1.

    Args:
        *args: passed on to the module.
        correction_alpha: a in [0, 1) of symmetric noise, T^-1 = (I - (a/K) 1 1^T) / (1 - a). Where a label becomes one
            of the K - 1 others with probability r, a = r K / (K - 1).
        transition: T instead, row-stochastic and invertible ``[K, K]``; the path of a file that holds it (.npz, .npy,
            .csv), which is read when a fit begins; or "estimate": until
            :class:`~lightning_flip.callbacks.TransitionEstimator` has one, the loss is cross entropy.
        backward_eps: where log p is clipped, in [0, 1); 0 does not clip.
        **kwargs: options of :class:`LossTerm`, and the module's.

    Raises:
        ValueError: if an option is out of range, T is not row-stochastic or singular, or a and T are both given.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Corrected(BackwardCorrection, Classifier): ...
        >>> Corrected(network=MLP(4, 3), num_classes=3, correction_alpha=0.2).awaits_transition
        False
    """

    replaces_cross_entropy = True
    corrects_noise = True
    divergence_advice = (
        "Lower the learning rate or correction_alpha, or clip gradients: the inverse of a transition has large entries."
    )

    def __init__(
        self,
        *args: Any,
        correction_alpha: float | None = None,
        transition: Transition | None = None,
        backward_eps: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(backward_eps=backward_eps)
        check_share(backward_eps, "backward_eps")
        self.mixin_options.take(backward_eps=backward_eps)
        if correction_alpha is not None:
            check_numbers(correction_alpha=correction_alpha)
        self._mixin.correction = TransitionSource(transition, correction_alpha, inverse_transition)

    @property
    def awaits_transition(self) -> bool:
        """Whether an estimate is still to come."""
        return bool(self._mixin.correction.awaited)

    def take_transition(self, transition: Tensor) -> None:
        """Correct with an estimated transition from the next step on; other corrections keep their own.

        Args:
            transition: T ``[K, K]``.

        Raises:
            ValueError: if it is not row-stochastic, or singular.
        """
        if self._mixin.correction.estimated:
            self._mixin.correction.take(transition)

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Read the transition's file."""
        super().begin_fit(trainer)
        self._mixin.correction.begin(trainer)

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """sum_j (M^T s)_j (-log p_j) of every sample, with M = T^-1."""
        inverse = self._mixin.correction.prepared(step.logits)
        if inverse is None:
            return None
        return smeared_loss(step.logits, step.target, inverse, eps=self.mixin_options.backward_eps, reduction="none")
