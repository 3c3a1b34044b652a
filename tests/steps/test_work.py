"""What a training step costs with callbacks and mixins, counted and not timed: Python calls and PyTorch operations."""

from __future__ import annotations

import contextlib
import copy
import cProfile
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import lightning_flip
from lightning_flip import mixins
from lightning_flip.callbacks import FlipTracker, LearningPath, PredictionFilter, PredictionHistory, ZigZag
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.models import MLP, Classifier
from lightning_flip.steps import StepSource, attach
from lightning_flip.steps.hooks import STEP_HOOKS
from lightning_flip.stores import write_soft_targets
from tests.steps.helpers import QUIET, UPSTREAM_WARNINGS

pytestmark = [
    *UPSTREAM_WARNINGS,
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:PredictionFilter. no validation ran"),
]

PACKAGE = str(Path(lightning_flip.__file__).parent)
BATCH, BLOCKS = 16, 2
STEPS = (BLOCKS + 1) * 64 + 2


class Work(TorchDispatchMode):
    """Counts calls of this package's functions and operations of everybody, while it is entered."""

    def __init__(self, count_calls: bool) -> None:
        super().__init__()
        self.operations = 0
        self._profile = cProfile.Profile(subcalls=False, builtins=False) if count_calls else None

    def __enter__(self) -> Any:
        if self._profile is not None:
            self._profile.enable()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._profile is not None:
            self._profile.disable()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))

    @property
    def calls(self) -> int:
        """Calls that have returned; 0 where only operations are counted."""
        if self._profile is None:
            return 0
        codes = ((entry.code, entry.callcount) for entry in self._profile.getstats())
        return sum(count for code, count in codes if getattr(code, "co_filename", "").startswith(PACKAGE))


class Steps(pl.Callback):
    """Counts in the second epoch, from batch to batch; loading the next one counts to the step before."""

    def __init__(self, work: Work, entered: contextlib.ExitStack) -> None:
        self.work, self.entered = work, entered
        self.read: list[tuple[int, int]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.entered.enter_context(self.work)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1:
            self.read.append((self.work.calls, self.work.operations))


class Attached(pl.Callback):
    """Does nothing but to be attached."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.attachment = attach(trainer, pl_module, self, StepSource())

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.attachment.release(self)


class Robust(FlippingErrorReduction, Classifier): ...


class WithoutTable(Robust):
    """FER whose rows are not stored: what the table costs is the difference."""

    def observe(self, step: Any) -> None:
        pass


class Cost(NamedTuple):
    """Calls of this package and operations of PyTorch: the mean over two blocks, and the step without a flush."""

    calls: float
    operations: float
    normal_calls: int
    normal_operations: int


def cost_of_a_step(
    callbacks: list[pl.Callback],
    module: type[Classifier] = Classifier,
    blocks: int = BLOCKS,
    count_calls: bool = True,
    **options: Any,
) -> Cost:
    """What the steps of a second epoch cost."""
    torch.manual_seed(0)
    count = (blocks + 1) * 64 + 2  # the first and last ones are left out
    data = TensorDataset(torch.rand(BATCH * count, 4), torch.arange(BATCH * count) % 3)
    with contextlib.ExitStack() as entered:
        steps = Steps(Work(count_calls), entered)
        trainer = pl.Trainer(**QUIET | {"log_every_n_steps": 50}, max_epochs=2, callbacks=[steps, *callbacks])
        trainer.fit(module(network=MLP(4, 3), num_classes=3, **options), DataLoader(data, BATCH, shuffle=True))
    read = steps.read[1 : 2 + blocks * 64]
    each = [(later[0] - now[0], later[1] - now[1]) for now, later in itertools.pairwise(read)]
    assert len(each) == blocks * 64
    calls, operations = zip(*each, strict=True)
    normal = statistics.mode(calls), statistics.mode(operations)
    return Cost(statistics.mean(calls), statistics.mean(operations), *normal)


# Mean calls and operations beyond a plain step, as counted with Python 3.11 when this was written; newer ones count
# fewer calls, since a comprehension is none there. In a step of a real network, which leaves no cache warm, a call of a
# function takes about two microseconds and an operation ten or more. 0.1.0 had, in this order: 23 and 0, 68 and 30,
# 72 and 71, 83 and 75, 69 and 28, 70 and 19, 38 and 1 (for fewer samples), 27 and 0, 142 and 95 (FER had 61 operations
# when losses were differences of two that autograd had taken apart). One operation of each
# step keeps its loss, which is held against the rows of the block.
Case = tuple[Callable[[], list[pl.Callback]], type[Classifier], float, float]
CASES: dict[str, Case] = {
    "attached": (lambda: [Attached()], Classifier, 14, 0),
    "history": (lambda: [PredictionHistory()], Classifier, 37, 3.6),
    "tracker": (lambda: [FlipTracker(train=True)], Classifier, 37, 4.3),
    "history and tracker": (lambda: [PredictionHistory(), FlipTracker(train=True)], Classifier, 37, 4.3),
    "filter": (lambda: [PredictionFilter()], Classifier, 37, 3.9),
    "zig-zag": (lambda: [ZigZag()], Classifier, 37, 3.7),
    "visits": (lambda: [LearningPath(range(0, BATCH * STEPS, 2))], Classifier, 39, 3.6),
    "visits of another epoch": (lambda: [LearningPath([0], every_n_epochs=5)], Classifier, 23, 0),
    "FER": (list, Robust, 136, 23),
    "FER, history and tracker": (lambda: [PredictionHistory(), FlipTracker(train=True)], Robust, 140, 24),
}


@pytest.fixture(scope="module")
def plain() -> Cost:
    return cost_of_a_step([])


@pytest.mark.parametrize("case", CASES)
def test_cost_of_a_step(case: str, plain: Cost) -> None:
    make, module, calls, operations = CASES[case]
    found = cost_of_a_step(make(), module)
    assert calls / 2 < found.calls - plain.calls <= 1.1 * calls
    assert operations / 2 <= found.operations - plain.operations <= 1.1 * operations
    assert found.normal_operations - plain.normal_operations <= operations
    assert found.normal_calls - plain.normal_calls <= 1.1 * calls


# Mean operations beyond a plain step. When losses were differences that autograd had taken apart, these were, in this
# order: 65, 95, 89, 48, 54, 57, 46, 60, 103 and 62. Eight of focal distillation are the old model.
METHODS: dict[str, tuple[type[mixins.LossTerm], dict[str, Any], float]] = {
    "LWR": (mixins.LearningWithRetrospection, {"lwr_interval": 1}, 30),
    "ELR": (mixins.EarlyLearningRegularization, {}, 39),
    "SAT": (mixins.SelfAdaptiveTraining, {"sat_warmup": 0}, 43),
    "label smoothing": (mixins.LabelSmoothing, {}, 17),
    "confidence penalty": (mixins.ConfidencePenalty, {}, 15),
    "TF-Reg": (mixins.TeacherFreeRegularization, {}, 18),
    "Filter-KD": (mixins.SoftTargets, {"targets": "teacher.safetensors"}, 21),
    "KD, t = 4": (mixins.SoftTargets, {"targets": "teacher.safetensors", "kd_temperature": 4.0, "kd_weight": 0.5}, 27),
    "focal KL": (mixins.FocalDistillation, {"reference": MLP(4, 3)}, 50),
    "snapshots": (mixins.SnapshotDistillation, {"sd_cycles": 2}, 29),
}


@pytest.mark.parametrize("method", METHODS)
def test_operations_of_a_method(method: str, plain: Cost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind, options, operations = METHODS[method]
    count = BATCH * 130
    if "targets" in options:
        write_soft_targets(options["targets"], np.full((count, 3), 1 / 3), target=np.arange(count) % 3)
    found = cost_of_a_step([], type("Method", (kind, Classifier), {}), blocks=1, count_calls=False, **options)
    assert operations / 2 <= found.operations - plain.operations <= operations
    assert found.normal_operations - plain.normal_operations <= operations


def test_a_table_costs_the_copies_of_its_rows_and_little_else() -> None:
    """Behaviors are stored once per block, however many operations that takes."""
    with_table, without = (cost_of_a_step([], module, count_calls=False) for module in (Robust, WithoutTable))
    assert 0 < with_table.operations - without.operations <= 1
    assert with_table.normal_operations == without.normal_operations


class Unused(pl.Callback):
    """Says None for a hook that it does not implement."""

    def __init__(self) -> None:
        self.on_train_batch_start = None
        self.ended = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.ended += 1


def test_lightning_passes_over_a_hook_that_cannot_be_called() -> None:
    """What skip_unused_hooks relies on."""
    callback, data = Unused(), TensorDataset(torch.rand(8, 4), torch.arange(8) % 3)
    trainer = pl.Trainer(**QUIET, max_epochs=1, callbacks=[callback])
    trainer.fit(Classifier(network=MLP(4, 3), num_classes=3), DataLoader(data, 4))
    assert callback.ended == 2


def test_hooks_are_called_exactly_where_a_class_implements_them() -> None:
    class Mine(FlipTracker):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            super().on_after_backward(trainer, pl_module)
            self.seen = getattr(self, "seen", 0) + 1

    called: dict[str, set[str]] = {}

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            for callback in trainer.callbacks:
                called[type(callback).__name__] = {name for name in STEP_HOOKS if callable(getattr(callback, name))}

    mine, data = copy.deepcopy(Mine()), TensorDataset(torch.rand(8, 4), torch.arange(8) % 3)
    pl.Trainer(**QUIET, max_epochs=1, callbacks=[mine, FlipTracker(val=True, prefix="plain_"), Note()]).fit(
        Classifier(network=MLP(4, 3), num_classes=3), DataLoader(data, 4)
    )
    assert mine.seen == 2
    assert called["FlipTracker"] == set()
    assert called["Mine"] == {"on_after_backward"}
    assert all(callable(getattr(mine, name)) for name in STEP_HOOKS)  # as before, after the fit
