"""The methods in front of the plain classifier, under names that a YAML ``class_path`` can give.

A class of your own needs no entry here: any mixin in front of any LightningModule works, and LightningCLI finds it by
its path.
"""

from __future__ import annotations

from lightning_flip.mixins import FlippingErrorReduction, LabelSmoothing, LearningWithRetrospection
from lightning_flip.models import Classifier

__all__ = [
    "FlippingErrorReductionClassifier",
    "LabelSmoothingClassifier",
    "LearningWithRetrospectionClassifier",
]


class FlippingErrorReductionClassifier(FlippingErrorReduction, Classifier):
    """Trains a network with flipping error reduction (FER).

    Options are those of :class:`~lightning_flip.mixins.FlippingErrorReduction`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> model = FlippingErrorReductionClassifier(MLP(64, 10), num_classes=10, restrict="all", initial="copy")
        >>> model.restrict, model.fer_temperature, model.num_classes
        ('all', 5.0, 10)
    """


class LabelSmoothingClassifier(LabelSmoothing, Classifier):
    """Trains a network with label smoothing.

    Options are those of :class:`~lightning_flip.mixins.LabelSmoothing`, :class:`~lightning_flip.mixins.LossTerm` and
    :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> LabelSmoothingClassifier(MLP(64, 10), num_classes=10, smoothing=0.2).smoothing
        0.2
    """


class LearningWithRetrospectionClassifier(LearningWithRetrospection, Classifier):
    """Trains a network with learning with retrospection (LWR).

    Options are those of :class:`~lightning_flip.mixins.LearningWithRetrospection`,
    :class:`~lightning_flip.mixins.LossTerm` and :class:`~lightning_flip.models.Classifier`.

    Example:
        >>> from lightning_flip.models import MLP
        >>> LearningWithRetrospectionClassifier(MLP(64, 10), num_classes=10, lwr_interval=1).lwr_interval
        1
    """
