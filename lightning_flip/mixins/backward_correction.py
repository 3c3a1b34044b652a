"""Backward correction as a mixin."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_flip.functional.smearing import smeared_loss
from lightning_flip.functional.transitions import inverse_transition
from lightning_flip.mixins.corrected import CorrectedLoss
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_fractions

__all__ = ["BackwardCorrection"]


class BackwardCorrection(CorrectedLoss):
    """sum_j T^-1[y, j] (-log p_j): in expectation over the label noise T, the loss of the true label.

    The inverse, for symmetric noise (I - (a/K) 1 1^T) / (1 - a), has negative entries: other classes' losses are
    subtracted, and the loss may be negative. Without a bound a network would drive it to minus infinity, so log p is
    clipped at log ``backward_eps``. Further options are those of :class:`CorrectedLoss`.

    Args:
        backward_eps: where log p is clipped, in [0, 1); 0 does not clip.

    Raises:
        ValueError: if T is singular.

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

    def __init__(self, *args: Any, backward_eps: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(**check_fractions(backward_eps=backward_eps))

    @staticmethod
    def _prepared_transition(transition: Tensor) -> Tensor:
        return inverse_transition(transition)

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """sum_j (M^T s)_j (-log p_j) per sample, with M = T^-1 and s the target."""
        inverse = self._mixin.correction.prepared(step.logits)
        if inverse is None:
            return None
        return smeared_loss(step.logits, step.target, inverse, eps=self.mixin_options.backward_eps, reduction="none")
