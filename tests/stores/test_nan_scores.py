"""Scores without a largest one are not predictions, in files that are read and in those that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightning_flip.functional import label_recovery
from lightning_flip.reports import join_predictions
from lightning_flip.reports.figures.distances import recovery_curve
from lightning_flip.steps import SampleStep
from lightning_flip.steps.cached_logits import CachedLogits
from lightning_flip.stores import PredictionError, read_logits, read_predictions, write_predictions
from lightning_flip.stores.predictions import columns as stored

NAN, INF = float("nan"), float("inf")
LOGITS = np.array([[0.0, 1.0, 2.0], [3.0, -INF, 0.5], [0.0, 2.0, 1.0], [1.0, 0.0, 5.0]], np.float32)


def columns(**more: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {"index": np.arange(4), "sample_id": list("abcd"), "target": [0, 0, 1, 1]}
    return rows | {"pred": LOGITS.argmax(axis=1), "confidence": np.full(4, 0.5)} | more


def spoiled(row: int, value: float) -> np.ndarray:
    logits = LOGITS.copy()
    logits[row] = np.where(np.arange(3) == 1, value, logits[row]) if value == value else value
    return logits


def other_tools(path: str, **more: Any) -> Path:
    """A file that this package would not write."""
    rows = columns(**more)
    table = {name: pa.array(list(values)) for name, values in rows.items()}
    pq.write_table(pa.table(table), path)
    return Path(path)


@pytest.mark.parametrize("row", [0, 3])
def test_cached_logits_that_are_nan_name_file_row_and_sample(row: int) -> None:
    path = other_tools("old.parquet", logits=spoiled(row, NAN).tolist())
    with pytest.raises(PredictionError, match=rf"old\.parquet, column 'logits' must hold numbers.*row {row}, counted"):
        read_logits(path)
    np.save("old.npy", spoiled(row, NAN))
    with pytest.raises(
        ValueError, match=rf"old\.npy: 1 of 4 rows .* not finite, the first of them row {row}, sample {row}\."
    ):
        CachedLogits.read("old.npy")
    with pytest.raises(ValueError, match=r"row 1, sample 7\."):
        CachedLogits(torch.tensor([9, 7]), torch.tensor([[0.0, 1.0], [INF, 0.0]]), name="memory")


def test_a_row_beyond_the_first_block_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_BLOCK", 2)
    path = other_tools("old.parquet", logits=spoiled(3, NAN).tolist())
    with pytest.raises(PredictionError, match="row 3, counted from 0"):
        read_logits(path)


def test_masked_classes_are_read_and_looked_up() -> None:
    path = write_predictions("old.parquet", columns(logits=LOGITS.astype(np.float16)))
    _, logits, _ = read_logits(path)
    np.testing.assert_array_equal(logits, LOGITS)
    table = CachedLogits.read(path)
    step = SampleStep(torch.tensor([1]), torch.zeros(1, 3), torch.tensor([0]), num_samples=4)
    assert table.rows(step).tolist() == [[3.0, -INF, 0.5]]
    with pytest.raises(ValueError, match="not finite"):  # no class is left
        CachedLogits(torch.tensor([0]), torch.tensor([[-INF, -INF]]), name="memory")


def shared(old: Path) -> Any:
    """Among the classes 0 and 1, which alone the new model knows."""
    rows = columns() | {"pred": np.array([0, 0, 1, 1])}
    new = write_predictions("new.parquet", rows, classes=(0, 1), overwrite=True)
    read = [read_predictions(path, scores=True) for path in (old, new)]
    return join_predictions(*read, shared_classes=True, shared_argmax=True)


def test_answers_among_shared_classes_name_file_and_row() -> None:
    assert shared(other_tools("old.parquet", logits=LOGITS.tolist())).old_pred.tolist() == [1, 0, 1, 0]
    with pytest.raises(PredictionError, match=r"old\.parquet, column 'logits'.* row 3, counted from 0, has NaN"):
        shared(other_tools("old.parquet", logits=spoiled(3, NAN).tolist()))
    only = LOGITS.copy()
    only[3, :2] = -INF
    with pytest.raises(PredictionError, match=r"row 3, counted from 0, has minus infinity for all classes that both"):
        shared(other_tools("old.parquet", logits=only.tolist()))
    top = {
        "top_classes": [[2, 1], [0, 2], [1, 2], [2, 0]],
        "top_probs": [[0.7, 0.3], [0.6, 0.4], [0.6, 0.4], [0.9, 0.1]],
    }
    assert shared(other_tools("old.parquet", **top)).old_pred.tolist() == [1, 0, 1, 0]
    top["top_probs"][3] = [NAN, 0.1]
    with pytest.raises(PredictionError, match=r"old\.parquet, column 'top_probs'.* row 3, counted from 0, has NaN"):
        shared(other_tools("old.parquet", **top))


@pytest.mark.parametrize("name", ["logits", "top_probs"])
def test_nan_is_not_written(name: str) -> None:
    wide = {"logits": spoiled(2, NAN)}
    if name == "top_probs":
        wide = {"top_classes": np.zeros((4, 3), np.int64), "top_probs": spoiled(2, NAN)}
    with pytest.raises(ValueError, match=rf"columns\['{name}'\] must be numbers, but row 2"):
        write_predictions("new.parquet", columns(**wide))
    assert not Path("new.parquet").exists()


def test_shares_that_are_made_of_scores() -> None:
    probs = torch.tensor([[0.9, 0.1], [NAN, 0.1]])
    with pytest.raises(ValueError, match=r"probs must be numbers.*row 1"):
        label_recovery(probs, torch.tensor([0, 0]), torch.tensor([1, 1]))
    path = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [NAN, 0.8]]])
    with pytest.raises(ValueError, match="sample 1 at time 1, counted from 0"):
        recovery_curve(path, [0, 0], [1, 1])
    assert recovery_curve(path[:1], [0, 0], [1, 1]).tolist() == [0.5]
