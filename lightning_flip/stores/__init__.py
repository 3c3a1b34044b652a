"""Files that outlive training: what a model predicted on every sample, in Parquet that every data tool reads.

Nothing here imports torch or lightning, so that reading a history stays quick.
"""

from lightning_flip.stores.claims import Claim, claim, discard_empty_run, open_run
from lightning_flip.stores.errors import ClaimLostError, HistoryError, PredictionError
from lightning_flip.stores.fingerprints import dataset_fingerprint
from lightning_flip.stores.history import (
    History,
    PartKey,
    PassRows,
    RunInfo,
    list_parts,
    read_history,
    read_run,
    read_samples,
    set_aside,
    write_part,
    write_samples,
)
from lightning_flip.stores.path_parts import path_bytes, write_path_part
from lightning_flip.stores.paths import LearningPaths, read_paths
from lightning_flip.stores.predictions import PredictionSet, read_logits, read_predictions, write_predictions
from lightning_flip.stores.soft_targets import SoftTargetError, SoftTargetTable, read_soft_targets, write_soft_targets
from lightning_flip.stores.transitions import read_transition, write_transition
from lightning_flip.stores.zigzag import read_zigzag, write_zigzag

__all__ = [
    "Claim",
    "ClaimLostError",
    "History",
    "HistoryError",
    "LearningPaths",
    "PartKey",
    "PassRows",
    "PredictionError",
    "PredictionSet",
    "RunInfo",
    "SoftTargetError",
    "SoftTargetTable",
    "claim",
    "dataset_fingerprint",
    "discard_empty_run",
    "list_parts",
    "open_run",
    "path_bytes",
    "read_history",
    "read_logits",
    "read_paths",
    "read_predictions",
    "read_run",
    "read_samples",
    "read_soft_targets",
    "read_transition",
    "read_zigzag",
    "set_aside",
    "write_part",
    "write_path_part",
    "write_predictions",
    "write_samples",
    "write_soft_targets",
    "write_transition",
    "write_zigzag",
]
