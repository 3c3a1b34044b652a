"""The methods in front of the plain classifier, under names that a YAML ``class_path`` can give.

A class of your own needs no entry here: any mixin in front of any LightningModule works, and LightningCLI finds it by
its path.
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
    """Trains a network whose features the old model's classifier layer can read (BCT).

    Options are those of :class:`~lightning_flip.mixins.BackwardCompatible`,
    :class:`~lightning_flip.mixins.ReferencedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = BackwardCompatibleClassifier(MLP(64, 10), num_classes=10, reference="old.ckpt", backward_weight=0.5)
        >>> model.mixin_options.backward_weight
        0.5
    """


class BackwardCorrectionClassifier(BackwardCorrection, Classifier):
    """Trains a network on noisy labels with a loss whose expectation is that of the true ones.

    Options are those of :class:`~lightning_flip.mixins.BackwardCorrection`,
    :class:`~lightning_flip.mixins.CorrectedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = BackwardCorrectionClassifier(MLP(64, 10), num_classes=10, correction_alpha=0.2)
        >>> model.mixin_options.backward_eps
        1e-07
    """


class ClassWiseSelfDistillationClassifier(ClassWiseSelfDistillation, Classifier):
    """Trains a network to say alike to the samples of a class (CS-KD).

    Options are those of :class:`~lightning_flip.mixins.ClassWiseSelfDistillation`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = ClassWiseSelfDistillationClassifier(MLP(64, 10), num_classes=10, class_wise_weight=3.0)
        >>> model.mixin_options.class_wise_weight
        3.0
    """


class ConfidencePenaltyClassifier(ConfidencePenalty, Classifier):
    """Trains a network that is paid for undecided predictions (confidence penalty, "Max-Entropy").

    Options are those of :class:`~lightning_flip.mixins.ConfidencePenalty`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> ConfidencePenaltyClassifier(MLP(64, 10), num_classes=10, entropy_weight=0.2).mixin_options.entropy_weight
        0.2
    """


class DistillationClassifier(Distillation, Classifier):
    """Trains a network on what a teacher says of each batch (KD, ESKD).

    Options are those of :class:`~lightning_flip.mixins.StudentLoss`,
    :class:`~lightning_flip.mixins.ReferencedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = DistillationClassifier(MLP(64, 10), num_classes=10, reference="teacher.ckpt", kd_weight=0.9)
        >>> model.mixin_options.kd_weight
        0.9
    """


class EarlyLearningRegularizationClassifier(EarlyLearningRegularization, Classifier):
    """Trains a network that holds on to what it said early (ELR).

    Options are those of :class:`~lightning_flip.mixins.EarlyLearningRegularization`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> EarlyLearningRegularizationClassifier(MLP(64, 10), num_classes=10, elr_weight=1.0).mixin_options.elr_weight
        1.0
    """


class FlippingErrorReductionClassifier(FlippingErrorReduction, Classifier):
    """Trains a network with flipping error reduction (FER).

    Options are those of :class:`~lightning_flip.mixins.FlippingErrorReduction`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = FlippingErrorReductionClassifier(MLP(64, 10), num_classes=10, restrict="all", initial="copy")
        >>> model.mixin_options.restrict, model.mixin_options.fer_temperature, model.num_classes
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
        >>> new.mixin_options.focal_alpha, new.mixin_options.focal_beta, new.mixin_options.focal_distance
        (1.0, 5.0, 'kl')
    """


class ForwardCorrectionClassifier(ForwardCorrection, Classifier):
    """Trains a network whose predictions, after the label noise, fit the noisy labels.

    Options are those of :class:`~lightning_flip.mixins.CorrectedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = ForwardCorrectionClassifier(MLP(64, 10), num_classes=10, transition="estimate")
        >>> model.awaits_transition  # lightning_flip.callbacks.TransitionEstimator gives it
        True
    """


class LabelSmoothingClassifier(LabelSmoothing, Classifier):
    """Trains a network with label smoothing.

    Options are those of :class:`~lightning_flip.mixins.LabelSmoothing`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> LabelSmoothingClassifier(MLP(64, 10), num_classes=10, smoothing=0.2).mixin_options.smoothing
        0.2
    """


class LearningWithRetrospectionClassifier(LearningWithRetrospection, Classifier):
    """Trains a network with learning with retrospection (LWR).

    Options are those of :class:`~lightning_flip.mixins.LearningWithRetrospection`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> LearningWithRetrospectionClassifier(MLP(64, 10), num_classes=10, lwr_interval=1).mixin_options.lwr_interval
        1
    """


class MixupClassifier(Mixup, Classifier):
    """Trains a network on weighted sums of samples (Mixup).

    Options are those of :class:`~lightning_flip.mixins.Mixup`, :class:`~lightning_flip.mixins.BatchMixing`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> MixupClassifier(MLP(64, 10), num_classes=10, mixup_alpha=0.2).mixin_options.mixup_alpha
        0.2
    """


class NaivePositiveCongruentClassifier(NaivePositiveCongruent, Classifier):
    """Trains a network with more weight on what the old one gets right.

    Options are those of :class:`~lightning_flip.mixins.NaivePositiveCongruent`,
    :class:`~lightning_flip.mixins.ReferencedLoss`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = NaivePositiveCongruentClassifier(MLP(64, 10), num_classes=10, reference="old.ckpt")
        >>> model.mixin_options.naive_weight
        1.0
    """


class PairwiseLabelSmoothingClassifier(PairwiseLabelSmoothing, Classifier):
    """Trains a network on averaged pairs, with a smoothing distribution that is learned (PLS).

    Options are those of :class:`~lightning_flip.mixins.PairwiseLabelSmoothing`,
    :class:`~lightning_flip.mixins.BatchMixing`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = PairwiseLabelSmoothingClassifier(MLP(64, 10), num_classes=10, smoothing_weight=0.3)
        >>> model.mixin_options.smoothing_weight, model.smoothing_head.weight.shape
        (0.3, torch.Size([10, 128]))
    """


class SelfAdaptiveTrainingClassifier(SelfAdaptiveTraining, Classifier):
    """Trains a network on labels that follow its own predictions (SAT).

    Options are those of :class:`~lightning_flip.mixins.SelfAdaptiveTraining`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> SelfAdaptiveTrainingClassifier(MLP(64, 10), num_classes=10, sat_warmup=10).mixin_options.sat_warmup
        10
    """


class SnapshotDistillationClassifier(SnapshotDistillation, Classifier):
    """Trains a network in cycles, each of which is taught by the end of the one before (SD).

    Options are those of :class:`~lightning_flip.mixins.SnapshotDistillation`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> SnapshotDistillationClassifier(MLP(64, 10), num_classes=10, sd_cycles=3).mixin_options.sd_cycles
        3
    """


class SoftTargetsClassifier(SoftTargets, Classifier):
    """Trains a network on a file of soft targets (Filter-KD; KD and ESKD from files).

    Options are those of :class:`~lightning_flip.mixins.SoftTargets`, :class:`~lightning_flip.mixins.StudentLoss`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = SoftTargetsClassifier(MLP(64, 10), num_classes=10, targets="soft_targets/filtered_best.safetensors")
        >>> model.mixin_options.kd_weight, model.mixin_options.kd_temperature, model.mixin_options.unvisited
        (1.0, 1.0, 'error')
    """


class TeacherFreeRegularizationClassifier(TeacherFreeRegularization, Classifier):
    """Trains a network with a teacher that is written by hand (TF-Reg).

    Options are those of :class:`~lightning_flip.mixins.TeacherFreeRegularization`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = TeacherFreeRegularizationClassifier(MLP(64, 10), num_classes=10, tf_multiplier=10.0)
        >>> model.mixin_options.tf_multiplier
        10.0
    """
