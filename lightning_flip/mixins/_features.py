"""The features through which a method's loss trains the network."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_flip.steps import SampleStep

__all__ = ["trained_features"]


def trained_features(module: Any, step: SampleStep) -> Tensor:
    """The features of a step ``[B, D]``; warns if activation checkpointing has cut them off from the network."""
    features: Tensor | None = step.features
    assert features is not None
    if not features.requires_grad and _is_checkpointed(step.logits):
        rank_zero_warn(
            f"{type(module).__name__}: the features have no graph, so the loss on them does not train the layers "
            "before them. This is activation checkpointing with use_reentrant=True; pass use_reentrant=False."
        )
    return features


def _is_checkpointed(logits: Tensor) -> bool:
    """Whether reentrant activation checkpointing gave the logits, or what they were made of."""
    nodes, seen = [logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            if node.name() == "CheckpointFunctionBackward":
                return True
            seen.add(node)
            nodes += [earlier for earlier, _ in node.next_functions]
    return False
