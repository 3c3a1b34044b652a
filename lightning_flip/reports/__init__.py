"""What recorded runs amount to: numbers and tables made from stores, without a Trainer.

Nothing here imports torch or lightning, so that a report opens quickly.
"""

from lightning_flip.reports.comparison import Comparison, Spread, compare_runs, parse_run
from lightning_flip.reports.summary import RunSummary, summarize_run

__all__ = ["Comparison", "RunSummary", "Spread", "compare_runs", "parse_run", "summarize_run"]
