"""What the baselines beside label smoothing compute, in numpy and plain loops, with gradients by hand.

Shares no code with the library. A rule sees one batch: epoch (from 1), indices [B], logits [B, K]; it returns the
samples' losses [B] and the gradients of each by its logits [B, K]. Rules that keep a target of each sample work through
the batch in order, so that a sample that stands in it twice is visited twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.oracles.retrospection import Batches, Floats, Ints, NumpyNet, Trace, cross_entropy, softmax

Rule = Callable[[int, Ints, Floats], tuple[Floats, Floats]]
Pair = tuple[float, Floats]
LOW, HIGH = 1e-4, 1 - 1e-4


def confidence_penalty(z: Floats, label: int, weight: float = 0.1) -> Pair:
    """CE - w H(p, p) of one sample."""
    loss, gradient = cross_entropy(z, label)
    p = softmax(z)
    entropy = -sum(float(pk) * float(np.log(pk)) for pk in p)
    for j, pj in enumerate(p):
        gradient[j] += weight * pj * (np.log(pj) + entropy)
    return loss - weight * entropy, gradient


def teacher_free(
    z: Floats, label: int, weight: float = 0.1, temperature: float = 20.0, multiplier: float = 100.0, sure: float = 0.99
) -> Pair:
    """(1 - a) CE + a m mean_K[q (log q - log p)]."""
    classes = len(z)
    v = np.array([sure if j == label else (1 - sure) / (classes - 1) for j in range(classes)])
    exps = [float(np.exp(vj / temperature)) for vj in v]
    q = [e / sum(exps) for e in exps]
    p = softmax(z)
    divergence = sum(q[j] * (np.log(q[j]) - np.log(p[j])) for j in range(classes)) / classes
    loss, gradient = cross_entropy(z, label)
    gradient = (1 - weight) * gradient
    for j in range(classes):
        gradient[j] += weight * multiplier * (p[j] - q[j]) / classes
    return float((1 - weight) * loss + weight * multiplier * divergence), gradient


def snapshot_distillation(z: Floats, label: int, teacher: Floats, temperature: float = 3.0) -> Pair:
    """(1 + 1/t) CE + H(softmax(teacher / t), p)."""
    loss, gradient = cross_entropy(z, label)
    q, p = softmax(teacher / temperature), softmax(z)
    soft = -sum(q[j] * np.log(p[j]) for j in range(len(z)))
    return float((1 + 1 / temperature) * loss + soft), (1 + 1 / temperature) * gradient + p - q


def early_learning_row(row: Floats, z: Floats, momentum: float = 0.7) -> Floats:
    """R <- beta r + (1 - beta) p~."""
    clamped = np.array([min(max(pj, LOW), HIGH) for pj in softmax(z)])
    return np.asarray(momentum * row + (1 - momentum) * clamped / clamped.sum())


def early_learning(z: Floats, label: int, row: Floats, weight: float = 3.0) -> Pair:
    """CE + lambda log(1 - <r, clamped p>); the gradient is 0 through a clamped entry."""
    loss, gradient = cross_entropy(z, label)
    p = softmax(z)
    clamped = np.array([min(max(pj, LOW), HIGH) for pj in p])
    rest = 1 - sum(r * c for r, c in zip(row, clamped, strict=True))
    by_p = [-weight * r / rest if LOW <= pj <= HIGH else 0.0 for r, pj in zip(row, p, strict=True)]
    for i in range(len(z)):
        for j in range(len(z)):
            gradient[i] += by_p[j] * p[j] * (float(i == j) - p[i])
    return float(loss + weight * np.log(rest)), gradient


def self_adaptive(z: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """W H(r, p) of a batch, w = max r scaled to mean 1, and the gradients."""
    sure = [float(max(row)) for row in rows]
    mean = sum(sure) / len(sure)
    losses, gradients = np.zeros(len(z)), np.zeros_like(z)
    for i, row in enumerate(rows):
        p = softmax(z[i])
        losses[i] = -sure[i] / mean * sum(r * np.log(pj) for r, pj in zip(row, p, strict=True))
        gradients[i] = sure[i] / mean * (row.sum() * p - row)
    return losses, gradients


# -- training ------------------------------------------------------------------------------------------------


def each(y: Ints, pair: Callable[[Floats, int], Pair]) -> Rule:
    """The rule of a loss that looks at one sample alone."""

    def rule(epoch: int, batch: Ints, z: Floats) -> tuple[Floats, Floats]:
        pairs = [pair(row, int(y[index])) for index, row in zip(batch, z, strict=True)]
        return np.array([loss for loss, _ in pairs]), np.stack([gradient for _, gradient in pairs])

    return rule


def early_learning_rule(y: Ints, rows: Floats, momentum: float = 0.7, weight: float = 3.0) -> Rule:
    """ELR; `rows` [N, K] begin with zeros and are written."""

    def rule(epoch: int, batch: Ints, z: Floats) -> tuple[Floats, Floats]:
        losses, gradients = np.zeros(len(z)), np.zeros_like(z)
        for i, index in enumerate(batch):
            rows[index] = early_learning_row(rows[index], z[i], momentum)
            losses[i], gradients[i] = early_learning(z[i], int(y[index]), rows[index].copy(), weight)
        return losses, gradients

    return rule


def self_adaptive_rule(y: Ints, rows: Floats, momentum: float = 0.9, warmup: int = 60, ranks: int = 1) -> Rule:
    """SAT; `rows` [N, K] begin one-hot and are written. Each rank scales the weights of its own slice."""

    def rule(epoch: int, batch: Ints, z: Floats) -> tuple[Floats, Floats]:
        if epoch <= warmup:
            return each(y, cross_entropy)(epoch, batch, z)
        moved = []
        for index, row in zip(batch, z, strict=True):
            rows[index] = momentum * rows[index] + (1 - momentum) * softmax(row)
            moved.append(rows[index].copy())
        parts = [self_adaptive(z[part], np.stack(moved)[part]) for part in np.split(np.arange(len(batch)), ranks)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    return rule


def snapshot_rule(net: NumpyNet, x: Floats, y: Ints, total: int, cycles: int = 4, temperature: float = 3.0) -> Rule:
    """SD; the teacher is the network as it is when a cycle's first batch comes, before that batch's update."""
    kept: dict[str, NumpyNet] = {}
    last = [0]

    def rule(epoch: int, batch: Ints, z: Floats) -> tuple[Floats, Floats]:
        cycle = 0
        while (cycle + 1) * total <= (epoch - 1) * cycles:
            cycle += 1
        if cycle > last[0]:
            last[0], kept["teacher"] = cycle, net.copy()
        if "teacher" not in kept:
            return each(y, cross_entropy)(epoch, batch, z)
        said = kept["teacher"].forward(x[batch])
        pairs = [
            snapshot_distillation(row, int(y[index]), teacher, temperature)
            for index, row, teacher in zip(batch, z, said, strict=True)
        ]
        return np.array([loss for loss, _ in pairs]), np.stack([gradient for _, gradient in pairs])

    return rule


def run(net: NumpyNet, x: Floats, batches_per_epoch: Batches, lr: float, rule: Rule) -> Trace:
    """Mini-batch SGD on the mean of a rule's losses; the network is trained in place."""
    trace = Trace()
    for epoch, batches in enumerate(batches_per_epoch, start=1):
        for batch in batches:
            logits = net.forward(x[batch])
            losses, gradients = rule(epoch, batch, logits)
            net.backward(gradients / len(batch))
            net.sgd(lr)
            trace.step_losses.append(float(losses.mean()))
            trace.sample_losses.append(losses)
            trace.logits.append(logits)
    trace.weights = net.to_torch_state()
    return trace
