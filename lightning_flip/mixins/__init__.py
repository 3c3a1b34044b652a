"""Loss terms that stand in front of a LightningModule, one file per method."""

from lightning_flip.mixins.backward_compatible import BackwardCompatible
from lightning_flip.mixins.backward_correction import BackwardCorrection
from lightning_flip.mixins.base import LossTerm
from lightning_flip.mixins.batch_mixing import BatchMixing
from lightning_flip.mixins.class_wise_self_distillation import ClassWiseSelfDistillation
from lightning_flip.mixins.confidence_penalty import ConfidencePenalty
from lightning_flip.mixins.corrected import CorrectedLoss
from lightning_flip.mixins.distillation import Distillation
from lightning_flip.mixins.early_learning_regularization import EarlyLearningRegularization
from lightning_flip.mixins.flipping_error_reduction import FlippingErrorReduction
from lightning_flip.mixins.focal_distillation import FocalDistillation
from lightning_flip.mixins.forward_correction import ForwardCorrection
from lightning_flip.mixins.label_smoothing import LabelSmoothing
from lightning_flip.mixins.learning_with_retrospection import LearningWithRetrospection
from lightning_flip.mixins.mixup import Mixup
from lightning_flip.mixins.naive_positive_congruent import NaivePositiveCongruent
from lightning_flip.mixins.pairwise_label_smoothing import PairwiseLabelSmoothing
from lightning_flip.mixins.referenced import ReferencedLoss
from lightning_flip.mixins.self_adaptive_training import SelfAdaptiveTraining
from lightning_flip.mixins.snapshot_distillation import SnapshotDistillation
from lightning_flip.mixins.soft_targets import SoftTargets
from lightning_flip.mixins.student import StudentLoss
from lightning_flip.mixins.teacher_free_regularization import TeacherFreeRegularization

__all__ = [
    "BackwardCompatible",
    "BackwardCorrection",
    "BatchMixing",
    "ClassWiseSelfDistillation",
    "ConfidencePenalty",
    "CorrectedLoss",
    "Distillation",
    "EarlyLearningRegularization",
    "FlippingErrorReduction",
    "FocalDistillation",
    "ForwardCorrection",
    "LabelSmoothing",
    "LearningWithRetrospection",
    "LossTerm",
    "Mixup",
    "NaivePositiveCongruent",
    "PairwiseLabelSmoothing",
    "ReferencedLoss",
    "SelfAdaptiveTraining",
    "SnapshotDistillation",
    "SoftTargets",
    "StudentLoss",
    "TeacherFreeRegularization",
]
