"""Temperature scaling and calibration error in plain loops, from their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean_loss(logits: Sequence[Sequence[float]], labels: Sequence[int], temperature: float) -> float:
    """Mean of -log softmax(z / T)_y."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        scaled = [z / temperature for z in row]
        top = max(scaled)
        total += top + math.log(sum(math.exp(z - top) for z in scaled)) - scaled[label]
    return total / len(labels)


def best_temperature(logits: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """T of the lowest mean loss, by golden section over log T: the loss has one minimum."""
    low, high = math.log(1e-4), math.log(1e4)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if mean_loss(logits, labels, math.exp(left)) < mean_loss(logits, labels, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def calibration_error(logits: Sequence[Sequence[float]], labels: Sequence[int], bins: int) -> float:
    """Sum over bins of (share of samples in it) |accuracy - mean confidence|."""
    filled: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(logits, labels, strict=True):
        top = max(row)
        weights = [math.exp(z - top) for z in row]
        confidence = max(weights) / sum(weights)
        filled[max(0, math.ceil(confidence * bins) - 1)].append((confidence, weights.index(max(weights)) == label))
    error = 0.0
    for part in filled:
        if part:
            gap = sum(right for _, right in part) / len(part) - sum(sure for sure, _ in part) / len(part)
            error += len(part) / len(labels) * abs(gap)
    return error
