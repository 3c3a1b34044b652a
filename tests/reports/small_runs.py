"""Small recorded runs, from logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lightning_flip.stores import History, read_history
from lightning_flip.stores.claims import claim, note_data
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples
from tests.oracles.suspects import visits_of

MEASURES = ("prob_label", "logit_margin", "cross_entropy")
NAMES = ["ant", "bee", "cow"]


def record(
    folder: Path,
    logits: np.ndarray,
    label: np.ndarray,
    ids: list[str | None] | None = None,
    *,
    names: list[str] | None = None,
    classes: int | None = None,
    paths: bool = False,
) -> History:
    """A run whose visits come from logits [E, N, K]."""
    info = {"class_names": names, "num_classes": classes}
    claimed = claim(folder, info={name: value for name, value in info.items() if value is not None})
    samples: dict[str, Any] = {"split": "train", "index": np.arange(len(label)), "target": label}
    write_samples(folder, samples | {"sample_id": ids})
    if paths:
        note_data(claimed, {"train-0": {"ids_are": "paths"}})
    for epoch, rows in enumerate(logits):
        visits = visits_of(rows[None], label)
        columns = {name: np.array([getattr(row, name) for row in visits], np.float32) for name in MEASURES}
        columns |= {"index": np.arange(len(label)), "global_step": np.full(len(label), epoch)}
        columns |= {"pred": rows.argmax(axis=1), "best_other": np.array([row.best_other for row in visits])}
        write_part(folder, PartKey("train", epoch, 0, 0), columns)
    return read_history(folder)


def some_logits(samples: int, classes: int, epochs: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(epochs, samples, classes), scale=2)


def one_wrong_label(folder: Path) -> History:
    """Six images of three classes; the label of sample 4 is wrong."""
    truth, label = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 0, 2, 2])
    logits = np.stack([(epoch + 1) * np.eye(3)[truth] for epoch in range(3)])
    ids: list[str | None] = [f"{NAMES[of]}/{sample}.png" for sample, of in enumerate(label)]
    return record(folder, logits, label, ids, names=NAMES, classes=3, paths=True)
