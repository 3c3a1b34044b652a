"""Focal distillation as a mixin."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
from torch import Tensor

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.functional.positive_congruent import focal_distillation_loss
from lightning_flip.mixins.base import Reduced
from lightning_flip.mixins.referenced import ReferencedLoss
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_choices, check_not_negative, check_positive

__all__ = ["FocalDistillation"]


class FocalDistillation(ReferencedLoss):
    """Pulls a new model towards the old one, most where the old one is right (PCT, Eq. 4 and 7-9).

    The loss is CE + lambda F D with F = alpha + beta [old right] and D the distance between the models' outputs:
    t^2 KL(softmax(z_old / t) || softmax(z_new / t)), or half the squared distance of the logits.

    With ``old_classes`` (the new model knows more classes), D runs over the shared logits, and samples of new
    classes have CE alone.

    Our readings: Eq. 8 prints the new model first and no t^2; the work that it cites has the old one first, and
    t^2. The sum over classes of Eq. 9 diverges at a learning rate of 0.1, so the default is the mean.

    Args:
        focal_weight: lambda >= 0; 0 is training without a reference, bit for bit, and loads none. The paper has 1; with
            "logits", 2 is public code, which leaves out the half.
        focal_alpha: alpha >= 0, the weight of every sample.
        focal_beta: beta >= 0, the weight added where the old model is right; the paper tries 0 to 20.
        focal_distance: "kl" or "logits".
        focal_temperature: t > 0, for "kl" only.
        focal_direction: "old_new" for KL(old || new), "new_old" for KL(new || old), for "kl" only.
        class_reduction: "mean" or "sum" over classes, for "logits" only.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Update(FocalDistillation, Classifier): ...
        >>> Update(network=MLP(4, 3), num_classes=3, reference=MLP(4, 3), focal_beta=10.0).mixin_options.focal_beta
        10.0
    """

    softens_target = True
    divergence_advice = (
        'Lower the learning rate or focal_weight, or use class_reduction="mean": with focal_distance="logits", the '
        "sum over K classes has a gradient K times as large."
    )

    def __init__(
        self,
        *args: Any,
        focal_weight: float = 1.0,
        focal_alpha: float = 1.0,
        focal_beta: float = 5.0,
        focal_distance: Literal["kl", "logits"] = "kl",
        focal_temperature: float = 100.0,
        focal_direction: Literal["old_new", "new_old"] = "old_new",
        class_reduction: Literal["mean", "sum"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_not_negative(focal_weight=focal_weight, focal_alpha=focal_alpha, focal_beta=focal_beta),
            **check_positive(focal_temperature=focal_temperature),
            **check_choices(
                focal_distance=(focal_distance, ("kl", "logits")),
                focal_direction=(focal_direction, ("old_new", "new_old")),
                class_reduction=(class_reduction, ("mean", "sum")),
            ),
        )

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Load the reference, unless its weight is 0."""
        super().begin_fit(trainer)
        if self.mixin_options.focal_weight:
            self.load_reference(trainer)

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """CE + lambda F D per sample."""
        options = self.mixin_options
        if not options.focal_weight:
            return None
        self.require_labels(step)
        old = self.reference_logits(step)
        distance = focal_distillation_loss(
            step.logits,
            old,
            step.target,
            alpha=options.focal_alpha,
            beta=options.focal_beta,
            distance=options.focal_distance,
            temperature=options.focal_temperature,
            direction=options.focal_direction,
            class_reduction=options.class_reduction,
            old_classes=self.old_class_indices(step.num_classes, old.shape[1]),
            old_samples=options.old_samples,
            reduction=reduction,
        )
        added: Tensor = distance * options.focal_weight
        return added if reduction == "excess" else cross_entropy(step.logits, step.target, reduction="none") + added
