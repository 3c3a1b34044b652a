"""Class-wise self-distillation in plain numpy and plain loops: one sample and one class at a time."""

from __future__ import annotations

import math

from tests.oracles.pairwise import Floats, Ints, softmax

__all__ = ["class_wise_gradient", "class_wise_loss"]


def class_wise_loss(logits: Floats, y: Ints, partner: Floats, t: float = 4.0, w: float = 1.0) -> list[float]:
    """-log p_y + w t^2 KL(softmax(z_partner / t) || softmax(z / t)) of every sample."""
    losses = []
    for z, label, teacher in zip(logits, y, partner, strict=True):
        q, p = softmax([value / t for value in teacher]), softmax([value / t for value in z])
        divergence = sum(q[k] * (math.log(q[k]) - math.log(p[k])) for k in range(len(q)))
        losses.append(-math.log(softmax(list(z))[label]) + w * t**2 * divergence)
    return losses


def class_wise_gradient(logits: Floats, y: Ints, partner: Floats, t: float = 4.0, w: float = 1.0) -> list[list[float]]:
    """Derivatives of each sample's loss by its logits; the partner's are constants."""
    rows = []
    for z, label, teacher in zip(logits, y, partner, strict=True):
        plain = softmax(list(z))
        q, p = softmax([value / t for value in teacher]), softmax([value / t for value in z])
        rows.append([plain[k] - (k == label) + w * t * (p[k] - q[k]) for k in range(len(z))])
    return rows
