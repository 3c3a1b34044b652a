"""Flips and forgetting, counted sample by sample in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def labels_of(preds: NDArray) -> list[int]:
    """Labels as they are, or the class of the largest score."""
    rows = []
    for row in preds.tolist():
        if isinstance(row, list):
            best = 0
            for k, score in enumerate(row):
                if score > row[best]:
                    best = k
            rows.append(best)
        else:
            rows.append(row)
    return rows


def flip_rates(old_preds: NDArray, new_preds: NDArray, target: NDArray) -> dict[str, float]:
    """Every rate between two models, by its definition in rates."""
    old, new, label = labels_of(old_preds), labels_of(new_preds), target.tolist()
    n = len(label)
    names = ("nfr", "pfr", "relative", "impact", "trust", "churn")
    if n == 0:
        return dict(zip(names, (0.0, 0.0, 0.0, 0.0, 1.0, 0.0), strict=True))
    lost = gained = kept = old_errors = new_errors = changed = 0
    for a, b, y in zip(old, new, label, strict=True):
        old_errors += a != y
        new_errors += b != y
        changed += a != b
        if a == y and b != y:
            lost += 1
        if a != y and b == y:
            gained += 1
        if a == y and b == y:
            kept += 1
    expected = (1 - old_errors / n) * (new_errors / n)
    values = (
        lost / n,
        gained / n,
        lost / n / expected if expected else 0.0,
        lost / new_errors if new_errors else 0.0,
        kept / (n - old_errors) if n - old_errors else 1.0,
        changed / n,
    )
    return dict(zip(names, values, strict=True))


def wrongly_flipped(correct: NDArray[np.bool_], selected: int) -> list[bool]:
    """Wrong in the selected epoch (a row from 0), right in some row above it."""
    flipped = []
    for n in range(correct.shape[1]):
        right_before = [epoch for epoch in range(selected) if correct[epoch, n]]
        flipped.append(len(right_before) > 0 and not correct[selected, n])
    return flipped


def flipping_errors(correct: NDArray[np.bool_], selected: int) -> tuple[float, float]:
    """FE and RFE of the selected epoch (a row from 0)."""
    flipped = sum(wrongly_flipped(correct, selected))
    samples = correct.shape[1]
    errors = sum(1 for right in correct[selected] if not right)
    return (flipped / samples if samples else 0.0), (flipped / errors if errors else 0.0)


def forgetting_events(correct: NDArray[np.bool_]) -> list[int]:
    """Visits that are wrong and follow a right one."""
    events = []
    for n in range(correct.shape[1]):
        count, before = 0, False
        for epoch in range(correct.shape[0]):
            now = bool(correct[epoch, n])
            if before and not now:
                count += 1
            before = now
        events.append(count)
    return events


class EpochMemory:
    """FE and RFE over a stream of epochs that may visit some samples only, or some of them twice."""

    def __init__(self) -> None:
        self.learned: set[int] = set()

    def epoch(self, index: Sequence[int], correct: Sequence[bool]) -> tuple[float, float]:
        """The errors of one more epoch, which is then remembered."""
        right = {i for i, ok in zip(index, correct, strict=True) if ok}
        wrong = set(index) - right
        flipped = wrong & self.learned
        self.learned |= right
        return (len(flipped) / len(set(index)) if index else 0.0), (len(flipped) / len(wrong) if wrong else 0.0)
