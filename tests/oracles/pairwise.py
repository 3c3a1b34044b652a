"""Pairwise label smoothing and Mixup in plain numpy and plain loops: one sample and one class at a time.

The library is held against this file, so it shares no code with it. Gradients are by the logits and by the second
head's outputs before the sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def softmax(values: Sequence[float]) -> list[float]:
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def mixed(x: Floats, target: Floats, partner: Sequence[int], share: float = 0.5) -> tuple[Floats, Floats]:
    """share x_i + (1 - share) x_j and the same of the targets, j the partner of i; targets are [B, K]."""
    inputs, targets = np.zeros_like(x), np.zeros_like(target)
    for i, j in enumerate(partner):
        inputs[i] = share * x[i] + (1 - share) * x[j]
        for k in range(target.shape[1]):
            targets[i, k] = share * target[i, k] + (1 - share) * target[j, k]
    return inputs, targets


def is_pairs(number: int) -> bool:
    """Whether a batch is one of averages: every other one of the run, whose batches are counted from 0."""
    return number % 2 == 1


def one_hot(y: Ints, classes: int) -> Floats:
    rows = np.zeros((len(y), classes))
    for i, label in enumerate(y):
        rows[i, label] = 1.0
    return rows


def learned(head: Floats) -> Floats:
    """u' = softmax(sigmoid(W_t h + b_t)) of every sample, from W_t h + b_t."""
    return np.array([softmax([sigmoid(a) for a in row]) for row in head])


def pairwise_loss(logits: Floats, q: Floats, head: Floats, w: float) -> Floats:
    """(1 - w) H(q, p) + w H(u', p) of every sample."""
    losses = []
    for z, target, u in zip(logits, q, learned(head), strict=True):
        log_p = [math.log(p) for p in softmax(list(z))]
        losses.append(sum(-((1 - w) * target[k] + w * u[k]) * log_p[k] for k in range(len(z))))
    return np.array(losses)


def pairwise_gradients(logits: Floats, q: Floats, head: Floats, w: float) -> tuple[Floats, Floats]:
    """Derivatives of each sample's loss by its logits and by its head outputs."""
    by_logits, by_head = np.zeros_like(logits), np.zeros_like(head)
    for i, (z, target, a) in enumerate(zip(logits, q, head, strict=True)):
        p, v = softmax(list(z)), [sigmoid(value) for value in a]
        u = softmax(v)
        mean = sum(u[k] * -math.log(p[k]) for k in range(len(z)))
        for k in range(len(z)):
            by_logits[i, k] = p[k] - (1 - w) * target[k] - w * u[k]  # all masses are one
            by_head[i, k] = w * u[k] * (-math.log(p[k]) - mean) * v[k] * (1 - v[k])
    return by_logits, by_head


def uniform_loss(logits: Floats, q: Floats, a: float) -> Floats:
    """(1 - a) H(q, p) + a H(u, p) with u uniform: the ablation UD-a, and H(q, p) for a = 0."""
    losses = []
    for z, target in zip(logits, q, strict=True):
        log_p = [math.log(p) for p in softmax(list(z))]
        losses.append(sum(-((1 - a) * target[k] + a / len(z)) * log_p[k] for k in range(len(z))))
    return np.array(losses)


class TwoHeads:
    """Linear, tanh, linear, and a second linear layer on the same hidden features; plain SGD, gradients by hand.

    Weights have the layout of torch, [out, in].
    """

    def __init__(self, weights: dict[str, Floats]) -> None:
        self.weights = {name: np.array(value, dtype=np.float64) for name, value in weights.items()}

    def forward(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Hidden features, logits and second head's outputs (empty without a second head)."""
        w = self.weights
        hidden = np.tanh(x @ w["net.0.weight"].T + w["net.0.bias"])
        logits = hidden @ w["net.2.weight"].T + w.get("net.2.bias", 0.0)
        if "smoothing_head.weight" not in w:
            return hidden, logits, np.zeros((len(x), 0))
        return hidden, logits, hidden @ w["smoothing_head.weight"].T + w.get("smoothing_head.bias", 0.0)

    def gradients(self, x: Floats, by_logits: Floats, by_head: Floats) -> dict[str, Floats]:
        """Gradients of the mean loss by every weight, from those of each sample's loss."""
        w, count = self.weights, len(x)
        hidden, _, _ = self.forward(x)
        down = by_logits @ w["net.2.weight"]
        grads = {"net.2.weight": by_logits.T @ hidden / count, "net.2.bias": by_logits.sum(axis=0) / count}
        if by_head.shape[1]:
            down = down + by_head @ w["smoothing_head.weight"]
            grads["smoothing_head.weight"] = by_head.T @ hidden / count
            grads["smoothing_head.bias"] = by_head.sum(axis=0) / count
        down = down * (1 - hidden**2)
        grads |= {"net.0.weight": down.T @ x / count, "net.0.bias": down.sum(axis=0) / count}
        return {name: grad for name, grad in grads.items() if name in w}  # layers without a bias

    def step(self, ranks: Sequence[dict[str, Floats]], lr: float) -> None:
        """One step with the mean of the ranks' gradients."""
        for name in self.weights:
            self.weights[name] = self.weights[name] - lr * sum(grads[name] for grads in ranks) / len(ranks)
