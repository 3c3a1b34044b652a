"""A new model beside the old one: what flipped, where, and more often than by chance."""

from lightning_flip.reports.update.comparison import UpdateComparison, compare
from lightning_flip.reports.update.joining import JoinedPredictions, join_predictions
from lightning_flip.reports.update.noise_floor import NoiseFloor

__all__ = [
    "JoinedPredictions",
    "NoiseFloor",
    "UpdateComparison",
    "compare",
    "join_predictions",
]
