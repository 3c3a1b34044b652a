"""One row per sample, across epochs: plain tensors with explicit ``sync`` and ``state_dict``."""

from lightning_flip.tables.merging import gather_rows, is_distributed
from lightning_flip.tables.sample_table import SampleTable
from lightning_flip.tables.visits import VisitStatistics

__all__ = ["SampleTable", "VisitStatistics", "gather_rows", "is_distributed"]
