"""Whether autograd runs the caller, as it does for checkpointed activations."""

from __future__ import annotations

import torch

__all__ = ["in_backward"]


def in_backward() -> bool:
    """Whether the caller runs inside of a backward pass."""
    # The way in which torch.autograd.graph's multi-grad hooks tell; nothing public does.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
