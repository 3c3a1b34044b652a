"""Losses against smeared labels."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.cross_entropy import Reduction, cross_entropy, reduce_loss, widen

__all__ = ["label_smoothing_loss"]


def label_smoothing_loss(
    logits: Float[Tensor, "B K"],
    target: Int[Tensor, " B"] | Float[Tensor, "B K"],
    *,
    smoothing: float = 0.1,
    reduction: Reduction = "mean",
) -> Float[Tensor, ...]:
    """(1 - a) CE + a H(u, p): cross entropy against (1 - a) e_y + a u, with u uniform over the K classes.

    Args:
        logits: ``[B, K]``.
        target: labels ``[B]``, or distributions ``[B, K]`` that are smoothed further.
        smoothing: a in [0, 1).
        reduction: "mean", "none" or "sum".

    Returns:
        The loss in nats.

    Raises:
        ValueError: if ``smoothing`` is outside [0, 1).

    Example:
        >>> import torch
        >>> label_smoothing_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), smoothing=0.1)
        tensor(0.2269)
    """
    check_smoothing(smoothing)
    plain = cross_entropy(logits, target, reduction="none")
    uniform = -widen(logits).log_softmax(dim=1).mean(dim=1)
    return reduce_loss((1 - smoothing) * plain + smoothing * uniform, reduction)


def check_smoothing(smoothing: float) -> None:
    """Refuse a smoothing outside [0, 1).

    Args:
        smoothing: the value.

    Raises:
        ValueError: if it is outside.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), the share of a label spread over all classes; got {smoothing}.")
