"""Killed at any batch and resumed: no row is lost or doubled, and where Lightning allows it every bit is the same."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_flip.callbacks import ExactResume, FlipTracker, PredictionHistory
from lightning_flip.callbacks.exact_resume import random_states
from lightning_flip.stores import read_history
from lightning_flip.stores.history.parts import list_parts
from tests.callbacks.helpers import (
    Robust,
    Watched,
    assert_same,
    expected_rows,
    loader,
    make_trainer,
    points,
    silence,
    stored_rows,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # a resumed run's always does
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),  # has its own test
]
not_resumable = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
COUNT, BATCH, EPOCHS, BATCHES = 17, 4, 3, 5


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Kill(pl.Callback):
    """Ends the run right after a number of batches: as the next batch or as the validation begins."""

    def __init__(self, after: int, where: str) -> None:
        self.after, self.where = after, where

    def _maybe(self, trainer: pl.Trainer, where: str) -> None:
        if where == self.where and trainer.global_step == self.after and not trainer.sanity_checking:
            raise KilledError

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._maybe(trainer, "train")

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._maybe(trainer, "val")


class SigKill(Kill):
    def _maybe(self, trainer: pl.Trainer, where: str) -> None:
        if where == self.where and trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass
class Outcome:
    """All that a run leaves behind."""

    state: dict[str, Any]
    rows: list[tuple[Any, ...]]
    seen: list[list[Any]]


def make_loaders(kind: str, workers: int) -> tuple[Any, Any]:
    make = StatefulDataLoader if kind == "stateful" else DataLoader
    train = make(points(COUNT), batch_size=BATCH, shuffle=True, num_workers=workers)
    return train, loader(6, seed=1)


def saver(kind: str) -> ModelCheckpoint:
    """Checkpoints after every batch, at an epoch's end, or at a validation's end."""
    if kind == "batch":
        return ModelCheckpoint("saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    at_end = kind == "epoch"
    return ModelCheckpoint("saved", filename=f"{kind}-{{step}}", save_top_k=-1, save_on_train_epoch_end=at_end)


def run(kind: str, workers: int, *, saves: str, seed: int, ckpt: str | None = None, kill: Kill | None = None):
    """One process of a run; with `kill` it does not come back with an outcome."""
    pl.seed_everything(seed, verbose=False)
    model = Robust(noise=True)
    tracker = FlipTracker(train=True)
    callbacks = [PredictionHistory("run"), tracker, ExactResume(), saver(saves), *([kill] if kill else [])]
    trainer = make_trainer(max_epochs=EPOCHS, callbacks=callbacks)
    train, val = make_loaders(kind, workers)
    trainer.fit(model, train, val, ckpt_path=ckpt, weights_only=True)
    state = {
        "weights": dict(model.state_dict()),
        "optimizer": trainer.optimizers[0].state_dict()["state"],
        "table": {name: table.state_dict() for name, table in model._term_loop.tables.items()},
        "statistics": {"-".join(map(str, key)): stats.state_dict() for key, stats in tracker.statistics.items()},
        "visits": tracker.statistics["train", 0].visits.tolist(),
        "draws": random_states(),
    }
    return Outcome(state, stored_rows("run"), model.seen)


def killed_and_resumed(kind: str, workers: int, after: int, where: str, saves: str = "batch") -> Outcome:
    with pytest.raises(KilledError):
        run(kind, workers, saves=saves, seed=1, kill=Kill(after, where))
    last = max(Path("saved").iterdir(), key=lambda path: int(path.stem.rpartition("=")[2]))
    assert int(last.stem.rpartition("=")[2]) == after
    stored_rows("run")  # what the killed run left can be read
    return run(kind, workers, saves=saves, seed=77, ckpt=str(last))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The uninterrupted runs, each made once."""
    made: dict[tuple[str, int], Outcome] = {}

    def get(kind: str, workers: int) -> Outcome:
        if (kind, workers) not in made:
            before = Path.cwd()
            os.chdir(tmp_path_factory.mktemp("reference"))
            try:
                made[kind, workers] = run(kind, workers, saves="batch", seed=1)
            finally:
                os.chdir(before)
        return made[kind, workers]

    return get


def assert_recorded(outcome: Outcome) -> None:
    """Each row as the module itself saw it, none lost, none doubled."""
    assert outcome.rows == expected_rows(outcome.seen)


def assert_identical(outcome: Outcome, whole: Outcome) -> None:
    """Every bit of the uninterrupted run."""
    assert_recorded(outcome)
    assert outcome.rows == whole.rows
    assert_same(outcome.state, whole.state)


def assert_every_sample_once(outcome: Outcome, epochs=range(EPOCHS)) -> None:
    for epoch in epochs:
        indices = [row[5] for row in outcome.rows if row[0] == "train" and row[2] == epoch]
        assert sorted(indices) == list(range(COUNT))


def test_the_uninterrupted_run_records_what_it_saw(reference):
    whole = reference("plain", 0)
    assert_recorded(whole)
    assert len(whole.rows) == EPOCHS * (COUNT + 6)
    assert whole.state["table"]["behavior"]["seen"].any()
    assert whole.state["visits"] == [EPOCHS] * COUNT


@pytest.mark.parametrize("saves", ["epoch", "validation"])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_at_the_end_of_an_epoch_every_bit_is_the_same(reference, workers, epoch, saves):
    outcome = killed_and_resumed("plain", workers, epoch * BATCHES, "train", saves)
    assert_identical(outcome, reference("plain", workers))


@pytest.mark.parametrize("saves", ["epoch", "validation"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stateful_loader_loses_no_row_at_the_end_of_an_epoch(epoch, saves):
    """It shuffles the next epoch in another way than it would have."""
    outcome = killed_and_resumed("stateful", 0, epoch * BATCHES, "train", saves)
    assert_recorded(outcome)
    assert_every_sample_once(outcome)


@pytest.mark.parametrize("after", [k for k in range(1, EPOCHS * BATCHES) if k % BATCHES])
def test_a_stateful_loader_goes_on_inside_an_epoch_bit_by_bit(reference, after):
    assert_identical(killed_and_resumed("stateful", 0, after, "train"), reference("stateful", 0))


@not_resumable
@pytest.mark.parametrize("after", range(1, EPOCHS * BATCHES))
def test_a_plain_loader_loses_and_doubles_no_row(after):
    outcome = killed_and_resumed("plain", 0, after, "train")
    assert_recorded(outcome)
    moments = [(row[2], row[4]) for row in outcome.rows if row[0] == "train"]
    assert sorted(set(moments)) == [(step // BATCHES, step) for step in range(EPOCHS * BATCHES)]


@pytest.mark.parametrize(("epoch", "where"), [(1, "train"), (1, "val"), (2, "train"), (2, "val"), (3, "val")])
@pytest.mark.parametrize("kind", ["plain", "stateful"])
def test_after_the_last_batch_of_an_epoch_its_rows_are_written_once(kind, epoch, where):
    """Lightning never runs that epoch's validation and end hooks."""
    outcome = killed_and_resumed(kind, 0, epoch * BATCHES, where)
    assert_recorded(outcome)
    # The exhausted state of a stateful loader makes the next epoch an empty one.
    epochs = [number for number in range(EPOCHS) if kind == "plain" or number != epoch]
    assert_every_sample_once(outcome, epochs)
    assert outcome.state["visits"] == [len(epochs)] * COUNT


def test_samples_of_an_epoch_that_ended_unseen_are_still_named():
    """Only some samples come up in an epoch; those of the ended one may not come up again."""

    class Thirds(torch.utils.data.Sampler):
        def __init__(self) -> None:
            self.epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self):
            return iter(range(4 * self.epoch, 4 * self.epoch + 4))

        def __len__(self) -> int:
            return 4

    def fit(kill=None, ckpt=None):
        model = Watched()
        train = DataLoader(points(12), batch_size=2, sampler=Thirds())
        callbacks = [PredictionHistory("run"), saver("batch"), *([kill] if kill else [])]
        make_trainer(callbacks=callbacks).fit(model, train, loader(6, seed=1), ckpt_path=ckpt, weights_only=True)
        return model

    with pytest.raises(KilledError):
        fit(kill=Kill(2, "val"))
    model = fit(ckpt="saved/step=2.ckpt")
    assert stored_rows("run") == expected_rows(model.seen)
    assert read_history("run").samples("train")["index"].to_pylist() == list(range(12))


@not_resumable
@pytest.mark.parametrize("after", [3, 8])
def test_killed_within_a_validation(after):
    """Two validations an epoch; killed in one of them, resumed from the batch before it."""

    def fit(kill=None, ckpt=None):
        model = Watched()
        callbacks = [PredictionHistory("run"), FlipTracker(), saver("batch"), *([kill] if kill else [])]
        trainer = make_trainer(callbacks=callbacks, val_check_interval=3, max_epochs=2)
        trainer.fit(model, loader(20, seed=3), loader(6, 2, seed=1), ckpt_path=ckpt, weights_only=True)
        return model

    with pytest.raises(KilledError):
        fit(kill=Kill(after, "val"))
    model = fit(ckpt=f"saved/step={after}.ckpt")
    assert stored_rows("run", "train") == expected_rows(model.seen, "train")
    assert measured(stored_rows("run", "val")) == measured(expected_rows(model.seen, "val"))


def measured(rows):
    """Without the number of the pass, which this module counts only within one process."""
    return sorted((*row[:3], *row[4:]) for row in rows)


def test_sigkill_leaves_whole_parts_and_can_be_resumed(reference):
    for after, where in ((7, "train"), (10, "val"), (12, "train")):
        folder = Path(f"after-{after}")
        folder.mkdir()
        process = multiprocessing.get_context("fork").Process(target=run_until_sigkill, args=(folder, after, where))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        os.chdir(folder)
        stored_rows("run")
        outcome = run("stateful", 0, saves="batch", seed=77, ckpt=f"saved/step={after}.ckpt")
        os.chdir("..")
        if after % BATCHES:
            assert_identical(outcome, reference("stateful", 0))
        else:
            assert_recorded(outcome)


def run_until_sigkill(folder: Path, after: int, where: str) -> None:
    silence()
    os.chdir(folder)
    run("stateful", 0, saves="batch", seed=1, kill=SigKill(after, where))


def test_newer_parts_are_set_aside_with_a_warning():
    with pytest.raises(KilledError):
        run("plain", 0, saves="epoch", seed=1, kill=Kill(11, "train"))
    crashed = list_parts("run")
    with pytest.warns(UserWarning, match="3 parts newer than the checkpoint were set aside"):
        outcome = run("plain", 0, saves="epoch", seed=77, ckpt="saved/epoch-step=5.ckpt")
    assert_recorded(outcome)
    assert len(crashed) == 5
    orphans = sorted(path.name for path in Path("run").rglob("*.orphan"))
    assert orphans == [
        "epoch-0001-pass-0-rank-00000.parquet.orphan",
        "epoch-0001-pass-0-rank-00000.parquet.orphan",
        "epoch-0002-pass-0-rank-00000.parquet.orphan",
    ]


def test_a_checkpoint_of_another_run_is_refused():
    run("plain", 0, saves="epoch", seed=1)
    Path("run").rename("elsewhere")
    Path("saved").rename("old")
    run("plain", 0, saves="epoch", seed=2)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        run("plain", 0, saves="epoch", seed=1, ckpt="old/epoch-step=5.ckpt")
