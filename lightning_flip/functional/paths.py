"""Learning paths as functions of tensors: filtered, drawn on a plane, and scored.

Paper: "Better supervisory signals by observing learning paths" (Filter-KD). A path is what a network predicts for one
sample, over the steps or epochs of a training: T distributions over K classes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.losses import widen

__all__ = ["barycentric", "base_difficulty", "filter_path", "three_axes", "zigzag_score"]


def filter_path(path: Float[Tensor, "T ..."], alpha: float = 0.05) -> Float[Tensor, "T ..."]:
    """The running average of a path, q_t = (1 - alpha) q_{t-1} + alpha p_t (Algorithm 1).

    The first prediction is copied, q_0 = p_0, as the authors' code does; the paper's text runs a pass over the data
    before training, whose predictions then are the first ones of ``path``.

    Args:
        path: predictions, the first axis is time; usually ``[T, N, K]``.
        alpha: weight of the new prediction in (0, 1]; 1 gives the path itself.

    Returns:
        The filtered path, in at least float32.

    Raises:
        ValueError: if ``alpha`` is outside (0, 1].

    Example:
        >>> filter_path(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), alpha=0.25)
        tensor([[1.0000, 0.0000],
                [0.7500, 0.2500]])
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1]; got {alpha}.")
    path = widen(path)
    filtered = torch.empty_like(path)
    for time, new in enumerate(path):
        filtered[time] = new if time == 0 else (1 - alpha) * filtered[time - 1] + alpha * new
    return filtered


def zigzag_score(path: Float[Tensor, "T N K"], target: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """How far a path strays towards another class than its label: max over i != y of sum over t of q_t[i] (appendix E).

    It grows with the length of the path: divide by T to compare runs of different lengths. A straight path of T + 1
    points from q_0 to the label has (T + 1) / 2 times the largest mass that q_0 gives to another class.

    Args:
        path: probabilities ``[T, N, K]``, K >= 2.
        target: the label each sample was trained with, ``[N]``.

    Returns:
        Scores ``[N]`` in [0, T].

    Example:
        >>> straight = torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]], [[1.0, 0.0]]])
        >>> zigzag_score(straight, torch.tensor([0]))
        tensor([1.2000])
    """
    return other_classes(widen(path).sum(dim=0), target).amax(dim=1)


def base_difficulty(true_probs: Float[Tensor, "N K"], target: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """How far a label is from the true distribution: ||e_y - p*||_2 in [0, sqrt(2)] (Section 3.1).

    Large if p* is ambiguous, and if a clear sample was unlucky and drew an improbable label.

    Args:
        true_probs: p*, ``[N, K]``.
        target: labels ``[N]``.

    Example:
        >>> base_difficulty(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        tensor([0.0000, 1.4142])
    """
    true_probs = widen(true_probs)
    distance: Tensor = torch.linalg.vector_norm(one_hot(target, true_probs) - true_probs, dim=1)
    return distance


def barycentric(probs: Float[Tensor, "... 3"]) -> Float[Tensor, "... 2"]:
    """Points of an equilateral triangle for distributions over three classes (appendix A).

    Class 0 is at (0, 0), class 1 at (1, 0), class 2 at (1/2, sqrt(3)/2).

    Example:
        >>> barycentric(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
        tensor([[0.0000, 0.0000],
                [0.5000, 0.8660]])
    """
    probs = widen(probs)
    return probs @ probs.new_tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])


def three_axes(
    path: Float[Tensor, "T N K"], target: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "T N 3"], Int[Tensor, " N"]]:
    """A path over K > 2 classes on three axes: its label, the strongest other class, and all the rest.

    The strongest other class is the one with the largest sum over the path (our reading; the one that
    :func:`zigzag_score` names), the same at every time, so that the path is continuous.

    Args:
        path: probabilities ``[T, N, K]``, K >= 2.
        target: labels ``[N]``.

    Returns:
        Probabilities ``[T, N, 3]``, and the strongest other class ``[N]``.

    Example:
        >>> axes, other = three_axes(torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]), torch.tensor([3]))
        >>> axes, other
        (tensor([[[0.4000, 0.3000, 0.3000]]]), tensor([2]))
    """
    path = widen(path)
    other = other_classes(path.sum(dim=0), target).argmax(dim=1)
    rows = target.expand(path.shape[0], -1)[..., None]
    label, second = path.gather(2, rows), path.gather(2, other.expand(path.shape[0], -1)[..., None])
    rest = (path.sum(dim=2, keepdim=True) - label - second).clamp_min(0)
    return torch.cat([label, second, rest], dim=2), other


def other_classes(mass: Float[Tensor, "N K"], target: Int[Tensor, " N"]) -> Float[Tensor, "N K"]:
    """Masses ``[N, K]`` with minus infinity at the labels, out of the way of a maximum."""
    return mass.scatter(1, target[:, None], -math.inf)


def one_hot(target: Int[Tensor, " N"], like: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Labels as distributions of the type and width of another tensor."""
    return torch.zeros_like(like).scatter(1, target[:, None], 1.0)
