"""The matrices that smear labels: symmetric noise, label smoothing, and what undoes them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_flip.functional.smearing import check_share

__all__ = ["backward_matrix", "smoothing_matrix", "symmetric_transition"]


def symmetric_transition(num_classes: int, rate: float) -> Float[Tensor, "K K"]:
    """T of symmetric noise: a label changes with probability r, uniformly to one of the other K - 1 classes.

    It is :func:`smoothing_matrix` with a = r K / (K - 1).

    Args:
        num_classes: K, at least 2.
        rate: r in [0, 1].

    Returns:
        Row-stochastic, float64 ``[K, K]``.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> symmetric_transition(3, 0.5)
        tensor([[0.5000, 0.2500, 0.2500],
                [0.2500, 0.5000, 0.2500],
                [0.2500, 0.2500, 0.5000]], dtype=torch.float64)
    """
    _check_classes(num_classes)
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a probability: expected a number in [0, 1], got {rate}; 40% noise is rate=0.4.")
    transition = torch.full((num_classes, num_classes), rate / (num_classes - 1), dtype=torch.float64)
    return transition.fill_diagonal_(1 - rate)


def smoothing_matrix(num_classes: int, alpha: float) -> Float[Tensor, "K K"]:
    """M = (1 - a) I + (a/K) 1 1^T: label smoothing as a smearing, and T of symmetric noise for forward correction.

    Args:
        num_classes: K, at least 2.
        alpha: a in [0, 1).

    Returns:
        Row-stochastic, float64 ``[K, K]``.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> smoothing_matrix(2, 0.5)
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]], dtype=torch.float64)
    """
    _check_classes(num_classes)
    check_share(alpha, "alpha")
    identity = torch.eye(num_classes, dtype=torch.float64)
    return (1 - alpha) * identity + alpha / num_classes


def backward_matrix(num_classes: int, alpha: float) -> Float[Tensor, "K K"]:
    """M = (I - (a/K) 1 1^T) / (1 - a), the inverse of :func:`smoothing_matrix`: backward correction as a smearing.

    Args:
        num_classes: K, at least 2.
        alpha: a in [0, 1).

    Returns:
        float64 ``[K, K]``; rows sum to 1, what is off the diagonal is negative.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> backward_matrix(2, 0.5)
        tensor([[ 1.5000, -0.5000],
                [-0.5000,  1.5000]], dtype=torch.float64)
    """
    _check_classes(num_classes)
    check_share(alpha, "alpha")
    identity = torch.eye(num_classes, dtype=torch.float64)
    return (identity - alpha / num_classes) / (1 - alpha)


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, so that there is another class; got {num_classes}.")
