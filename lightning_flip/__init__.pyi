# ruff: noqa: I001 - one import a folder; ruff would write one a name
from .callbacks import (
    ExactResume as ExactResume,
    FlipTracker as FlipTracker,
    LearningPath as LearningPath,
    NegativeFlipMonitor as NegativeFlipMonitor,
    PredictionFilter as PredictionFilter,
    PredictionHistory as PredictionHistory,
    PredictionWriter as PredictionWriter,
    TemperatureScaling as TemperatureScaling,
    TransitionEstimator as TransitionEstimator,
    ZigZag as ZigZag,
    read_temperature as read_temperature,
)
from .data import NoisyLabels as NoisyLabels
from .metrics import (
    Churn as Churn,
    FlippingError as FlippingError,
    NegativeFlipImpact as NegativeFlipImpact,
    NegativeFlipRate as NegativeFlipRate,
    PositiveFlipRate as PositiveFlipRate,
    RelativeFlippingError as RelativeFlippingError,
    RelativeNegativeFlipRate as RelativeNegativeFlipRate,
    TrustScore as TrustScore,
)
from .mixins import (
    BackwardCompatible as BackwardCompatible,
    BackwardCorrection as BackwardCorrection,
    ClassWiseSelfDistillation as ClassWiseSelfDistillation,
    ConfidencePenalty as ConfidencePenalty,
    Distillation as Distillation,
    EarlyLearningRegularization as EarlyLearningRegularization,
    FlippingErrorReduction as FlippingErrorReduction,
    FocalDistillation as FocalDistillation,
    ForwardCorrection as ForwardCorrection,
    LabelSmoothing as LabelSmoothing,
    LearningWithRetrospection as LearningWithRetrospection,
    LossTerm as LossTerm,
    Mixup as Mixup,
    NaivePositiveCongruent as NaivePositiveCongruent,
    PairwiseLabelSmoothing as PairwiseLabelSmoothing,
    SelfAdaptiveTraining as SelfAdaptiveTraining,
    SnapshotDistillation as SnapshotDistillation,
    SoftTargets as SoftTargets,
    TeacherFreeRegularization as TeacherFreeRegularization,
)
from .models import (
    Classifier as Classifier,
    EnsembleClassifier as EnsembleClassifier,
)
from .reports import (
    compare as compare,
    compare_runs as compare_runs,
    gate as gate,
    join_predictions as join_predictions,
)
from .stores import (
    read_history as read_history,
    read_paths as read_paths,
    read_predictions as read_predictions,
    read_soft_targets as read_soft_targets,
)

__version__: str
