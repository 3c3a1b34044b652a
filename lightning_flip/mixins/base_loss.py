"""The check that a module's own loss is what a term is added to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["check_base_loss"]


def check_base_loss(loss: Tensor, cross_entropies: Tensor, dtype: torch.dtype, name: str) -> None:
    """Compare a module's loss with the mean cross entropy of its logits; waits for the device.

    Args:
        loss: what ``training_step`` returned.
        cross_entropies: ``[B]``, of the logits that were caught.
        dtype: the logits' type, which says how exact the comparison can be.
        name: the module's name, for the error.

    Raises:
        ValueError: if they differ.

    Example:
        >>> check_base_loss(torch.tensor(2.0), torch.tensor([1.0, 3.0]), torch.float32, "Robust")
    """
    expected, got = float(cross_entropies.detach().mean()), float(loss.detach())
    tolerance = 2e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-4
    if not math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance):
        raise ValueError(
            f"{name}: training_step returned {got:.6g}, the mean cross entropy of its logits is {expected:.6g}. The "
            "mixin adds mean(method loss - CE), which gives the method's loss only on top of mean cross entropy. "
            "Return that (no class weights, smoothing or sum), or keep your loss and pass base_loss='any'."
        )
