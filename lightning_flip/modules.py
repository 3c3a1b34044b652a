"""The methods in front of the plain classifier, under names that a YAML ``class_path`` can give.

A class of your own needs no entry here: any mixin in front of any LightningModule works, and LightningCLI finds it by
its path.
"""

from __future__ import annotations

from lightning_flip.mixins import (
    BackwardCompatible,
    Distillation,
    FlippingErrorReduction,
    FocalDistillation,
    LabelSmoothing,
    LearningWithRetrospection,
    NaivePositiveCongruent,
    SoftTargets,
)
from lightning_flip.models import Classifier

__all__ = [
    "BackwardCompatibleClassifier",
    "DistillationClassifier",
    "FlippingErrorReductionClassifier",
    "FocalDistillationClassifier",
    "LabelSmoothingClassifier",
    "LearningWithRetrospectionClassifier",
    "NaivePositiveCongruentClassifier",
    "SoftTargetsClassifier",
]


class BackwardCompatibleClassifier(BackwardCompatible, Classifier):
    """Trains a network whose features the old model's classifier layer can read (BCT).

    Options are those of :class:`~lightning_flip.mixins.BackwardCompatible`,
    :class:`~lightning_flip.mixins.ReferencedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = BackwardCompatibleClassifier(MLP(64, 10), num_classes=10, reference="old.ckpt", backward_weight=0.5)
        >>> model.backward_weight
        0.5
    """


class DistillationClassifier(Distillation, Classifier):
    """Trains a network on what a teacher says of each batch (KD, ESKD).

    Options are those of :class:`~lightning_flip.mixins.Distillation`,
    :class:`~lightning_flip.mixins.ReferencedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> DistillationClassifier(MLP(64, 10), num_classes=10, reference="teacher.ckpt", kd_weight=0.9).kd_weight
        0.9
    """


class FlippingErrorReductionClassifier(FlippingErrorReduction, Classifier):
    """Trains a network with flipping error reduction (FER).

    Options are those of :class:`~lightning_flip.mixins.FlippingErrorReduction`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = FlippingErrorReductionClassifier(MLP(64, 10), num_classes=10, restrict="all", initial="copy")
        >>> model.restrict, model.fer_temperature, model.num_classes
        ('all', 5.0, 10)
    """


class FocalDistillationClassifier(FocalDistillation, Classifier):
    """Trains a network that is drawn to an old one, most where the old one is right (PCT).

    Options are those of :class:`~lightning_flip.mixins.FocalDistillation`,
    :class:`~lightning_flip.mixins.ReferencedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> old = FocalDistillationClassifier(MLP(64, 10), num_classes=10, focal_weight=0.0)  # plain training
        >>> new = FocalDistillationClassifier(MLP(64, 10, hidden=(256, 256)), num_classes=10, reference=old)
        >>> new.focal_alpha, new.focal_beta, new.focal_distance
        (1.0, 5.0, 'kl')
    """


class LabelSmoothingClassifier(LabelSmoothing, Classifier):
    """Trains a network with label smoothing.

    Options are those of :class:`~lightning_flip.mixins.LabelSmoothing`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> LabelSmoothingClassifier(MLP(64, 10), num_classes=10, smoothing=0.2).smoothing
        0.2
    """


class LearningWithRetrospectionClassifier(LearningWithRetrospection, Classifier):
    """Trains a network with learning with retrospection (LWR).

    Options are those of :class:`~lightning_flip.mixins.LearningWithRetrospection`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> LearningWithRetrospectionClassifier(MLP(64, 10), num_classes=10, lwr_interval=1).lwr_interval
        1
    """


class NaivePositiveCongruentClassifier(NaivePositiveCongruent, Classifier):
    """Trains a network with more weight on what the old one gets right.

    Options are those of :class:`~lightning_flip.mixins.NaivePositiveCongruent`,
    :class:`~lightning_flip.mixins.ReferencedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> NaivePositiveCongruentClassifier(MLP(64, 10), num_classes=10, reference="old.ckpt").naive_weight
        1.0
    """


class SoftTargetsClassifier(SoftTargets, Classifier):
    """Trains a network on a file of soft targets (Filter-KD; KD and ESKD from files).

    Options are those of :class:`~lightning_flip.mixins.SoftTargets`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = SoftTargetsClassifier(MLP(64, 10), num_classes=10, targets="soft_targets/filtered_best.safetensors")
        >>> model.kd_weight, model.kd_temperature, model.unvisited
        (1.0, 1.0, 'error')
    """
