"""Temperature scaling: the one number that logits are divided by, so that their softmax is as sure as it is right."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["LARGEST_TEMPERATURE", "SMALLEST_TEMPERATURE", "fit_temperature", "refuse_probabilities"]

#: Where the search ends; labels that are all right, or no better than chance, have no best temperature in between.
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-3, 1e3

_MOST_STEPS, _NEAR = 100, 1e-7
_CHUNK = 1 << 20  # numbers at a time
_SUM_TOLERANCE = 0.03  # rows may have been bfloat16 before they were widened


def fit_temperature(logits: Float[Tensor, "N K"], target: Int[Tensor, " N"]) -> float:
    """T with the lowest mean of -log softmax(z / T)_y (Guo et al. 2017), in float64.

    The loss is convex in b = 1 / T: its slope is the mean of sum_k p_k z_k - z_y and its curvature the mean variance of
    z under p, so that Newton's method, held between bounds, finds the one minimum in a few passes. If all labels agree
    with the largest logit it is at T = 0, and if the logits say nothing about the labels at infinity: the bound of the
    search is returned then. T < 1 makes predictions surer, T > 1 less sure; no argmax changes. Waits for the device.

    Args:
        logits: z of held-out samples, ``[N, K]``, finite but for masked classes (minus infinity) that are not the
            label; probabilities are refused.
        target: labels ``[N]`` in ``[0, K)``.

    Returns:
        T in [0.001, 1000].

    Raises:
        TypeError: for labels that are not whole numbers.
        ValueError: for wrong shapes, no samples, logits that are not finite, labels out of range, or probabilities.

    Example:
        Three of four are right, at logits that claim 98%:

        >>> round(fit_temperature(torch.tensor([[4.0, 0.0]]).expand(4, 2), torch.tensor([0, 0, 0, 1])), 3)
        3.641
    """
    _check(logits, target)
    refuse_probabilities(logits)
    z, y = logits.detach(), target.long()
    low, high = 1 / LARGEST_TEMPERATURE, 1 / SMALLEST_TEMPERATURE
    below = above = False  # whether the minimum is known to be above low, and below high
    # From b = 1 / spread, where scaled logits are of size 1 whatever their unit is.
    b = min(max(1 / max(_spread(z), low), low), high)
    for _ in range(_MOST_STEPS):
        slope, curvature = _slope(z, y, b)
        if slope > 0:
            high, above = b, True
        else:
            low, below = b, True
        following = b - slope / curvature if curvature > 0 else high
        if following >= high and not above:
            if _slope(z, y, high)[0] <= 0:  # 0 at both ends: all logits of a row are equal
                flat = _slope(z, y, 1 / LARGEST_TEMPERATURE)[0] >= 0
                return LARGEST_TEMPERATURE if flat else SMALLEST_TEMPERATURE
            above = True
        if following <= low and not below:
            if _slope(z, y, low)[0] >= 0:
                return LARGEST_TEMPERATURE
            below = True
        if not low < following < high:
            following = math.sqrt(low * high)  # the scale of logits is arbitrary: halve its logarithm
        before, b = b, following
        if abs(b - before) <= _NEAR * before:  # squared by the step that was just taken
            break
    return 1 / b


def _spread(z: Tensor) -> float:
    """Mean distance of logits from their mean, of some samples; masked classes have none."""
    some, masked = _centered(z[: max(1, _CHUNK // z.shape[1])])
    return float(some.abs().sum() / (~masked).sum())


def _centered(z: Tensor) -> tuple[Tensor, Tensor]:
    """Logits less the mean of their row, 0 for classes that are masked with minus infinity, and which those are."""
    masked = z == -math.inf
    wide = z.double().masked_fill(masked, 0.0)
    mean = wide.sum(dim=1, keepdim=True) / (~masked).sum(dim=1, keepdim=True)
    return (wide - mean).masked_fill(masked, 0.0), masked


def _slope(z: Tensor, y: Tensor, b: float) -> tuple[float, float]:
    """First and second derivative of the mean loss by b = 1 / T, in parts that fit into a cache."""
    total = torch.zeros(2, dtype=torch.float64, device=z.device)
    rows = max(1, _CHUNK // z.shape[1])
    for start in range(0, len(z), rows):
        (wide, masked), label = _centered(z[start : start + rows]), y[start : start + rows]
        weighted = (b * wide).masked_fill(masked, -math.inf).softmax(dim=1) * wide
        mean = weighted.sum(dim=1)
        variance = (weighted * wide).sum(dim=1) - mean**2
        total += torch.stack([(mean - wide.gather(1, label[:, None])[:, 0]).sum(), variance.sum()])
    slope, curvature = (total / len(z)).tolist()
    return slope, curvature


def _check(logits: Tensor, target: Tensor) -> None:
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "logits must be [N, K] and target one label a row, [N]; got the shapes "
            f"{tuple(logits.shape)} and {tuple(target.shape)}."
        )
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target must be whole numbers, the classes; got {target.dtype}. Distributions have no label.")
    if not len(logits):
        raise ValueError("a temperature needs samples, got none: look at what the validation data hold.")
    low, high = target.aminmax()
    if int(low) < 0 or int(high) >= logits.shape[1]:
        raise ValueError(f"labels must be in [0, {logits.shape[1]}); got {int(low)} to {int(high)}.")
    masked = logits.gather(1, target.long()[:, None]) == -math.inf
    if not (logits < math.inf).all() or masked.any():
        raise ValueError(
            "logits must be finite to fit a temperature, but for masked classes (minus infinity) that are not the "
            "label; got NaN or infinity. Look for bad inputs."
        )


def refuse_probabilities(logits: Float[Tensor, "N K"]) -> None:
    """Refuse rows that are probabilities (no value negative, sums of 1 within 3%): a temperature divides logits.

    Waits for the device.

    Example:
        >>> refuse_probabilities(torch.tensor([[2.0, -1.0]]))
        >>> refuse_probabilities(torch.tensor([[0.8, 0.2], [0.5, 0.5]]))
        Traceback (most recent call last):
        ...
        ValueError: expected logits, got what looks like probabilities: ...
    """
    sums = logits.double().sum(dim=1)
    if len(logits) and bool((logits >= 0).all()) and bool(((sums - 1).abs() < _SUM_TOLERANCE).all()):
        raise ValueError(
            "expected logits, got what looks like probabilities: no value is negative and every row sums to 1. A "
            "temperature divides logits. Name the layer before the softmax with logits_from=, or pass log "
            "probabilities."
        )
