"""Teacher-free regularization as a mixin."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_flip.functional.regularization import teacher_free_loss
from lightning_flip.mixins.base import LossTerm, Reduced
from lightning_flip.steps import SampleStep
from lightning_flip.steps.options import check_fractions, check_not_negative, check_positive

__all__ = ["TeacherFreeRegularization"]


class TeacherFreeRegularization(LossTerm):
    """Learns from a hand-made teacher that is nearly always right (Yuan et al. 2020; TF-Reg).

    The loss is (1 - a) CE + a m mean_K[q (log q - log p)] with q = softmax(v / t), v = 0.99 on the label and
    0.01 / (K - 1) elsewhere. As in the authors' code, t divides these probabilities themselves, the student has no
    temperature, there is no t^2, and the divergence is the mean over the K classes.

    =============  ============  =================  ================
    the FER paper  tf_weight a   tf_temperature t   tf_multiplier m
    =============  ============  =================  ================
    ResNet-18      0.1           20                 100 (default)
    MobileNetV2    0.95          40                 1
    ShuffleNetV2   0.95          10                 1
    =============  ============  =================  ================

    Args:
        tf_weight: a in [0, 1]; 0 is plain training, bit for bit.
        tf_temperature: t > 0.
        tf_multiplier: m >= 0, for a mean over K = 100 classes; for K classes, m = K has the same effect.
        tf_confidence: the teacher's probability of the label, in [0, 1].

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class TeacherFree(TeacherFreeRegularization, Classifier): ...
        >>> TeacherFree(network=MLP(4, 3), num_classes=3, tf_multiplier=3).mixin_options.tf_multiplier
        3.0
    """

    softens_target = True
    replaces_cross_entropy = True

    def __init__(
        self,
        *args: Any,
        tf_weight: float = 0.1,
        tf_temperature: float = 20.0,
        tf_multiplier: float = 100.0,
        tf_confidence: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.mixin_options.take(
            **check_fractions(up_to_one=True, tf_weight=tf_weight, tf_confidence=tf_confidence),
            **check_positive(tf_temperature=tf_temperature),
            **check_not_negative(tf_multiplier=tf_multiplier),
        )

    def method_loss(self, step: SampleStep, reduction: Reduced = "none") -> Tensor | None:
        """(1 - a) CE + a m mean_K[q (log q - log p)] per sample."""
        options = self.mixin_options
        if not options.tf_weight:
            return None
        self.require_labels(step)
        return teacher_free_loss(
            step.logits,
            step.target,
            weight=options.tf_weight,
            temperature=options.tf_temperature,
            multiplier=options.tf_multiplier,
            confidence=options.tf_confidence,
            reduction=reduction,
        )
