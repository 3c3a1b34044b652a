"""The confidence penalty as a mixin."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_flip.functional.regularization import confidence_penalty_loss
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_numbers

__all__ = ["ConfidencePenalty"]


class ConfidencePenalty(LossTerm):
    """CE - w H(p, p), which rewards undecided predictions (Pereyra et al. 2017; "Max-Entropy" in the FER paper).

    Args:
        *args: passed on to the module.
        entropy_weight: w >= 0; 0 is plain training, bit for bit.
        **kwargs: options of :class:`LossTerm`, and the module's.

    Raises:
        ValueError: if ``entropy_weight`` is negative or not finite.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Modest(ConfidencePenalty, Classifier): ...
        >>> Modest(network=MLP(4, 3), num_classes=3).mixin_options.entropy_weight
        0.1
    """

    softens_target = True

    def __init__(self, *args: Any, entropy_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(entropy_weight=entropy_weight)
        if not 0 <= entropy_weight < math.inf:
            raise ValueError(f"entropy_weight must be at least 0 and finite; got {entropy_weight}.")
        self.mixin_options.take(entropy_weight=float(entropy_weight))

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """CE - w H(p, p) of every sample."""
        options = self.mixin_options
        if not options.entropy_weight:
            return None
        return confidence_penalty_loss(step.logits, step.target, weight=options.entropy_weight, reduction=reduction)
