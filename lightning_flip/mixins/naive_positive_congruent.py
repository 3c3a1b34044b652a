"""Naive positive-congruent training as a mixin."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.functional.positive_congruent import naive_positive_congruent_loss
from lightning_flip.mixins.base import Reduced
from lightning_flip.mixins.referenced import ReferencedLoss
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_not_negative

__all__ = ["NaivePositiveCongruent"]


class NaivePositiveCongruent(ReferencedLoss):
    """Counts the samples that the old model gets right twice (PCT, Eq. 5-6, "naive").

    The loss is CE + w [old right] CE. It is the paper's baseline, and hardly lowers negative flips.

    Args:
        naive_weight: w >= 0; 0 is training without a reference, bit for bit, and loads none.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Update(NaivePositiveCongruent, Classifier): ...
        >>> Update(network=MLP(4, 3), num_classes=3, reference=MLP(4, 3), naive_weight=2.0).mixin_options.naive_weight
        2.0
    """

    def __init__(self, *args: Any, naive_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(**check_not_negative(naive_weight=naive_weight))

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Load the reference, unless its weight is 0."""
        super().begin_fit(trainer)
        if self.mixin_options.naive_weight:
            self.load_reference(trainer)

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """CE + w [old right] CE per sample."""
        options = self.mixin_options
        if not options.naive_weight:
            return None
        self.require_labels(step)
        old = self.reference_logits(step)
        again = naive_positive_congruent_loss(
            step.logits,
            old,
            step.target,
            old_classes=self.old_class_indices(step.num_classes, old.shape[1]),
            old_samples=options.old_samples,
            reduction="mean" if reduction == "excess" else "none",
        )
        added: Tensor = again * options.naive_weight
        return added if reduction == "excess" else cross_entropy(step.logits, step.target, reduction="none") + added
