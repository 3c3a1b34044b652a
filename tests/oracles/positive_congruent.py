"""What positive-congruent training computes per sample, in plain numpy and plain loops.

The library is held against this file, so it shares no code with it: float64, one sample and one class at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def log_probabilities(logits: Sequence[float]) -> list[float]:
    """log softmax of one sample's logits."""
    largest = max(logits)
    total = 0.0
    for value in logits:
        total += math.exp(value - largest)
    return [value - largest - math.log(total) for value in logits]


def cross_entropy(logits: NDArray, target: NDArray) -> Floats:
    """-log p_y of each sample: [B]."""
    return np.array(
        [-log_probabilities([float(z) for z in row])[int(y)] for row, y in zip(logits, target, strict=True)],
        dtype=np.float64,
    )


def old_is_right(old: NDArray, target: NDArray, old_classes: Sequence[int] | None = None) -> list[bool]:
    """Whether the class of the old model's largest logit is the label; the first of equal ones counts."""
    right = []
    for row, y in zip(old, target, strict=True):
        best = 0
        for k in range(len(row)):
            if row[k] > row[best]:
                best = k
        right.append((best if old_classes is None else int(old_classes[best])) == int(y))
    return right


def focal_distillation(
    new: NDArray,
    old: NDArray,
    target: NDArray,
    alpha: float = 1.0,
    beta: float = 5.0,
    distance: Literal["kl", "logits"] = "kl",
    temperature: float = 100.0,
    direction: Literal["old_new", "new_old"] = "old_new",
    class_reduction: Literal["mean", "sum"] = "mean",
    old_classes: Sequence[int] | None = None,
) -> Floats:
    """F_i D_i of each sample, [B], from logits new [B, K] and old [B, K_old].

    Entry j of `old_classes` is the new model's class of the old model's output j: D is taken over those logits
    alone, and a sample of any other class has F = 0. `class_reduction` concerns the distance of logits only.
    """
    classes = list(range(new.shape[1])) if old_classes is None else [int(k) for k in old_classes]
    assert len(classes) == old.shape[1]
    right = old_is_right(old, target, old_classes)
    values = []
    for i in range(len(target)):
        z_new = [float(new[i, k]) for k in classes]
        z_old = [float(z) for z in old[i]]
        focus = 0.0
        if int(target[i]) in classes:
            focus = alpha + (beta if right[i] else 0.0)
        if distance == "logits":
            total = 0.0
            for a, b in zip(z_new, z_old, strict=True):
                total += (a - b) ** 2
            apart = 0.5 * (total / len(classes) if class_reduction == "mean" else total)
        else:
            log_new = log_probabilities([z / temperature for z in z_new])
            log_old = log_probabilities([z / temperature for z in z_old])
            log_q, log_p = (log_old, log_new) if direction == "old_new" else (log_new, log_old)
            total = 0.0
            for a, b in zip(log_q, log_p, strict=True):
                total += math.exp(a) * (a - b)
            apart = temperature**2 * total
        values.append(focus * apart)
    return np.array(values, dtype=np.float64)


def weight_of_old_samples(
    target: NDArray, old_classes: Sequence[int] | None, old_samples: Literal["batch", "mean"]
) -> float:
    """What a loss that only samples of old classes have is multiplied with, before the mean over the batch is taken.

    "batch" leaves it; "mean" makes it the mean over the samples of old classes, and 0 where the batch has none.
    """
    if old_samples == "batch" or old_classes is None:
        return 1.0
    count = 0
    for label in target:
        if int(label) in [int(k) for k in old_classes]:
            count += 1
    return len(target) / count if count else 0.0


def naive(new: NDArray, old: NDArray, target: NDArray, old_classes: Sequence[int] | None = None) -> Floats:
    """[old right] CE(new) of each sample: what the naive treatment adds, [B]."""
    right = old_is_right(old, target, old_classes)
    return np.array(
        [loss if kept else 0.0 for loss, kept in zip(cross_entropy(new, target), right, strict=True)], dtype=np.float64
    )


def backward_compatible(
    h: NDArray,
    W_new: NDArray,
    b_new: NDArray,
    W_old: NDArray,
    b_old: NDArray,
    target: NDArray,
    weight: float = 1.0,
) -> Floats:
    """CE(W_new h) + weight CE(W_old h) of each sample, [B], from features h [B, D], matrices [K, D], biases [K]."""

    def head(W: NDArray, b: NDArray) -> Floats:
        logits = np.zeros((len(h), len(W)))
        for i in range(len(h)):
            for k in range(len(W)):
                value = float(b[k])
                for d in range(h.shape[1]):
                    value += float(W[k, d]) * float(h[i, d])
                logits[i, k] = value
        return logits

    return cross_entropy(head(W_new, b_new), target) + weight * cross_entropy(head(W_old, b_old), target)
