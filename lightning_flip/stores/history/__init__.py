"""Prediction histories: run.json, one part per pass, and the samples of a run."""

from lightning_flip.stores.history.dynamics import PassRows
from lightning_flip.stores.history.part_key import PartKey
from lightning_flip.stores.history.parts import list_parts, set_aside, write_part
from lightning_flip.stores.history.reader import History, read_history
from lightning_flip.stores.history.runs import RunInfo, read_run
from lightning_flip.stores.history.samples import read_samples, write_samples

__all__ = [
    "History",
    "PartKey",
    "PassRows",
    "RunInfo",
    "list_parts",
    "read_history",
    "read_run",
    "read_samples",
    "set_aside",
    "write_part",
    "write_samples",
]
