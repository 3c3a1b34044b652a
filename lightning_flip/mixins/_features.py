"""Features through which a method's loss trains the network."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_flip.steps import SampleStep
from lightning_flip.steps.features import classifier_layer

__all__ = ["trained_features"]


def trained_features(module: Any, step: SampleStep) -> Tensor:
    """The features of a step ``[B, D]``; warns if no gradient flows through them into a network that is trained."""
    features: Tensor | None = step.features
    assert features is not None
    if not features.requires_grad and step.logits.requires_grad:
        layer = classifier_layer(module, module._mixin.source.features_from, "features_from")
        behind = [part for part in (layer, getattr(module, "smoothing_head", None)) if part is not None]
        heads = {id(weight) for part in behind for weight in part.parameters()}
        trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
        network = [name for name, weight in trained if id(weight) not in heads]
        if network:
            rank_zero_warn(
                f"{type(module).__name__}: the features have no graph, so that the loss on them does not train "
                f"{network[0]} and the other weights in front of them. Activation checkpointing does that with "
                "use_reentrant=True; pass use_reentrant=False."
            )
    return features
