"""Figures: a plain table first, then a drawing of it."""

from lightning_flip.reports.figures.distances import (
    DistanceStages,
    distance_stages,
    plot_distance_stages,
    plot_label_recovery,
    recovery_curve,
)
from lightning_flip.reports.figures.drawing import Correlation, rank_correlation
from lightning_flip.reports.figures.noise import (
    LogitGaps,
    NoiseAccuracies,
    logit_gaps,
    noise_accuracies,
    plot_logit_gaps,
)
from lightning_flip.reports.figures.projection import (
    ClassProjection,
    class_plane,
    class_projection,
    plot_class_projection,
    project_features,
)
from lightning_flip.reports.figures.reliability import Reliability, plot_reliability, reliability
from lightning_flip.reports.figures.scores import ScoreHistogram, plot_winning_scores, score_histogram
from lightning_flip.reports.figures.simplex import (
    SimplexPath,
    plot_simplex_paths,
    samples_by_difficulty,
    simplex_path,
    simplex_points,
)
from lightning_flip.reports.figures.supervision import (
    SupervisionRelation,
    SupervisionRun,
    plot_supervision,
    supervision_relation,
)
from lightning_flip.reports.figures.tangent import (
    KernelSimilarity,
    kernel_similarity,
    plot_decomposition,
    softmax_traces,
)
from lightning_flip.reports.figures.targets import TargetProfile, plot_training_targets
from lightning_flip.reports.figures.uncertainty import (
    UncertaintyHistogram,
    plot_uncertainty_histogram,
    uncertainty_histogram,
)
from lightning_flip.reports.figures.zigzag import ZigzagRelation, plot_zigzag_relation, zigzag_relation

__all__ = [
    "ClassProjection",
    "Correlation",
    "DistanceStages",
    "KernelSimilarity",
    "LogitGaps",
    "NoiseAccuracies",
    "Reliability",
    "ScoreHistogram",
    "SimplexPath",
    "SupervisionRelation",
    "SupervisionRun",
    "TargetProfile",
    "UncertaintyHistogram",
    "ZigzagRelation",
    "class_plane",
    "class_projection",
    "distance_stages",
    "kernel_similarity",
    "logit_gaps",
    "noise_accuracies",
    "plot_class_projection",
    "plot_decomposition",
    "plot_distance_stages",
    "plot_label_recovery",
    "plot_logit_gaps",
    "plot_reliability",
    "plot_simplex_paths",
    "plot_supervision",
    "plot_training_targets",
    "plot_uncertainty_histogram",
    "plot_winning_scores",
    "plot_zigzag_relation",
    "project_features",
    "rank_correlation",
    "recovery_curve",
    "reliability",
    "samples_by_difficulty",
    "score_histogram",
    "simplex_path",
    "simplex_points",
    "softmax_traces",
    "supervision_relation",
    "uncertainty_histogram",
    "zigzag_relation",
]
