"""What a history of 50,000 samples and 100 epochs takes on disk, and how long it takes to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_flip.stores import read_history
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples

SAMPLES, EPOCHS, CLASSES = 50_000, 100, 100


def _record(folder: Path, dtype: str, epochs: int) -> int:
    """A training that learns: margins drift upwards at a pace of each sample's own, in shuffled order."""
    rng = np.random.default_rng(0)
    target = rng.integers(CLASSES, size=SAMPLES)
    pace, start = rng.gamma(2.0, 0.06, SAMPLES), rng.normal(-3, 1, SAMPLES)
    open_run(folder, run_id=None, info={})
    write_samples(folder, {"split": "train", "index": np.arange(SAMPLES), "target": target})
    for epoch in range(epochs):
        order = rng.permutation(SAMPLES)
        margin = (start + pace * epoch + rng.normal(0, 1, SAMPLES))[order]
        prob = 1 / (1 + np.exp(-margin))
        wrong = margin < 0
        other = (target[order] + rng.integers(1, CLASSES, SAMPLES)) % CLASSES
        columns = {
            "global_step": epoch * 391 + np.arange(SAMPLES) // 128,
            "index": order,
            "pred": np.where(wrong, other, target[order]),
            "prob_label": prob.astype(dtype),
            "logit_margin": margin.astype(dtype),
            "cross_entropy": -np.log(prob).astype(dtype),
            "best_other": other,
        }
        write_part(folder, PartKey("train", epoch, 0, 0), columns)
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


@pytest.mark.benchmark(group="statistics of 50,000 samples and 100 epochs")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_statistics_of_a_long_history(benchmark, dtype, tmp_path):
    epochs = 2 if benchmark.disabled else EPOCHS
    size = _record(tmp_path, dtype, epochs)
    history = read_history(tmp_path)
    table = benchmark.pedantic(history.statistics, args=("train",), rounds=3)
    print(f"\n{dtype}: {SAMPLES} samples x {epochs} epochs = {size / 1e6:.0f} MB")
    assert table.num_rows == SAMPLES
    assert set(table["visits"].to_pylist()) == {epochs}
