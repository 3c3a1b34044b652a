"""Runs in the store, made of logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples
from tests.oracles.suspects import visits_of

MEASURES = ("prob_label", "logit_margin", "cross_entropy")


def record_logits(
    folder: Path, logits: np.ndarray, label: np.ndarray, *, names: list[str] | None = None, split: str = "train"
) -> None:
    """Write a split of a run whose passes gave the logits [E, N, K]."""
    if not (folder / "run.json").exists():
        open_run(folder, run_id=None, info={} if names is None else {"class_names": names})
    count = len(label)
    write_samples(folder, {"split": split, "index": np.arange(count), "target": label})
    for epoch in range(len(logits)):
        rows = visits_of(logits[epoch : epoch + 1], label)
        columns = {name: np.array([getattr(row, name) for row in rows], np.float32) for name in MEASURES}
        columns |= {"index": np.arange(count), "global_step": np.full(count, epoch)}
        columns |= {"pred": logits[epoch].argmax(axis=1)}
        columns["best_other"] = np.array([-1 if row.best_other is None else row.best_other for row in rows])
        write_part(folder, PartKey(split, epoch, 0, 0), columns)
