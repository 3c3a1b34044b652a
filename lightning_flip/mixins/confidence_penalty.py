"""The confidence penalty as a mixin."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_flip.functional.regularization import confidence_penalty_loss
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_not_negative

__all__ = ["ConfidencePenalty"]


class ConfidencePenalty(LossTerm):
    """CE - w H(p, p), which rewards undecided predictions (Pereyra et al. 2017; "Max-Entropy" in the FER paper).

    Args:
        entropy_weight: w >= 0; 0 is plain training, bit for bit.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Modest(ConfidencePenalty, Classifier): ...
        >>> Modest(network=MLP(4, 3), num_classes=3).mixin_options.entropy_weight
        0.1
    """

    softens_target = True

    def __init__(self, *args: Any, entropy_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(**check_not_negative(entropy_weight=entropy_weight))

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """CE - w H(p, p) per sample."""
        weight = self.mixin_options.entropy_weight
        if not weight:
            return None
        return confidence_penalty_loss(step.logits, step.target, weight=weight, reduction=reduction)
