"""Files that outlive training: what a model predicted on every sample, in Parquet that every data tool reads.

Nothing here imports torch or lightning, so that reading a history stays quick.
"""

from typing import Any

from lightning_flip._deprecate import moved
from lightning_flip.stores.corrections import Correction, corrections_text, read_corrections
from lightning_flip.stores.errors import ClaimLostError, HistoryError, PredictionError, ReviewError
from lightning_flip.stores.history import History, PassRows, RunInfo, read_history, read_run, read_samples
from lightning_flip.stores.paths import LearningPaths, read_paths
from lightning_flip.stores.predictions import PredictionSet, read_logits, read_predictions, write_predictions
from lightning_flip.stores.soft_targets import (
    SoftTargetError,
    SoftTargetTable,
    dataset_fingerprint,
    read_soft_targets,
    write_soft_targets,
)
from lightning_flip.stores.transitions import read_transition, write_transition
from lightning_flip.stores.zigzag import read_zigzag, write_zigzag

__all__ = [
    "ClaimLostError",
    "Correction",
    "History",
    "HistoryError",
    "LearningPaths",
    "PassRows",
    "PredictionError",
    "PredictionSet",
    "ReviewError",
    "RunInfo",
    "SoftTargetError",
    "SoftTargetTable",
    "corrections_text",
    "dataset_fingerprint",
    "read_corrections",
    "read_history",
    "read_logits",
    "read_paths",
    "read_predictions",
    "read_run",
    "read_samples",
    "read_soft_targets",
    "read_transition",
    "read_zigzag",
    "write_predictions",
    "write_soft_targets",
    "write_transition",
    "write_zigzag",
]

#: Names of 0.1 that only recording callbacks need: they are in these modules.
_MOVED = {
    "PartKey": "history.parts",
    "discard_empty_run": "claims",
    "list_parts": "history.parts",
    "open_run": "claims",
    "path_bytes": "paths",
    "set_aside": "history.parts",
    "write_part": "history.parts",
    "write_path_part": "paths",
    "write_samples": "history.samples",
}


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return moved(f"{__name__}.{name}", f"{__name__}.{_MOVED[name]}", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
