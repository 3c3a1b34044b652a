"""Loss terms that stand in front of a LightningModule, one file a method."""

from lightning_flip.mixins.backward_compatible import BackwardCompatible
from lightning_flip.mixins.base import LossTerm
from lightning_flip.mixins.distillation import Distillation
from lightning_flip.mixins.flipping_error_reduction import FlippingErrorReduction
from lightning_flip.mixins.focal_distillation import FocalDistillation
from lightning_flip.mixins.label_smoothing import LabelSmoothing
from lightning_flip.mixins.learning_with_retrospection import LearningWithRetrospection
from lightning_flip.mixins.naive_positive_congruent import NaivePositiveCongruent
from lightning_flip.mixins.referenced import ReferencedLoss
from lightning_flip.mixins.soft_targets import SoftTargets

__all__ = [
    "BackwardCompatible",
    "Distillation",
    "FlippingErrorReduction",
    "FocalDistillation",
    "LabelSmoothing",
    "LearningWithRetrospection",
    "LossTerm",
    "NaivePositiveCongruent",
    "ReferencedLoss",
    "SoftTargets",
]
