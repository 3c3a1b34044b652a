"""Recorded runs, one by one and side by side."""

from lightning_flip.reports.runs.comparison import Comparison, Spread, compare_runs, parse_run
from lightning_flip.reports.runs.summary import RunSummary, summarize_run

__all__ = [
    "Comparison",
    "RunSummary",
    "Spread",
    "compare_runs",
    "parse_run",
    "summarize_run",
]
