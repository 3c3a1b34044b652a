from .callbacks import (
    ExactResume as ExactResume,
)
from .callbacks import (
    FeatureProjection as FeatureProjection,
)
from .callbacks import (
    FlipTracker as FlipTracker,
)
from .callbacks import (
    LearningPath as LearningPath,
)
from .callbacks import (
    LogitGaps as LogitGaps,
)
from .callbacks import (
    NegativeFlipMonitor as NegativeFlipMonitor,
)
from .callbacks import (
    NoiseAccuracy as NoiseAccuracy,
)
from .callbacks import (
    PredictionFilter as PredictionFilter,
)
from .callbacks import (
    PredictionHistory as PredictionHistory,
)
from .callbacks import (
    PredictionWriter as PredictionWriter,
)
from .callbacks import (
    TemperatureScaling as TemperatureScaling,
)
from .callbacks import (
    TrainingTargets as TrainingTargets,
)
from .callbacks import (
    TransitionEstimator as TransitionEstimator,
)
from .callbacks import (
    WinningScores as WinningScores,
)
from .callbacks import (
    ZigZag as ZigZag,
)
from .callbacks import (
    read_temperature as read_temperature,
)
from .data import (
    NoisyLabels as NoisyLabels,
)
from .data import (
    ToyGaussianDataModule as ToyGaussianDataModule,
)
from .metrics import (
    Churn as Churn,
)
from .metrics import (
    FlippingError as FlippingError,
)
from .metrics import (
    NegativeFlipImpact as NegativeFlipImpact,
)
from .metrics import (
    NegativeFlipRate as NegativeFlipRate,
)
from .metrics import (
    PositiveFlipRate as PositiveFlipRate,
)
from .metrics import (
    RelativeFlippingError as RelativeFlippingError,
)
from .metrics import (
    RelativeNegativeFlipRate as RelativeNegativeFlipRate,
)
from .metrics import (
    TrustScore as TrustScore,
)
from .mixins import (
    BackwardCompatible as BackwardCompatible,
)
from .mixins import (
    BackwardCorrection as BackwardCorrection,
)
from .mixins import (
    ClassWiseSelfDistillation as ClassWiseSelfDistillation,
)
from .mixins import (
    ConfidencePenalty as ConfidencePenalty,
)
from .mixins import (
    Distillation as Distillation,
)
from .mixins import (
    EarlyLearningRegularization as EarlyLearningRegularization,
)
from .mixins import (
    FlippingErrorReduction as FlippingErrorReduction,
)
from .mixins import (
    FocalDistillation as FocalDistillation,
)
from .mixins import (
    ForwardCorrection as ForwardCorrection,
)
from .mixins import (
    LabelSmoothing as LabelSmoothing,
)
from .mixins import (
    LearningWithRetrospection as LearningWithRetrospection,
)
from .mixins import (
    LossTerm as LossTerm,
)
from .mixins import (
    Mixup as Mixup,
)
from .mixins import (
    NaivePositiveCongruent as NaivePositiveCongruent,
)
from .mixins import (
    PairwiseLabelSmoothing as PairwiseLabelSmoothing,
)
from .mixins import (
    SelfAdaptiveTraining as SelfAdaptiveTraining,
)
from .mixins import (
    SnapshotDistillation as SnapshotDistillation,
)
from .mixins import (
    SoftTargets as SoftTargets,
)
from .mixins import (
    TeacherFreeRegularization as TeacherFreeRegularization,
)
from .models import (
    Classifier as Classifier,
)
from .models import (
    EnsembleClassifier as EnsembleClassifier,
)
from .reports import (
    compare as compare,
)
from .reports import (
    compare_runs as compare_runs,
)
from .reports import (
    gate as gate,
)
from .reports import (
    join_predictions as join_predictions,
)
from .stores import (
    read_history as read_history,
)
from .stores import (
    read_paths as read_paths,
)
from .stores import (
    read_predictions as read_predictions,
)
from .stores import (
    read_soft_targets as read_soft_targets,
)

__version__: str
