"""Numbers, tables and figures from recorded runs and predictions, without a Trainer.

Nothing here imports torch or lightning, so that a report opens quickly. Functions that draw (`plot_...`) return a
matplotlib figure outside pyplot (`figure.savefig(path)` writes it), and raise ModuleNotFoundError without matplotlib.
"""

from lightning_flip.reports.audit import AuditDraw, AuditEstimate, draw_audit, estimate_wrong
from lightning_flip.reports.figures.correlation import Correlation, rank_correlation
from lightning_flip.reports.figures.distances import (
    DistanceStages,
    distance_stages,
    plot_distance_stages,
    plot_label_recovery,
    recovery_curve,
)
from lightning_flip.reports.figures.noise import (
    LogitGaps,
    NoiseAccuracies,
    logit_gaps,
    noise_accuracies,
    plot_logit_gaps,
)
from lightning_flip.reports.figures.power import plot_sample_plan
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
from lightning_flip.reports.gating.decision import GateResult, LimitOutcome, Limits, gate
from lightning_flip.reports.gating.output import gate_json, gate_junit, gate_markdown, gate_text
from lightning_flip.reports.gating.planning import SamplePlan, plan_samples
from lightning_flip.reports.gating.policy import Policy, PolicyError, read_policy
from lightning_flip.reports.intervals import (
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mcnemar_exact,
    wilson_interval,
)
from lightning_flip.reports.page import write_report, write_update_report
from lightning_flip.reports.pictures import picture_of
from lightning_flip.reports.plots import (
    HistoryPlots,
    plot_dataset_map,
    plot_flips,
    plot_forgetting,
    plot_suspects,
    plot_who_flips,
)
from lightning_flip.reports.review import Review, check_review, read_review
from lightning_flip.reports.runs.comparison import Comparison, Spread, compare_runs, parse_run
from lightning_flip.reports.runs.summary import RunSummary, summarize_run
from lightning_flip.reports.shown_table import ShownTable
from lightning_flip.reports.suspects import SuspectTable, find_suspects
from lightning_flip.reports.update.chain import ChainComparison, compare_chain
from lightning_flip.reports.update.comparison import UpdateComparison, compare
from lightning_flip.reports.update.floor import NoiseFloor
from lightning_flip.reports.update.join import JoinedPredictions, join_predictions
from lightning_flip.stores.files import write_text

__all__ = [
    "AuditDraw",
    "AuditEstimate",
    "ChainComparison",
    "ClassProjection",
    "Comparison",
    "Correlation",
    "DistanceStages",
    "GateResult",
    "HistoryPlots",
    "JoinedPredictions",
    "KernelSimilarity",
    "LimitOutcome",
    "Limits",
    "LogitGaps",
    "NoiseAccuracies",
    "NoiseFloor",
    "Policy",
    "PolicyError",
    "Reliability",
    "Review",
    "RunSummary",
    "SamplePlan",
    "ScoreHistogram",
    "ShownTable",
    "SimplexPath",
    "Spread",
    "SupervisionRelation",
    "SupervisionRun",
    "SuspectTable",
    "TargetProfile",
    "UncertaintyHistogram",
    "UpdateComparison",
    "ZigzagRelation",
    "bootstrap_interval",
    "check_review",
    "class_plane",
    "class_projection",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "compare",
    "compare_chain",
    "compare_runs",
    "distance_stages",
    "draw_audit",
    "estimate_wrong",
    "find_suspects",
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
    "picture_of",
    "plan_samples",
    "plot_class_projection",
    "plot_dataset_map",
    "plot_decomposition",
    "plot_distance_stages",
    "plot_flips",
    "plot_forgetting",
    "plot_label_recovery",
    "plot_logit_gaps",
    "plot_reliability",
    "plot_sample_plan",
    "plot_simplex_paths",
    "plot_supervision",
    "plot_suspects",
    "plot_training_targets",
    "plot_uncertainty_histogram",
    "plot_who_flips",
    "plot_winning_scores",
    "plot_zigzag_relation",
    "project_features",
    "rank_correlation",
    "read_policy",
    "read_review",
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
    "write_report",
    "write_text",
    "write_update_report",
    "zigzag_relation",
]
