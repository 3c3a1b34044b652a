"""Forward correction as a mixin."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.functional.loss_correction import noisy_label_loss
from lightning_flip.mixins._transition_source import Transition, TransitionSource
from lightning_flip.mixins.base import LossTerm
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_numbers

__all__ = ["ForwardCorrection"]


class ForwardCorrection(LossTerm):
    """-log (p T)_y: the label is compared with what label noise makes of the prediction (Patrini et al. 2017).

    T[true, noisy] is the probability that a sample of a class carries a label; where it is the truth, the network's own
    p learns the clean labels. With neither ``correction_alpha`` nor ``transition`` a is 0.1.

    Args:
        *args: passed on to the module.
        correction_alpha: a in [0, 1) of symmetric noise, T = (1 - a) I + (a/K) 1 1^T. Where a label becomes one of the
            K - 1 others with probability r, a = r K / (K - 1).
        transition: T instead, row-stochastic ``[K, K]``; the path of a file that holds it (.npz, .npy, .csv), which is
            read when a fit begins; or "estimate": until
            :class:`~lightning_flip.callbacks.TransitionEstimator` has one, the loss is cross entropy.
        **kwargs: options of :class:`LossTerm`, and the module's.

    Raises:
        ValueError: if a is out of range, T is not row-stochastic, or both are given.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Corrected(ForwardCorrection, Classifier): ...
        >>> model = Corrected(network=MLP(4, 2), num_classes=2, transition=[[0.9, 0.1], [0.0, 1.0]])
        >>> model.awaits_transition
        False
    """

    replaces_cross_entropy = True
    corrects_noise = True

    def __init__(
        self,
        *args: Any,
        correction_alpha: float | None = None,
        transition: Transition | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if correction_alpha is not None:
            check_numbers(correction_alpha=correction_alpha)
        self._mixin.correction = TransitionSource(transition, correction_alpha, _log_columns)

    @property
    def awaits_transition(self) -> bool:
        """Whether an estimate is still to come."""
        return bool(self._mixin.correction.awaited)

    def take_transition(self, transition: Tensor) -> None:
        """Correct with an estimated transition from the next step on; other corrections keep their own.

        Args:
            transition: T ``[K, K]``.

        Raises:
            ValueError: if it is not row-stochastic.
        """
        if self._mixin.correction.estimated:
            self._mixin.correction.take(transition)

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Read the transition's file."""
        super().begin_fit(trainer)
        self._mixin.correction.begin(trainer)

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """-log (p T)_y of every sample; H(s, p T) for a distribution s."""
        log_columns = self._mixin.correction.prepared(step.logits)
        if log_columns is None:
            return None
        return noisy_label_loss(step.logits, step.target, log_columns, reduction="none")


def _log_columns(transition: Tensor) -> Tensor:
    return transition.log().T.contiguous()
