"""The check that a module's own loss is what a term is added to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_flip.steps.logits.choice import Choice

__all__ = ["check_base_loss"]


def check_base_loss(
    loss: Tensor,
    cross_entropies: Tensor,
    dtype: torch.dtype,
    name: str,
    choice: Choice | None = None,
    *,
    labels: bool = True,
) -> bool:
    """Compare a module's loss with the mean cross entropy of its logits; waits for the device.

    Returns whether the comparison has decided: where all samples have the same cross entropy, as with a head that
    begins at zero, class weights and label smoothing do not show.

    Args:
        loss: what ``training_step`` returned.
        cross_entropies: ``[B]``, of the logits that were found, without samples that the loss leaves out.
        dtype: the logits' type, which says how exact the comparison can be.
        name: the module's name, for the error.
        choice: how the logits were found, which may say what the loss is.
        labels: whether the targets are labels; distributions may be of half precision.

    Example:
        >>> check_base_loss(torch.tensor(2.0), torch.tensor([1.0, 3.0]), torch.float32, "Robust")
        True
        >>> check_base_loss(torch.tensor(1.1), torch.tensor([1.1, 1.1]), torch.float32, "Robust")
        False
    """
    values = cross_entropies.detach()
    if not len(values):
        return False  # all samples are left out
    found = _seen(choice)
    expected, got = float(values.mean()), float(loss.detach())
    half = dtype in (torch.float16, torch.bfloat16)
    tolerance = (2e-2 if half else 1e-4) if choice is None else choice.tolerance(dtype, loss.dtype, labels=labels)
    if found or not math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance):
        total = float(values.sum())
        if not found and len(values) > 1 and math.isclose(total, got, rel_tol=tolerance, abs_tol=tolerance):
            found = "the sum over the batch"
        said = f"It has {found}. " if found else ""
        raise ValueError(
            f"{name}: training_step returned {got:.6g}, the mean cross entropy of its logits is {expected:.6g}. {said}"
            "The mixin adds mean(method loss - CE), which gives the method's loss only on top of mean cross entropy. "
            "Return that (no class weights, smoothing or sum), or keep your loss and pass base_loss='any'."
        )
    spread = float(values.max() - values.min()) if len(values) else 0.0
    return spread > 10 * tolerance * max(1.0, abs(expected))


def _seen(choice: Choice | None) -> str:
    """What the call of the loss says beside the mean cross entropy."""
    if choice is None:
        return ""
    found = []
    if choice.mixed:
        found.append("other targets than the batch's labels (mixing, as MixUp and CutMix do)")
    if choice.weight is not None:
        found.append("class weights")
    if choice.smoothing:
        found.append(f"label smoothing of {choice.smoothing:.3g}")
    if choice.reduction == "sum":
        found.append("the sum over the batch")
    if choice.binary:
        found.append("a binary cross entropy for every class")
    return " and ".join(found)
