"""Label smoothing as a mixin."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_flip.functional.smearing import label_smoothing_loss, smoothed_target
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_fractions

__all__ = ["LabelSmoothing"]


class LabelSmoothing(LossTerm):
    """CE against (1 - a) e_y + a u, with u uniform (Szegedy et al. 2016; "LSR" in the FER paper).

    Args:
        smoothing: a in [0, 1).

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Smoothed(LabelSmoothing, Classifier): ...
        >>> Smoothed(network=MLP(4, 3), num_classes=3, smoothing=0.2).mixin_options.smoothing
        0.2
    """

    softens_target = True
    replaces_cross_entropy = True

    def __init__(self, *args: Any, smoothing: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(**check_fractions(smoothing=smoothing))

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor:
        """(1 - a) CE + a H(u, p) per sample."""
        smoothing = self.mixin_options.smoothing
        return label_smoothing_loss(step.logits, step.target, smoothing=smoothing, reduction=reduction)

    def soft_target(self, step: SampleStep) -> Tensor:
        """(1 - a) e_y + a u."""
        return smoothed_target(step.target, step.num_classes, step.logits, smoothing=self.mixin_options.smoothing)
