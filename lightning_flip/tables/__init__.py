"""One row per sample, across epochs: plain tensors with explicit ``sync`` and ``state_dict``."""

from lightning_flip.tables.merging import append_rows, gather_rows, is_distributed, sum_over_ranks
from lightning_flip.tables.prediction_sums import PredictionSums
from lightning_flip.tables.row_buffer import RowBuffer
from lightning_flip.tables.running_average import RunningAverage
from lightning_flip.tables.sample_table import SampleTable
from lightning_flip.tables.visits import VisitStatistics

__all__ = [
    "PredictionSums",
    "RowBuffer",
    "RunningAverage",
    "SampleTable",
    "VisitStatistics",
    "append_rows",
    "gather_rows",
    "is_distributed",
    "sum_over_ranks",
]
