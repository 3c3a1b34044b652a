"""Forward correction as a mixin."""

from __future__ import annotations

from torch import Tensor

from lightning_flip.functional.loss_correction import noisy_label_loss
from lightning_flip.mixins.corrected import CorrectedLoss
from lightning_flip.steps import SampleStep

__all__ = ["ForwardCorrection"]


class ForwardCorrection(CorrectedLoss):
    """-log (p T)_y: the label is compared with what label noise makes of the prediction (Patrini et al. 2017).

    If T is the true noise, the network's own p learns the clean labels. Options are those of :class:`CorrectedLoss`.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Corrected(ForwardCorrection, Classifier): ...
        >>> model = Corrected(network=MLP(4, 2), num_classes=2, transition=[[0.9, 0.1], [0.0, 1.0]])
        >>> model.awaits_transition
        False
    """

    replaces_cross_entropy = True
    corrects_noise = True

    @staticmethod
    def _prepared_transition(transition: Tensor) -> Tensor:
        return transition.log().T.contiguous()

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """-log (p T)_y per sample; H(s, p T) for a distribution s."""
        log_columns = self._mixin.correction.prepared(step.logits)
        if log_columns is None:
            return None
        return noisy_label_loss(step.logits, step.target, log_columns, reduction="none")
