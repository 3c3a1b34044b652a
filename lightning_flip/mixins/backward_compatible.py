"""Backward-compatible training as a mixin."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_flip.functional.losses import cross_entropy
from lightning_flip.functional.positive_congruent import backward_compatible_loss
from lightning_flip.mixins._features import trained_features
from lightning_flip.mixins._holder import SharedHolder
from lightning_flip.mixins.referenced import OPTION_NAMES, ReferencedLoss
from lightning_flip.models.ensemble import EnsembleClassifier
from lightning_flip.models.loading import load_model, options_called
from lightning_flip.steps import SampleStep
from lightning_flip.steps.cached_logits import CACHED_SUFFIXES
from lightning_flip.steps.logits.capture import classifier_layer
from lightning_flip.steps.options import check_not_negative, check_paths

__all__ = ["BackwardCompatible"]


@dataclass(eq=False)
class FrozenLayer(SharedHolder):
    """The weights of the old classifier layer during a fit; not an ``nn.Module``."""

    weight: Tensor | None = field(default=None, init=False)
    bias: Tensor | None = field(default=None, init=False)


class BackwardCompatible(ReferencedLoss):
    """Lets the old model's classifier layer read the new model's features (BCT, Shen et al. 2020).

    The loss is CE(W_new h) + w CE(W_old h): h are the features that enter the new model's classifier layer, W_old
    and its bias are the old model's and frozen. Both models need features of the same width. With ``old_classes``,
    the loss of samples of new classes is CE(W_new h) alone.

    Args:
        backward_weight: w >= 0; 0 is training without a reference, bit for bit, and loads none.
        features_from: dotted path of the new model's classifier layer; "" for its last ``nn.Linear``.
        classifier_from: dotted path of the reference's classifier layer; "" for its last ``nn.Linear``.

    Example:
        >>> from lightning_flip.models import MLP, Classifier
        >>> class Update(BackwardCompatible, Classifier): ...
        >>> model = Update(network=MLP(4, 3), num_classes=3, reference=MLP(4, 3), features_from="network.classifier")
        >>> model.mixin_options.features_from
        'network.classifier'
    """

    def __init__(
        self,
        *args: Any,
        backward_weight: float = 1.0,
        features_from: str = "",
        classifier_from: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        layers: dict[str, Any] = {"features_from": features_from, "classifier_from": classifier_from}
        self.mixin_options.take(
            **check_not_negative(backward_weight=backward_weight),
            **check_paths('a layer, "" for the last nn.Linear', **layers),
        )
        if backward_weight:
            self._mixin.source = replace(self._mixin.source, features_from=features_from)
        self._mixin.old_layer = FrozenLayer()

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Take the classifier layer out of the reference, unless its weight is 0."""
        options = self.mixin_options
        super().begin_fit(trainer)
        if not options.backward_weight:
            return
        source = self._old_source()
        if isinstance(source, (str, Path)) and Path(source).suffix in CACHED_SUFFIXES:
            raise ValueError(
                f"{type(self).__name__} needs the old model's classifier layer, and {source} holds cached logits. Pass "
                "reference= the old model itself: a checkpoint or a module."
            )
        with options_called(**OPTION_NAMES):
            old = load_model(source, model_class=self._old_class(), network=self._mixin.reference.network)
        if isinstance(old, EnsembleClassifier) and not options.classifier_from:
            raise ValueError(
                f"the reference of {type(self).__name__} is an EnsembleClassifier, and each of its members has a "
                "classifier layer of its own. Pass one of the members as reference=, or name a layer (classifier_from)."
            )
        layer = classifier_layer(old, options.classifier_from, "classifier_from", linear=True)
        assert isinstance(layer, nn.Linear)
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if len(weight) == 1:  # one logit z counts as [0, z]
            weight = torch.cat([torch.zeros_like(weight), weight])
            bias = None if bias is None else torch.cat([torch.zeros_like(bias), bias])
        device, old_layer = trainer.strategy.root_device, self._mixin.old_layer
        old_layer.weight, old_layer.bias = weight.to(device), None if bias is None else bias.to(device)

    def end_fit(self) -> None:
        """Release the old layer."""
        super().end_fit()
        self._mixin.old_layer.weight = self._mixin.old_layer.bias = None

    def method_loss(self, step: SampleStep) -> Tensor | None:
        """CE(W_new h) + w CE(W_old h) per sample."""
        options = self.mixin_options
        if not options.backward_weight:
            return None
        self.require_labels(step)
        layer = self._mixin.old_layer
        old = backward_compatible_loss(
            trained_features(self, step),
            layer.weight,
            layer.bias,
            step.target,
            old_classes=self.old_class_indices(step.num_classes, len(layer.weight)),
            old_samples=options.old_samples,
            reduction="none",
        )
        plain = cross_entropy(step.logits, step.target, reduction="none")
        return plain + old * float(options.backward_weight)
