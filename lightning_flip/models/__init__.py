"""Networks of the papers and the plain classifier that trains them."""

from lightning_flip.models.classifier import Classifier
from lightning_flip.models.cnn import SmallCNN
from lightning_flip.models.mlp import MLP
from lightning_flip.models.resnet import resnet10, resnet18

__all__ = ["MLP", "Classifier", "SmallCNN", "resnet10", "resnet18"]
