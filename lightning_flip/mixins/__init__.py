"""Loss terms that stand in front of a LightningModule, one file a method."""

from lightning_flip.mixins.base import LossTerm
from lightning_flip.mixins.flipping_error_reduction import FlippingErrorReduction
from lightning_flip.mixins.label_smoothing import LabelSmoothing
from lightning_flip.mixins.learning_with_retrospection import LearningWithRetrospection

__all__ = ["FlippingErrorReduction", "LabelSmoothing", "LearningWithRetrospection", "LossTerm"]
