"""Other tools read the files as they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightning_flip.stores import read_history
from lightning_flip.stores.history.parts import PartKey, set_aside, write_part


@pytest.fixture(params=[np.float16, np.float32])
def folder(run_folder: Path, write_rows: Callable, request: pytest.FixtureRequest) -> Path:
    for epoch in range(3):
        columns = dict.fromkeys(
            ["prob_label", "prob_pred", "logit_margin", "cross_entropy"], np.array([0.5, 0.25, 1], request.param)
        )
        integers = {"index": np.array([2, 0, 1]), "pred": np.array([2, 0, 0]), "global_step": np.full(3, epoch)}
        write_part(run_folder, PartKey("train", epoch, 0, 0), integers | columns)
    set_aside(run_folder, {("train", 0, 0), ("train", 1, 0)})
    return run_folder


def test_duckdb(folder: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(
        f"""select epoch, avg(prob_label), avg((pred = target)::int) from '{folder}/history/*/*.parquet'
        join '{folder}/samples.parquet' using (split, loader, index) group by epoch order by epoch"""
    ).fetchall()
    assert found == [
        (0, pytest.approx(1.75 / 3), pytest.approx(2 / 3)),
        (1, pytest.approx(1.75 / 3), pytest.approx(2 / 3)),
    ]


def test_pandas(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(folder / "history" / "train" / "epoch-0001-pass-0-rank-00000.parquet")
    assert frame["index"].tolist() == [0, 1, 2]
    assert frame["logit_margin"].tolist() == [0.25, 1.0, 0.5]
    frame = read_history(folder).to_pandas("train")
    assert (frame["pred"] == frame["target"]).tolist() == [True, False, True] * 2
    assert frame["prob_label"].dtype == np.float32


def test_polars(folder: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(folder / "history" / "train" / "epoch-0001-pass-0-rank-00000.parquet")
    assert frame["index"].to_list() == [0, 1, 2]
    assert frame["logit_margin"].to_list() == [0.25, 1.0, 0.5]
    frame = read_history(folder).to_polars()
    assert (frame["pred"] == frame["target"]).to_list() == [True, False, True] * 2
    assert frame["prob_label"].dtype == polars.Float32
