from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples

Rows = Sequence[Mapping[str, float]]
WritePart = Callable[..., Path]


def columns_of(rows: Rows) -> dict[str, np.ndarray]:
    integers = ("loader", "global_step", "index", "pred")
    floats = ("prob_label", "logit_margin", "cross_entropy")
    table = {name: np.array([row.get(name, 0) for row in rows], np.int64) for name in integers}
    table["best_other"] = np.array([row.get("best_other", -1) for row in rows], np.int64)
    return table | {name: np.array([row.get(name, 0.5) for row in rows], np.float32) for name in floats}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk() -> None:
    """Here everything is written as it is for users."""


@pytest.fixture
def write_rows() -> WritePart:
    """write_rows(folder, rows, split=..., epoch=..., pass_=..., rank=...), rows as dicts in the order of time."""

    def write(folder: Path, rows: Rows, split: str = "train", epoch: int = 0, pass_: int = 0, rank: int = 0) -> Path:
        return write_part(folder, PartKey(split, epoch, pass_, rank), columns_of(rows))

    return write


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with five samples of split train, targets 0 1 2 0 1, and no part yet."""
    folder = tmp_path / "run"
    open_run(folder, run_id=None, info={})
    write_samples(folder, {"split": "train", "index": range(5), "target": [0, 1, 2, 0, 1]})
    return folder
