"""Samples with wrong labels, and tables as diagnostics leave them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_flip.data import NoisyLabels
from tests.callbacks.helpers import CLASSES, points


def noisy_points(count: int, rate: float = 0.4) -> NoisyLabels:
    """Samples of which some have a wrong label, and which know it."""
    return NoisyLabels(points(count), rate=rate, num_classes=CLASSES, seed=1)


def noisy_loader(count: int, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(noisy_points(count), batch_size=batch_size, **options)


def table(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a CSV file, numbers as numbers and empty cells as None."""

    def cell(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text or None

    with Path(path).open(newline="") as stream:
        return [{name: cell(text) for name, text in row.items()} for row in csv.DictReader(stream)]


def accuracies(pred: torch.Tensor, label: torch.Tensor, true: torch.Tensor) -> dict[str, float | None]:
    """What the columns of the noise paper's Table 3 are, one sample at a time."""
    hits: dict[str, list[bool]] = {part: [] for part in PARTS}
    for p, y, t in zip(pred.tolist(), label.tolist(), true.tolist(), strict=True):
        hits["all_true"].append(p == t)
        hits["all_label"].append(p == y)
        if y == t:
            hits["clean_true"].append(p == t)
        else:
            hits["noisy_true"].append(p == t)
            hits["noisy_label"].append(p == y)
    return {part: sum(found) / len(found) if found else None for part, found in hits.items()}


PARTS = ("all_true", "clean_true", "noisy_true", "noisy_label", "all_label")
