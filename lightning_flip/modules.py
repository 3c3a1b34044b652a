"""The methods in front of the plain classifier, under names that a YAML ``class_path`` can give.

Each takes the options of its mixin, see :mod:`lightning_flip.mixins`, and of
:class:`~lightning_flip.models.Classifier`. A class of your own needs no entry here: any mixin in front of any
LightningModule works, and LightningCLI finds it by its path.

Example:
    >>> from lightning_flip.models import MLP
    >>> model = FlippingErrorReductionClassifier(MLP(64, 10), num_classes=10, restrict="all", initial="copy")
    >>> model.mixin_options.restrict, model.mixin_options.fer_temperature, model.num_classes
    ('all', 5.0, 10)
"""

from __future__ import annotations

from lightning_flip.mixins import (
    BackwardCompatible,
    BackwardCorrection,
    ClassWiseSelfDistillation,
    ConfidencePenalty,
    Distillation,
    EarlyLearningRegularization,
    FlippingErrorReduction,
    FocalDistillation,
    ForwardCorrection,
    LabelSmoothing,
    LearningWithRetrospection,
    Mixup,
    NaivePositiveCongruent,
    PairwiseLabelSmoothing,
    SelfAdaptiveTraining,
    SnapshotDistillation,
    SoftTargets,
    TeacherFreeRegularization,
)
from lightning_flip.models import Classifier

__all__ = [
    "BackwardCompatibleClassifier",
    "BackwardCorrectionClassifier",
    "ClassWiseSelfDistillationClassifier",
    "ConfidencePenaltyClassifier",
    "DistillationClassifier",
    "EarlyLearningRegularizationClassifier",
    "FlippingErrorReductionClassifier",
    "FocalDistillationClassifier",
    "ForwardCorrectionClassifier",
    "LabelSmoothingClassifier",
    "LearningWithRetrospectionClassifier",
    "MixupClassifier",
    "NaivePositiveCongruentClassifier",
    "PairwiseLabelSmoothingClassifier",
    "SelfAdaptiveTrainingClassifier",
    "SnapshotDistillationClassifier",
    "SoftTargetsClassifier",
    "TeacherFreeRegularizationClassifier",
]


class BackwardCompatibleClassifier(BackwardCompatible, Classifier):
    """Trains a network whose features the old model's classifier layer can read (BCT)."""


class BackwardCorrectionClassifier(BackwardCorrection, Classifier):
    """Trains a network on noisy labels with a loss whose expectation is that of the true labels."""


class ClassWiseSelfDistillationClassifier(ClassWiseSelfDistillation, Classifier):
    """Trains a network to predict alike on samples of the same class (CS-KD)."""


class ConfidencePenaltyClassifier(ConfidencePenalty, Classifier):
    """Trains a network with a bonus for high-entropy predictions (confidence penalty, "Max-Entropy")."""


class DistillationClassifier(Distillation, Classifier):
    """Trains a network on a teacher's predictions for each batch (KD, ESKD)."""


class EarlyLearningRegularizationClassifier(EarlyLearningRegularization, Classifier):
    """Trains a network with early-learning regularization (ELR)."""


class FlippingErrorReductionClassifier(FlippingErrorReduction, Classifier):
    """Trains a network with flipping error reduction (FER)."""


class FocalDistillationClassifier(FocalDistillation, Classifier):
    """Trains a network that is pulled towards an old one, most where the old one is right (PCT)."""


class ForwardCorrectionClassifier(ForwardCorrection, Classifier):
    """Trains a network whose predictions, after the label noise, fit the noisy labels."""


class LabelSmoothingClassifier(LabelSmoothing, Classifier):
    """Trains a network with label smoothing."""


class LearningWithRetrospectionClassifier(LearningWithRetrospection, Classifier):
    """Trains a network with learning with retrospection (LWR)."""


class MixupClassifier(Mixup, Classifier):
    """Trains a network on weighted sums of samples (Mixup)."""


class NaivePositiveCongruentClassifier(NaivePositiveCongruent, Classifier):
    """Trains a network with more weight on what the old one gets right."""


class PairwiseLabelSmoothingClassifier(PairwiseLabelSmoothing, Classifier):
    """Trains a network on averaged pairs with a learned smoothing distribution (PLS)."""


class SelfAdaptiveTrainingClassifier(SelfAdaptiveTraining, Classifier):
    """Trains a network on labels that follow its own predictions (SAT)."""


class SnapshotDistillationClassifier(SnapshotDistillation, Classifier):
    """Trains a network in cycles, each taught by the end of the one before (SD)."""


class SoftTargetsClassifier(SoftTargets, Classifier):
    """Trains a network on a file of soft targets (Filter-KD; KD and ESKD from files)."""


class TeacherFreeRegularizationClassifier(TeacherFreeRegularization, Classifier):
    """Trains a network with a hand-written teacher (TF-Reg)."""
