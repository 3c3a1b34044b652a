"""What recorded runs amount to: numbers and tables made from stores, without a Trainer.

Nothing here imports torch or lightning, so that a report opens quickly.
"""

from lightning_flip.reports.comparison import Comparison, Spread, compare_runs, parse_run
from lightning_flip.reports.distance_figures import (
    DistanceStages,
    distance_stages,
    plot_distance_stages,
    plot_label_recovery,
    recovery_curve,
)
from lightning_flip.reports.drawing import Correlation, rank_correlation
from lightning_flip.reports.figures import plot_uncertainty_histogram
from lightning_flip.reports.gate_output import gate_json, gate_junit, gate_markdown, gate_text
from lightning_flip.reports.gate_result import GateResult, LimitOutcome
from lightning_flip.reports.gating import gate
from lightning_flip.reports.intervals import (
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mcnemar_exact,
    wilson_interval,
)
from lightning_flip.reports.joining import JoinedPredictions, join_predictions
from lightning_flip.reports.noise_figures import (
    LogitGaps,
    NoiseAccuracies,
    logit_gaps,
    noise_accuracies,
    plot_logit_gaps,
)
from lightning_flip.reports.noise_floor import NoiseFloor
from lightning_flip.reports.path_figures import (
    SimplexPath,
    plot_simplex_paths,
    samples_by_difficulty,
    simplex_path,
    simplex_points,
)
from lightning_flip.reports.projection_figures import (
    ClassProjection,
    class_plane,
    class_projection,
    plot_class_projection,
    project_features,
)
from lightning_flip.reports.reliability import Reliability, plot_reliability, reliability
from lightning_flip.reports.score_figures import ScoreHistogram, plot_winning_scores, score_histogram
from lightning_flip.reports.summary import RunSummary, summarize_run
from lightning_flip.reports.supervision_figures import (
    SupervisionRelation,
    SupervisionRun,
    plot_supervision,
    supervision_relation,
)
from lightning_flip.reports.tangent_figures import (
    KernelSimilarity,
    kernel_similarity,
    plot_decomposition,
    softmax_traces,
)
from lightning_flip.reports.target_figures import TargetProfile, plot_training_targets
from lightning_flip.reports.uncertainty import UncertaintyHistogram, uncertainty_histogram
from lightning_flip.reports.update import UpdateComparison, compare
from lightning_flip.reports.zigzag_figures import ZigzagRelation, plot_zigzag_relation, zigzag_relation
from lightning_flip.stores.atomic import write_text

__all__ = [
    "ClassProjection",
    "Comparison",
    "Correlation",
    "DistanceStages",
    "GateResult",
    "JoinedPredictions",
    "KernelSimilarity",
    "LimitOutcome",
    "LogitGaps",
    "NoiseAccuracies",
    "NoiseFloor",
    "Reliability",
    "RunSummary",
    "ScoreHistogram",
    "SimplexPath",
    "Spread",
    "SupervisionRelation",
    "SupervisionRun",
    "TargetProfile",
    "UncertaintyHistogram",
    "UpdateComparison",
    "ZigzagRelation",
    "bootstrap_interval",
    "class_plane",
    "class_projection",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "compare",
    "compare_runs",
    "distance_stages",
    "gate",
    "gate_json",
    "gate_junit",
    "gate_markdown",
    "gate_text",
    "join_predictions",
    "kernel_similarity",
    "logit_gaps",
    "mcnemar_exact",
    "noise_accuracies",
    "parse_run",
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
    "summarize_run",
    "supervision_relation",
    "uncertainty_histogram",
    "wilson_interval",
    "write_text",
    "zigzag_relation",
]
