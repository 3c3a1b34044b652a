"""Prediction histories: run.json, one part per pass and rank, and the samples of a run."""

from lightning_flip.stores.history._statistics import PassRows
from lightning_flip.stores.history.reader import History, read_history
from lightning_flip.stores.history.runs import RunInfo, read_run
from lightning_flip.stores.history.samples import read_samples

__all__ = ["History", "PassRows", "RunInfo", "read_history", "read_run", "read_samples"]
