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
        FeatureProjection,
        FlipTracker,
        LearningPath,
        LogitGaps,
        NegativeFlipMonitor,
        NoiseAccuracy,
        PredictionFilter,
        PredictionHistory,
        PredictionWriter,
        TemperatureScaling,
        TrainingTargets,
        TransitionEstimator,
        WinningScores,
        ZigZag,
        read_temperature,
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
    "FeatureProjection": "callbacks",
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
    "LogitGaps": "callbacks",
    "LossTerm": "mixins",
    "Mixup": "mixins",
    "NaivePositiveCongruent": "mixins",
    "NegativeFlipImpact": "metrics",
    "NegativeFlipMonitor": "callbacks",
    "NegativeFlipRate": "metrics",
    "NoiseAccuracy": "callbacks",
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
    "TemperatureScaling": "callbacks",
    "ToyGaussianDataModule": "data",
    "TrainingTargets": "callbacks",
    "TransitionEstimator": "callbacks",
    "TrustScore": "metrics",
    "VisitStatistics": "tables",
    "WinningScores": "callbacks",
    "ZigZag": "callbacks",
    "read_history": "stores",
    "read_paths": "stores",
    "read_predictions": "stores",
    "read_soft_targets": "stores",
    "read_temperature": "callbacks",
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
    "FeatureProjection",
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
    "LogitGaps",
    "LossTerm",
    "Mixup",
    "NaivePositiveCongruent",
    "NegativeFlipImpact",
    "NegativeFlipMonitor",
    "NegativeFlipRate",
    "NoiseAccuracy",
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
    "TemperatureScaling",
    "ToyGaussianDataModule",
    "TrainingTargets",
    "TransitionEstimator",
    "TrustScore",
    "VisitStatistics",
    "WinningScores",
    "ZigZag",
    "read_history",
    "read_paths",
    "read_predictions",
    "read_soft_targets",
    "read_temperature",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
