"""Callbacks that watch training, one file per topic."""

from lightning_flip.callbacks.diagnostics import (
    Diagnostic,
    FeatureProjection,
    Finding,
    LogitGaps,
    NoiseAccuracy,
    TemperatureScaling,
    TrainingTargets,
    WinningScores,
    read_temperature,
)
from lightning_flip.callbacks.exact_resume import ExactResume
from lightning_flip.callbacks.flip_tracker import FlipTracker
from lightning_flip.callbacks.learning_path import LearningPath
from lightning_flip.callbacks.negative_flip_monitor import NegativeFlipMonitor
from lightning_flip.callbacks.prediction_filter import PredictionFilter
from lightning_flip.callbacks.prediction_history import PredictionHistory
from lightning_flip.callbacks.prediction_writer import PredictionWriter
from lightning_flip.callbacks.report_writer import ReportWriter
from lightning_flip.callbacks.transition_estimator import TransitionEstimator
from lightning_flip.callbacks.zigzag import ZigZag

__all__ = [
    "Diagnostic",
    "ExactResume",
    "FeatureProjection",
    "Finding",
    "FlipTracker",
    "LearningPath",
    "LogitGaps",
    "NegativeFlipMonitor",
    "NoiseAccuracy",
    "PredictionFilter",
    "PredictionHistory",
    "PredictionWriter",
    "ReportWriter",
    "TemperatureScaling",
    "TrainingTargets",
    "TransitionEstimator",
    "WinningScores",
    "ZigZag",
    "read_temperature",
]
