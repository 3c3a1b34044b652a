"""Passes that end in a table and a figure: wrong and soft labels, features, calibration."""

from lightning_flip.callbacks.diagnostics.base import Diagnostic
from lightning_flip.callbacks.diagnostics.feature_projection import FeatureProjection
from lightning_flip.callbacks.diagnostics.finding import Finding
from lightning_flip.callbacks.diagnostics.logit_gaps import LogitGaps
from lightning_flip.callbacks.diagnostics.noise_accuracy import NoiseAccuracy
from lightning_flip.callbacks.diagnostics.temperature_scaling import TemperatureScaling, read_temperature
from lightning_flip.callbacks.diagnostics.training_targets import TrainingTargets
from lightning_flip.callbacks.diagnostics.winning_scores import WinningScores

__all__ = [
    "Diagnostic",
    "FeatureProjection",
    "Finding",
    "LogitGaps",
    "NoiseAccuracy",
    "TemperatureScaling",
    "TrainingTargets",
    "WinningScores",
    "read_temperature",
]
