"""Callbacks that watch training, one file a topic."""

from lightning_flip.callbacks.exact_resume import ExactResume
from lightning_flip.callbacks.flip_tracker import FlipTracker
from lightning_flip.callbacks.prediction_history import PredictionHistory

__all__ = ["ExactResume", "FlipTracker", "PredictionHistory"]
