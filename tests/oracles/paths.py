"""Learning paths and supervisions, number by number in plain Python."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def filtered(path: NDArray, alpha: float) -> NDArray:
    """q_0 = p_0; q_t = (1 - a) q_{t-1} + a p_t, entry by entry."""
    result = np.zeros(path.shape, dtype=np.float64)
    for place in np.ndindex(path.shape[1:]):
        q = None
        for t in range(path.shape[0]):
            p = float(path[(t, *place)])
            q = p if q is None else (1 - alpha) * q + alpha * p
            result[(t, *place)] = q
    return result


def zigzag(path: NDArray, target: NDArray) -> list[float]:
    """The largest sum over time of any class but the label."""
    scores = []
    for n in range(path.shape[1]):
        others = [k for k in range(path.shape[2]) if k != target[n]]
        scores.append(max(sum(float(path[t, n, k]) for t in range(path.shape[0])) for k in others))
    return scores


def difficulty(true_probs: NDArray, target: NDArray) -> list[float]:
    """||e_y - p*||_2."""
    distances = []
    for row, y in zip(true_probs.tolist(), target.tolist(), strict=True):
        distances.append(math.sqrt(sum(((1.0 if k == y else 0.0) - p) ** 2 for k, p in enumerate(row))))
    return distances


def corner_sum(probs: NDArray) -> list[float]:
    """The corners of the triangle, weighted."""
    corners = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2))
    return [sum(float(p) * corner[axis] for p, corner in zip(probs, corners, strict=True)) for axis in (0, 1)]


def axes_of(path: NDArray, target: NDArray) -> tuple[NDArray, list[int]]:
    """Label, the other class with the largest sum over time, and the rest."""
    steps, samples, classes = path.shape
    result, others = np.zeros((steps, samples, 3)), []
    for n in range(samples):
        best, best_sum = -1, -math.inf
        for k in range(classes):
            total = float(path[:, n, k].sum())
            if k != target[n] and total > best_sum:
                best, best_sum = k, total
        others.append(best)
        for t in range(steps):
            label, other = float(path[t, n, target[n]]), float(path[t, n, best])
            rest = sum(float(path[t, n, k]) for k in range(classes) if k not in (target[n], best))
            result[t, n] = (label, other, rest)
    return result, others


def divergence(p: NDArray, q: NDArray) -> float:
    """KL(p || q) = sum p (log p - log q), where 0 log 0 = 0."""
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        if a > 0 and b == 0:
            return math.inf
        if a > 0:
            total += a * (math.log(a) - math.log(b))
    return total


def distances(p_tar: NDArray, p_star: NDArray) -> dict[str, list[float]]:
    """Every kind of distance, row by row."""
    rows = list(zip(p_tar, p_star, strict=True))
    kl = [divergence(a, b) for a, b in rows]
    reverse = [divergence(b, a) for a, b in rows]
    l1 = [sum(abs(x - y) for x, y in zip(a.tolist(), b.tolist(), strict=True)) for a, b in rows]
    return {
        "l2": [math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))) for a, b in rows],
        "l1": l1,
        "tv": [value / 2 for value in l1],
        "kl": kl,
        "reverse_kl": reverse,
        "jeffreys": [a + b for a, b in zip(kl, reverse, strict=True)],
    }


def bounds(p_tar: NDArray, p_star: NDArray, largest: float) -> dict[str, float]:
    """The seven values of Proposition 2."""
    found = distances(p_tar, p_star)
    n, k = p_tar.shape

    def mean(values: list[float]) -> float:
        return sum(values) / n

    return {
        "l2": largest * largest * k * mean(found["l2"]) ** 2,
        "l1": largest * largest * mean(found["l1"]) ** 2,
        "root_kl": 2 * largest * largest * mean([math.sqrt(max(value, 0)) for value in found["kl"]]) ** 2,
        "kl": 2 * largest * largest * mean(found["kl"]),
        "root_reverse_kl": 2 * largest * largest * mean([math.sqrt(max(v, 0)) for v in found["reverse_kl"]]) ** 2,
        "reverse_kl": 2 * largest * largest * mean(found["reverse_kl"]),
        "jeffreys": largest * largest * (mean(found["kl"]) + mean(found["reverse_kl"])),
    }


def recovery(probs: NDArray, truth: NDArray, given: NDArray) -> float:
    """Of the samples with a wrong label, those whose largest probability is at the true one."""
    wrong = recovered = 0
    for row, right, label in zip(probs.tolist(), truth.tolist(), given.tolist(), strict=True):
        if right != label:
            wrong += 1
            recovered += row.index(max(row)) == right
    return recovered / wrong
