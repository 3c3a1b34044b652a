"""The filter of predictions and the loss of distillation, in plain numpy and plain loops.

The library is held against this file, so it shares no code with it: float64, one sample and one class at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Visit = tuple[int, Sequence[float]]  # which sample, and what was predicted for it


def softmax_of(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities of one sample."""
    largest = max(logits)
    if largest == -math.inf:
        raise ValueError("a sample without any probability")
    weights = [math.exp((value - largest) / temperature) for value in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def filtered(
    visits: Iterable[Visit], num_samples: int, num_classes: int, alpha: float, initial: Any = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """q after all visits in their order, and who was visited; `initial` are the predictions before training."""
    table = [[0.0] * num_classes for _ in range(num_samples)]
    begun = [initial is not None] * num_samples
    if initial is not None:
        table = [[float(value) for value in row] for row in initial]
    visited = [False] * num_samples
    for sample, probs in visits:
        for k in range(num_classes):
            if begun[sample]:
                table[sample][k] = (1 - alpha) * table[sample][k] + alpha * float(probs[k])
            else:
                table[sample][k] = float(probs[k])
        begun[sample] = visited[sample] = True
    return np.array(table), np.array(visited)


def distillation(
    student: NDArray[Any],
    teacher: NDArray[Any],
    target: NDArray[Any],
    temperature: float = 1.0,
    weight: float = 1.0,
    teacher_is: str = "logits",
) -> tuple[Floats, Floats]:
    """Loss of each sample [B], and its gradient by the student's logits [B, K], from METHODS' formula by hand.

    A weight above 1 multiplies what the teacher says, and leaves nothing for the labels.
    """
    losses, gradients = [], []
    left = 1 - weight if weight < 1 else 0.0
    for z, said, y in zip(student, teacher, target, strict=True):
        if teacher_is == "probs":
            said = [math.log(value) if value > 0 else -math.inf for value in said]
        soft = softmax_of([float(value) for value in said], temperature)
        log_p_t = log_softmax_of([float(value) / temperature for value in z])
        log_p = log_softmax_of([float(value) for value in z])
        cross = 0.0
        for k in range(len(soft)):
            if soft[k] > 0:
                cross -= soft[k] * log_p_t[k]
        losses.append(weight * temperature**2 * cross - left * log_p[int(y)])
        row = []
        for k in range(len(soft)):
            towards_teacher = temperature * (math.exp(log_p_t[k]) - soft[k])
            towards_label = math.exp(log_p[k]) - (1.0 if k == int(y) else 0.0)
            row.append(weight * towards_teacher + left * towards_label)
        gradients.append(row)
    return np.array(losses), np.array(gradients)


def log_softmax_of(logits: Sequence[float]) -> list[float]:
    """Logarithms of one sample's probabilities."""
    largest = max(logits)
    total = math.log(sum(math.exp(value - largest) for value in logits))
    return [value - largest - total for value in logits]
