"""Networks of the papers, the plain classifier that trains them, and models that were trained before."""

from lightning_flip.models.classifier import Classifier
from lightning_flip.models.cyclic_cosine import CyclicCosine
from lightning_flip.models.ensemble import EnsembleClassifier
from lightning_flip.models.loading import load_model
from lightning_flip.models.networks import MLP, SmallCNN, resnet10, resnet18

__all__ = [
    "MLP",
    "Classifier",
    "CyclicCosine",
    "EnsembleClassifier",
    "SmallCNN",
    "load_model",
    "resnet10",
    "resnet18",
]
