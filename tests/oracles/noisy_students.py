"""Students that are smoothed or forward-corrected while they learn from a teacher, in plain loops.

The library is held against this file, so it shares no code with it: float64, one sample and one class at a time. The
softened target is (1 - a) s + a u, the corrected student says p T; what stands in the place of s and p is the
teacher's and the student's distribution at the temperature, and for the labels' part the label and p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracles.filter_kd import log_softmax_of, softmax_of

Floats = NDArray[np.float64]


def compared(
    target: Sequence[float], log_p: Sequence[float], smoothing: float, transition: NDArray[Any] | None
) -> tuple[float, list[float]]:
    """H of one sample and its gradient by what log_p is the log softmax of."""
    classes = len(target)
    p = [math.exp(value) for value in log_p]
    loss, by_p = 0.0, [0.0] * classes
    for j in range(classes):
        wanted = (1 - smoothing) * target[j] + smoothing / classes
        if wanted == 0:
            continue
        said, reached = (p[j], [float(i == j) for i in range(classes)])
        if transition is not None:
            reached = [float(transition[i][j]) for i in range(classes)]
            said = 0.0
            for i in range(classes):
                said += p[i] * reached[i]
        loss -= wanted * (log_p[j] if transition is None else math.log(said))
        for i in range(classes):
            by_p[i] -= wanted * reached[i] / said
    inner = sum(by_p[i] * p[i] for i in range(classes))
    return loss, [p[k] * (by_p[k] - inner) for k in range(classes)]


def distillation(
    student: NDArray[Any],
    teacher: NDArray[Any],
    target: NDArray[Any],
    temperature: float = 1.0,
    weight: float = 1.0,
    teacher_is: str = "logits",
    *,
    smoothing: float = 0.0,
    transition: NDArray[Any] | None = None,
) -> tuple[Floats, Floats]:
    """Loss of each sample [B], and its gradient by the student's logits [B, K]; targets are labels or distributions."""
    losses, gradients = [], []
    left = 1 - weight if weight < 1 else 0.0
    for z, said, y in zip(student, teacher, target, strict=True):
        classes = len(z)
        if teacher_is == "probs":
            said = [math.log(value) if value > 0 else -math.inf for value in said]
        soft = softmax_of([float(value) for value in said], temperature)
        hard = [float(value) for value in y] if np.ndim(y) else [float(k == int(y)) for k in range(classes)]
        log_p_t = log_softmax_of([float(value) / temperature for value in z])
        log_p = log_softmax_of([float(value) for value in z])
        to_teacher, by_tempered = compared(soft, log_p_t, smoothing, transition)
        to_label, by_logits = compared(hard, log_p, smoothing, transition)
        losses.append(weight * temperature**2 * to_teacher + left * to_label)
        parts = zip(by_tempered, by_logits, strict=True)
        gradients.append([weight * temperature * tempered + left * plain for tempered, plain in parts])
    return np.array(losses), np.array(gradients)
