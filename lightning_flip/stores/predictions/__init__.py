"""Final predictions in files: this package's own and those of other tools."""

from lightning_flip.stores.predictions.prediction_set import PredictionSet
from lightning_flip.stores.predictions.readers import read_logits, read_predictions
from lightning_flip.stores.predictions.writing import write_predictions

__all__ = [
    "PredictionSet",
    "read_logits",
    "read_predictions",
    "write_predictions",
]
