"""What a training step costs whoever is attached, counted and not timed: Python calls and operations of PyTorch."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import lightning_flip
from lightning_flip.callbacks import FlipTracker, LearningPath, PredictionHistory, ZigZag
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.models import MLP, Classifier
from lightning_flip.steps import StepSource, attach
from tests.steps.helpers import QUIET, UPSTREAM_WARNINGS

pytestmark = [*UPSTREAM_WARNINGS, pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no")]

PACKAGE = str(Path(lightning_flip.__file__).parent)
BATCH, STEPS = 16, 6


class Work(TorchDispatchMode):
    """Counts calls of this package's functions and operations of everybody, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.operations = 0

    def __enter__(self) -> Any:
        self._before = sys.getprofile()
        sys.setprofile(self._see)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        sys.setprofile(self._before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))

    def _see(self, frame: Any, event: str, arg: Any) -> None:
        self.calls += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)


class Steps(pl.Callback):
    """Reads the counters at the start of every batch; loading the next one counts to the step before."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.read: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.read.append((self.work.calls, self.work.operations))


class Attached(pl.Callback):
    """Does nothing but to be attached."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.attachment = attach(trainer, pl_module, self, StepSource())

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.attachment.release(self)


class Robust(FlippingErrorReduction, Classifier): ...


def work_of_a_step(callbacks: list[pl.Callback], module: type[Classifier] = Classifier) -> tuple[int, int]:
    """Calls and operations of the most laborious step of a second epoch; its first and last ones are left out."""
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(BATCH * STEPS, 4), torch.arange(BATCH * STEPS) % 3)
    with Work() as work:
        steps = Steps(work)
        trainer = pl.Trainer(**QUIET | {"log_every_n_steps": 50}, max_epochs=2, callbacks=[steps, *callbacks])
        trainer.fit(module(network=MLP(4, 3), num_classes=3), DataLoader(data, BATCH, shuffle=True))
    read = steps.read[STEPS:]
    assert len(read) == STEPS
    each = [(later[0] - now[0], later[1] - now[1]) for now, later in itertools.pairwise(read[1:])]
    return max(calls for calls, _ in each), max(operations for _, operations in each)


# Calls and operations beyond a plain step, as counted with Python 3.11 when this was written; newer ones count fewer,
# since a comprehension is no call there. In a step of a real network, which leaves no cache warm, a call of a function
# takes about two microseconds and an operation ten or more.
CASES: dict[str, tuple[Callable[[], list[pl.Callback]], type[Classifier], int, int]] = {
    "attached": (lambda: [Attached()], Classifier, 23, 0),
    "visits": (lambda: [LearningPath(range(0, BATCH * STEPS, 2))], Classifier, 54, 3),
    "visits of another epoch": (lambda: [LearningPath([0], every_n_epochs=5)], Classifier, 27, 0),
    "zig-zag": (lambda: [ZigZag()], Classifier, 80, 19),
    "history and tracker": (lambda: [PredictionHistory(), FlipTracker(train=True)], Classifier, 93, 75),
    "FER": (list, Robust, 148, 95),
}


@pytest.fixture(scope="module")
def plain() -> tuple[int, int]:
    return work_of_a_step([])


@pytest.mark.parametrize("case", CASES)
def test_work_of_a_step(case: str, plain: tuple[int, int]) -> None:
    make, module, calls, operations = CASES[case]
    found = work_of_a_step(make(), module)
    assert calls / 2 < found[0] - plain[0] <= 1.1 * calls, "calls"
    assert 0 <= found[1] - plain[1] <= 1.1 * operations, "operations"
