"""Which samples does a classifier get wrong now that it got right before, why, and how to stop it.

Names are imported when they are first used: reading a store, and the commands over stores, need neither
torch nor lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_flip.callbacks import (
        ExactResume,
        FlipTracker,
        LearningPath,
        NegativeFlipMonitor,
        PredictionFilter,
        PredictionHistory,
        PredictionWriter,
        TransitionEstimator,
        ZigZag,
    )
    from lightning_flip.data import IndexedBatch, IndexedDataset, NoisyLabels, ToyGaussianDataModule
    from lightning_flip.metrics import (
        Churn,
        FlippingError,
        NegativeFlipImpact,
        NegativeFlipRate,
        PositiveFlipRate,
        RelativeFlippingError,
        RelativeNegativeFlipRate,
        TrustScore,
    )
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
        LossTerm,
        Mixup,
        NaivePositiveCongruent,
        PairwiseLabelSmoothing,
        SelfAdaptiveTraining,
        SnapshotDistillation,
        SoftTargets,
        TeacherFreeRegularization,
    )
    from lightning_flip.models import Classifier, EnsembleClassifier
    from lightning_flip.steps import SampleStep
    from lightning_flip.stores import read_history, read_paths, read_predictions, read_soft_targets
    from lightning_flip.tables import SampleTable, VisitStatistics

_HOMES = {
    "BackwardCompatible": "mixins",
    "BackwardCorrection": "mixins",
    "Churn": "metrics",
    "ClassWiseSelfDistillation": "mixins",
    "Classifier": "models",
    "ConfidencePenalty": "mixins",
    "Distillation": "mixins",
    "EarlyLearningRegularization": "mixins",
    "EnsembleClassifier": "models",
    "ExactResume": "callbacks",
    "FlipTracker": "callbacks",
    "FlippingError": "metrics",
    "FlippingErrorReduction": "mixins",
    "FocalDistillation": "mixins",
    "ForwardCorrection": "mixins",
    "IndexedBatch": "data",
    "IndexedDataset": "data",
    "LabelSmoothing": "mixins",
    "LearningPath": "callbacks",
    "LearningWithRetrospection": "mixins",
    "LossTerm": "mixins",
    "Mixup": "mixins",
    "NaivePositiveCongruent": "mixins",
    "NegativeFlipImpact": "metrics",
    "NegativeFlipMonitor": "callbacks",
    "NegativeFlipRate": "metrics",
    "NoisyLabels": "data",
    "PairwiseLabelSmoothing": "mixins",
    "PositiveFlipRate": "metrics",
    "PredictionFilter": "callbacks",
    "PredictionHistory": "callbacks",
    "PredictionWriter": "callbacks",
    "RelativeFlippingError": "metrics",
    "RelativeNegativeFlipRate": "metrics",
    "SampleStep": "steps",
    "SampleTable": "tables",
    "SelfAdaptiveTraining": "mixins",
    "SnapshotDistillation": "mixins",
    "SoftTargets": "mixins",
    "TeacherFreeRegularization": "mixins",
    "ToyGaussianDataModule": "data",
    "TransitionEstimator": "callbacks",
    "TrustScore": "metrics",
    "VisitStatistics": "tables",
    "ZigZag": "callbacks",
    "read_history": "stores",
    "read_paths": "stores",
    "read_predictions": "stores",
    "read_soft_targets": "stores",
}

__all__ = [
    "BackwardCompatible",
    "BackwardCorrection",
    "Churn",
    "ClassWiseSelfDistillation",
    "Classifier",
    "ConfidencePenalty",
    "Distillation",
    "EarlyLearningRegularization",
    "EnsembleClassifier",
    "ExactResume",
    "FlipTracker",
    "FlippingError",
    "FlippingErrorReduction",
    "FocalDistillation",
    "ForwardCorrection",
    "IndexedBatch",
    "IndexedDataset",
    "LabelSmoothing",
    "LearningPath",
    "LearningWithRetrospection",
    "LossTerm",
    "Mixup",
    "NaivePositiveCongruent",
    "NegativeFlipImpact",
    "NegativeFlipMonitor",
    "NegativeFlipRate",
    "NoisyLabels",
    "PairwiseLabelSmoothing",
    "PositiveFlipRate",
    "PredictionFilter",
    "PredictionHistory",
    "PredictionWriter",
    "RelativeFlippingError",
    "RelativeNegativeFlipRate",
    "SampleStep",
    "SampleTable",
    "SelfAdaptiveTraining",
    "SnapshotDistillation",
    "SoftTargets",
    "TeacherFreeRegularization",
    "ToyGaussianDataModule",
    "TransitionEstimator",
    "TrustScore",
    "VisitStatistics",
    "ZigZag",
    "read_history",
    "read_paths",
    "read_predictions",
    "read_soft_targets",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
