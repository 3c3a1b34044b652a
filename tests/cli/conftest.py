from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples


@pytest.fixture
def record() -> Callable[..., Path]:
    return _record


def _record(folder: Path, passes: list[list[int]], targets: list[int], split: str = "val") -> Path:
    open_run(folder, run_id=None, info={})
    write_samples(folder, {"split": split, "index": list(range(len(targets))), "target": targets})
    for epoch, predicted in enumerate(passes):
        sure = np.ones(len(targets), np.float32)
        columns = {"global_step": np.full(len(targets), epoch), "index": np.arange(len(targets))}
        measures = dict.fromkeys(("prob_label", "prob_pred", "logit_margin", "cross_entropy"), sure)
        write_part(folder, PartKey(split, epoch, 0, 0), {**columns, "pred": np.array(predicted), **measures})
    return folder


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    # Of four samples, a ends with 3 right and has lost 1; b ends with 2 right and has lost none.
    a = _record(tmp_path / "a", [[0, 1, 0, 0], [0, 0, 0, 0]], [0, 1, 0, 0])
    b = _record(tmp_path / "b", [[0, 0, 1, 0], [0, 0, 1, 0]], [0, 1, 0, 0])
    return a, b


@pytest.fixture
def hide(monkeypatch) -> Callable[[str], None]:
    """Make a package look as if it were not installed."""

    def _hide(package: str) -> None:
        real = builtins.__import__

        def refuse(name: str, *args, **kwargs):
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refuse)

    return _hide


@pytest.fixture
def predictions(tmp_path) -> Callable[..., str]:
    """Write a file of predictions of one model: every sample right but the named ones."""

    def write(name: str, samples: int = 500, *, wrong: Sequence[int] = (), reverse: bool = False, **more: list) -> str:
        target = [position % 5 for position in range(samples)]
        pred = [(label + 1) % 5 if position in set(wrong) else label for position, label in enumerate(target)]
        columns = {"sample_id": [f"img/{n}.png" for n in range(samples)], "target": target, "pred": pred, **more}
        table = pa.table(columns)
        pq.write_table(table.take(list(range(samples))[::-1]) if reverse else table, tmp_path / name)
        return name

    return write


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `lightning-flip` in a process of its own, which may import neither torch nor lightning."""

    def run(*words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-W", "error", "-c", _WITHOUT_TORCH, *words]
        return subprocess.run(line, stdout=stdout, stderr=subprocess.PIPE, text=True, encoding="utf-8", timeout=60)

    return run


_WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Blocker())
sys.argv[0] = "lightning-flip"
from lightning_flip.cli import main
sys.exit(main())
"""
