"""Matrices of label noise T[true, noisy]: what one must be, how well it can be inverted, and estimating it."""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["check_rate", "check_transition", "condition_number", "estimate_transition", "inverse_transition"]

#: Above it an inverse makes more of an estimate's errors than of its signal: entries are hardly known to 1%.
ILL_CONDITIONED = 100.0


def check_rate(rate: float) -> None:
    """Refuse a noise rate outside [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a probability: expected a number in [0, 1], got {rate}; 40% noise is rate=0.4.")


def check_transition(transition: Float[Tensor, "R C"], name: str = "transition") -> None:
    """Refuse a matrix ``[K, K]`` that is not row-stochastic (within 1e-6), as T[true, noisy] is; waits for the device.

    The error calls it ``name``.
    """
    if transition.shape[0] != transition.shape[1]:
        raise ValueError(
            f"{name}[true, noisy] must be square, K x K for K classes; got {transition.shape[0]} x "
            f"{transition.shape[1]}."
        )
    if not bool((transition >= 0).all()):  # also catches NaN
        raise ValueError(
            f"{name} holds probabilities: expected entries of at least 0, got a minimum of "
            f"{float(transition.min())}. A backward correction matrix is not a transition; invert it first."
        )
    worst = float((transition.to(torch.float64).sum(1) - 1).abs().max())
    if not worst <= 1e-6:
        raise ValueError(
            f"{name}[true, noisy] must have rows that sum to 1 within 1e-6, got a row that is off by {worst:.3g}. "
            f"Divide by {name}.sum(1, keepdim=True); transpose it if its columns sum to 1."
        )


def condition_number(transition: Float[Tensor, "K K"]) -> float:
    """The largest over the smallest singular value: by how much an inverse can multiply errors of the matrix.

    At least 1; infinity for a singular matrix.

    Example:
        >>> condition_number(torch.eye(3)), condition_number(torch.full((2, 2), 0.5))
        (1.0, inf)
    """
    values = torch.linalg.svdvals(transition.to("cpu").to(torch.float64))
    largest, smallest = float(values[0]), float(values[-1])
    # Rounding leaves a singular matrix singular values of this size, not zeros.
    return largest / smallest if smallest > largest * len(values) * torch.finfo(torch.float64).eps else math.inf


def inverse_transition(transition: Float[Tensor, "K K"]) -> Float[Tensor, "K K"]:
    """T^-1, the smearing matrix of backward correction; waits for the device.

    Returns:
        float64 ``[K, K]`` on the CPU; rows sum to 1, entries may be negative.

    Raises:
        ValueError: if the matrix is not row-stochastic, or singular (to float64).

    Example:
        >>> inverse_transition(torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64))
        tensor([[ 1.5000, -0.5000],
                [-0.5000,  1.5000]], dtype=torch.float64)
    """
    check_transition(transition)
    condition = condition_number(transition)
    if math.isinf(condition):
        raise ValueError(
            "transition is singular: some true class is labeled as a mixture of others, and what is mixed cannot be "
            "told apart. Backward correction needs the inverse; use forward correction, or estimate the matrix anew."
        )
    if condition > ILL_CONDITIONED:
        warnings.warn(_advice(condition), UserWarning, stacklevel=2)
    inverse: Tensor = torch.linalg.inv(transition.to("cpu").to(torch.float64))
    return inverse


def estimate_transition(probs: Float[Tensor, "N K"], percentile: int | float | None = 97) -> Float[Tensor, "K K"]:
    """Estimate T from what a model trained on noisy labels predicts (Patrini et al. 2017).

    Row i is the prediction on an anchor of class i: the sample with the highest p_i among those below the percentile
    of p_i, since the very highest are outliers. It is exact if the model is right about the noisy labels and the
    anchor surely belongs to its class.

    Args:
        probs: probabilities ``[N, K]`` over training samples; left as they are.
        percentile: values of p_i at or above this percentile, in (0, 100], of the N values are dropped; None drops
            none, the paper's choice for 100 classes. Where all would be dropped (fewer than two different values),
            none is.

    Returns:
        Row-stochastic, float64 ``[K, K]`` on the CPU. Warns if its condition number is over 100.

    Raises:
        ValueError: if the rows are not probabilities, there is none, or ``percentile`` is out of range.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
        >>> estimate_transition(probs, percentile=None)
        tensor([[0.9000, 0.1000],
                [0.3000, 0.7000]], dtype=torch.float64)
    """
    if percentile is not None and not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], or None to drop nothing; got {percentile}.")
    _check_probabilities(probs)
    anchors = []
    for column in probs.detach().unbind(dim=1):
        kept = column
        if percentile is not None:
            # In this order the product is exact for whole percentiles; 0.07 * 100 would already be over 7.
            rank = math.ceil(percentile * (len(column) - 1) / 100)
            threshold = column.kthvalue(rank + 1).values
            kept = column.masked_fill(column >= threshold, -1.0)
            kept = torch.where((kept < 0).all(), column, kept)
        anchors.append(kept.argmax())
    rows = probs.detach()[torch.stack(anchors)].to("cpu").to(torch.float64)
    transition = rows / rows.sum(dim=1, keepdim=True)
    condition = condition_number(transition)
    if condition > ILL_CONDITIONED:
        warnings.warn(_advice(condition), UserWarning, stacklevel=2)
    return transition


def _check_probabilities(probs: Tensor) -> None:
    if not len(probs):
        raise ValueError("probs must hold the prediction of at least one sample, got none.")
    low, off = float(probs.min()), float((probs.to(torch.float32).sum(dim=1) - 1).abs().max())
    if not (low >= 0 and off <= 1e-2):  # also catches NaN; half precision is off by a few thousandths
        raise ValueError(
            f"probs must hold probabilities, rows of entries in [0, 1] that sum to 1; got a minimum of {low:.4g} and "
            f"a row whose sum is off by {off:.4g}. Pass logits.softmax(dim=1)."
        )


def _advice(condition: float) -> str:
    return (
        f"the transition has a condition number of {condition:.3g}: its inverse multiplies errors of the matrix by up "
        "to that. Use forward correction, which does not invert it, or estimate it from a model that was trained for "
        "longer."
    )
