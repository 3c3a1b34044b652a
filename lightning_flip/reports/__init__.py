"""What recorded runs amount to: numbers and tables made from stores, without a Trainer.

Nothing here imports torch or lightning, so that a report opens quickly.
"""

from lightning_flip.reports.comparison import Comparison, Spread, compare_runs, parse_run
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
from lightning_flip.reports.noise_floor import NoiseFloor
from lightning_flip.reports.summary import RunSummary, summarize_run
from lightning_flip.reports.uncertainty import UncertaintyHistogram, uncertainty_histogram
from lightning_flip.reports.update import UpdateComparison, compare
from lightning_flip.stores.atomic import write_text

__all__ = [
    "Comparison",
    "GateResult",
    "JoinedPredictions",
    "LimitOutcome",
    "NoiseFloor",
    "RunSummary",
    "Spread",
    "UncertaintyHistogram",
    "UpdateComparison",
    "bootstrap_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "compare",
    "compare_runs",
    "gate",
    "gate_json",
    "gate_junit",
    "gate_markdown",
    "gate_text",
    "join_predictions",
    "mcnemar_exact",
    "parse_run",
    "plot_uncertainty_histogram",
    "summarize_run",
    "uncertainty_histogram",
    "wilson_interval",
    "write_text",
]
