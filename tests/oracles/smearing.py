"""Losses against smeared and corrected labels, matrices of label noise and their estimate, in plain loops.

The library is held against this file, so it shares no code with it: float64, one sample and one class at a time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_probabilities(logits: NDArray) -> list[float]:
    """log softmax of one sample's logits."""
    largest = max(float(z) for z in logits)
    total = 0.0
    for z in logits:
        total += math.exp(float(z) - largest)
    return [float(z) - largest - math.log(total) for z in logits]


def smoothing(classes: int, alpha: float) -> Floats:
    """(1 - a) I + (a/K) 1 1^T."""
    return np.array(
        [[(1 - alpha) * (i == j) + alpha / classes for j in range(classes)] for i in range(classes)], dtype=np.float64
    )


def backward(classes: int, alpha: float) -> Floats:
    """(I - (a/K) 1 1^T) / (1 - a)."""
    return np.array(
        [[((i == j) - alpha / classes) / (1 - alpha) for j in range(classes)] for i in range(classes)],
        dtype=np.float64,
    )


def symmetric(classes: int, rate: float) -> Floats:
    """The label changes with probability r, uniformly to one of the others."""
    return np.array(
        [[1 - rate if i == j else rate / (classes - 1) for j in range(classes)] for i in range(classes)],
        dtype=np.float64,
    )


def distribution(target: float | NDArray, classes: int) -> list[float]:
    """One-hot of a label, or the distribution itself."""
    if np.ndim(target):
        return [float(s) for s in np.asarray(target)]
    return [1.0 if k == int(target) else 0.0 for k in range(classes)]


def smeared(logits: NDArray, target: float | NDArray, matrix: NDArray, eps: float = 0.0) -> tuple[float, Floats]:
    """sum_j (M^T s)_j (-log p_j) of one sample, log p clipped at log eps, and its gradient by the logits."""
    classes = len(logits)
    log_p = log_probabilities(logits)
    s = distribution(target, classes)
    floor = math.log(eps) if eps else -math.inf
    loss, gradient = 0.0, np.zeros(classes)
    for j in range(classes):
        weight = 0.0
        for y in range(classes):
            weight += s[y] * float(matrix[y, j])
        loss += weight * -max(log_p[j], floor)
        if log_p[j] > floor:
            for k in range(classes):
                gradient[k] += weight * (math.exp(log_p[k]) - (j == k))
    return loss, gradient


def forward(logits: NDArray, target: float | NDArray, transition: NDArray) -> tuple[float, Floats]:
    """-sum_y s_y log (p T)_y of one sample, and its gradient by the logits."""
    classes = len(logits)
    p = [math.exp(value) for value in log_probabilities(logits)]
    s = distribution(target, classes)
    loss, by_p = 0.0, [0.0] * classes
    for y in range(classes):
        if s[y] == 0:
            continue
        mixed = 0.0
        for i in range(classes):
            mixed += p[i] * float(transition[i, y])
        loss -= s[y] * math.log(mixed)
        for i in range(classes):
            by_p[i] -= s[y] * float(transition[i, y]) / mixed
    inner = sum(by_p[i] * p[i] for i in range(classes))
    return loss, np.array([p[k] * (by_p[k] - inner) for k in range(classes)])


def estimate(probs: NDArray, percentile: float | None = 97.0) -> Floats:
    """Row i: the sample with the highest p_i, after dropping values at or above the percentile; the row normalized."""
    rows = []
    for i in range(probs.shape[1]):
        column = [float(value) for value in probs[:, i]]
        threshold = math.inf if percentile is None else float(np.percentile(column, percentile, method="higher"))
        best = None
        for n, value in enumerate(column):
            if value < threshold and (best is None or value > column[best]):
                best = n
        assert best is not None
        total = sum(float(value) for value in probs[best])
        rows.append([float(value) / total for value in probs[best]])
    return np.array(rows, dtype=np.float64)
