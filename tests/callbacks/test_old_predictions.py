from __future__ import annotations

from pathlib import Path

import pytest

from lightning_flip.callbacks._old_predictions import OldPredictions


def test_predictions_that_are_derived_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text("sample_id,target,prob_0,prob_1\na,1,.25,.75\n")
    with pytest.warns(
        UserWarning, match=r"old\.csv has no column 'pred'; the prediction is the class with the largest"
    ):
        old = OldPredictions.read(path)
    assert old.predictions.rows["pred"].to_pylist() == [1]
