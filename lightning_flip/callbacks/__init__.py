"""Callbacks that watch training, one file a topic."""

from lightning_flip.callbacks.exact_resume import ExactResume
from lightning_flip.callbacks.flip_tracker import FlipTracker
from lightning_flip.callbacks.negative_flip_monitor import NegativeFlipMonitor
from lightning_flip.callbacks.prediction_history import PredictionHistory
from lightning_flip.callbacks.prediction_writer import PredictionWriter

__all__ = ["ExactResume", "FlipTracker", "NegativeFlipMonitor", "PredictionHistory", "PredictionWriter"]
