"""What an exception leaves behind: on one rank, on one of several, and for the run that goes on from there."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from lightning_flip.callbacks import ExactResume, FlipTracker, PredictionHistory
from lightning_flip.stores import read_history
from tests.callbacks.helpers import Robust, Watched, expected_rows, loader, make_trainer, run_ranks, stored_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # a resumed run's always does
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path."),  # resumed with fewer callbacks
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
]


class Fail(pl.Callback):
    """Raises on one rank, or on all, after a number of updates."""

    def __init__(self, step, rank=None):
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            raise InterruptedError("the case under test")

    def on_exception(self, trainer, pl_module, exception):
        torch.save(pl_module.seen, f"seen-{trainer.global_rank}.pt")
        Path(f"error-{trainer.global_rank}.txt").write_text(type(exception).__name__)


def crash(step, rank=None, world=2, extra=(), seconds=60.0, first=(), **options):
    """16 samples, 4 batches an epoch on each of two ranks; checkpoints after every batch."""
    every = ModelCheckpoint("saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    ours = [PredictionHistory("run"), FlipTracker(train=True), ExactResume()]
    callbacks = [*first, *ours, Fail(step, rank), *extra, every]
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=seconds)) if world > 1 else "auto"
    trainer = make_trainer(devices=world, strategy=strategy, callbacks=callbacks, **options)
    trainer.fit(Robust(), loader(16, 2, shuffle=True), loader(8, 2, seed=1))


def resume(checkpoint):
    model = Watched()
    callbacks = [PredictionHistory("run"), FlipTracker(train=True), ExactResume(), ModelCheckpoint("saved")]
    trainer = make_trainer(callbacks=callbacks)
    trainer.fit(model, loader(16, 2, shuffle=True), loader(8, 2, seed=1), ckpt_path=checkpoint, weights_only=True)
    return model, callbacks


def recorder_state(checkpoint):
    states = torch.load(checkpoint, weights_only=True)["callbacks"]
    return next(state for key, state in states.items() if key.startswith("PredictionHistory"))


def test_an_exception_leaves_the_rows_of_the_running_epoch():
    with pytest.raises(InterruptedError):
        crash(11, world=1)
    rows = stored_rows("run")
    assert rows == expected_rows(torch.load("seen-0.pt", weights_only=True))
    assert len([row for row in rows if row[0] == "train" and row[2] == 1]) == 6


def test_a_keyboard_interrupt_leaves_them_too():
    class Interrupt(Fail):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == self.step:
                raise KeyboardInterrupt

    def interrupted():
        trainer = make_trainer(callbacks=[PredictionHistory("run"), Interrupt(11)])
        trainer.fit(Watched(), loader(16, 2, shuffle=True), loader(8, 2, seed=1))

    assert run_ranks(1, interrupted) == [1]
    assert stored_rows("run") == expected_rows(torch.load("seen-0.pt", weights_only=True))


def test_after_an_exception_the_module_and_the_loaders_are_as_before():
    data, model = loader(16, 2), Watched()
    trainer = make_trainer(callbacks=[PredictionHistory("run"), FlipTracker(), Fail(3)])
    with pytest.raises(InterruptedError):
        trainer.fit(model, data, loader(8, 2, seed=1))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert type(data.dataset).__name__ == "TensorDataset"
    assert "process_dataloader" not in vars(trainer.strategy)


@pytest.mark.filterwarnings("ignore:the checkpoint holds the random states of 2 ranks")
def test_two_ranks_go_on_as_one():
    """The checkpoint is of the second batch of the second epoch."""
    assert None not in run_ranks(2, crash, 7)
    assert [Path(f"error-{rank}.txt").read_text() for rank in range(2)] == ["InterruptedError"] * 2
    crashed = read_history("run").to_arrow("train")
    assert crashed.num_rows == 16 + 3 * 2 * 2  # both ranks' rows of the running epoch as well
    checkpoint = "saved/step=6.ckpt"
    state = recorder_state(checkpoint)
    unfinished = state["buffers"]["train"]["integers"]
    assert unfinished.shape == (6, 8)  # two batches of two samples from each of two ranks
    assert sorted(state["finished"]) == [["train", 0, 0], ["val", 0, 0]]

    before = torch.load(checkpoint, weights_only=True)["seen"]
    model, callbacks = resume(checkpoint)
    assert sorted(path.name for path in Path("run").rglob("*.orphan")) == [
        "epoch-0001-pass-0-rank-00000.parquet.orphan",
        "epoch-0001-pass-0-rank-00001.parquet.orphan",
    ]
    rows = stored_rows("run")
    finished = [row for row in rows if row[2] == 0]
    assert sorted(row[5] for row in finished if row[0] == "train") == list(range(16))
    assert sorted(row[5] for row in finished if row[0] == "val") == list(range(8))
    kept = [row for row in rows if row[0] == "train" and row[2] == 1 and row[4] < 6]
    assert sorted((row[4], row[5], row[6]) for row in kept) == sorted(map(tuple, unfinished[1:4].T.tolist()))
    rest = [row for row in rows if row not in kept and row not in finished]
    own = expected_rows(model.seen[len(before) :])
    assert sorted(row[:11] for row in rest) == sorted(row[:11] for row in own)
    visits = callbacks[1].statistics["train", 0].visits
    assert int(visits.sum()) == len([row for row in rows if row[0] == "train"])


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_of_two_ranks_ends_the_run(rank):
    assert None not in run_ranks(2, crash, 6, rank)
    rows = read_history("run").to_arrow("train")
    assert rows.num_rows >= 16
    assert recorder_state("saved/step=6.ckpt")["partial"] == 0


def test_before_any_epoch_ended_only_named_samples_are_written():
    assert None not in run_ranks(2, crash, 2)
    named = set(read_history("run").samples("train")["index"].to_pylist())
    rows = read_history("run").to_arrow("train")
    assert set(rows["index"].to_pylist()) <= named
    assert rows.num_rows == 4


def test_a_refused_folder_ends_both_ranks():
    crash(99, world=1, max_epochs=1)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert None not in run_ranks(2, crash, 99)
    assert [Path(f"error-{rank}.txt").read_text() for rank in range(2)] == ["FileExistsError"] * 2
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


class SaveLocally(OnExceptionCheckpoint):
    """Lightning's own callback without the barrier that ends its save, which other ranks never reach."""

    def on_exception(self, trainer, *args):
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
        if trainer.is_global_zero:
            torch.save(checkpoint, self.ckpt_path)

    def teardown(self, trainer, *args):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_in_an_exception_waits_for_nobody(rank):
    Path("last").mkdir()
    assert None not in run_ranks(2, crash, 6, rank, 2, (SaveLocally("last"),), seconds=30)
    if rank == 0:
        state = recorder_state("last/on_exception.ckpt")
        assert state["partial"]
        assert state["buffers"]["train"]["integers"].shape == (6, 4)  # this rank's own
        with pytest.warns(UserWarning, match="while an exception was in flight: rows of the unfinished epoch"):
            resume("last/on_exception.ckpt")


class SaveBeforeOurs(pl.Callback):
    """Listed first, it makes a checkpoint in an exception while our callbacks are still attached."""

    def on_exception(self, trainer, pl_module, exception):
        torch.save(trainer._checkpoint_connector.dump_checkpoint(False), f"exception-{trainer.global_rank}.ckpt")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_by_a_callback_listed_first_waits_for_nobody_either(rank):
    """The process group would wait for a minute; here every rank must be gone long before."""
    codes = run_ranks(2, crash, 6, rank, 2, (), 60.0, (SaveBeforeOurs(),), seconds=20)
    assert None not in codes
    assert 0 not in codes
    assert Path(f"error-{rank}.txt").read_text() == "InterruptedError"  # and no collective's error in its place
    for each in range(2):
        checkpoint = torch.load(f"exception-{each}.ckpt", weights_only=True)
        state = recorder_state(f"exception-{each}.ckpt")
        assert state["partial"]
        assert state["buffers"]["train"]["integers"].shape == (6, 4)  # this rank's own
        assert len(checkpoint["callbacks"]["ExactResume"]["ranks"]) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_lightnings_checkpoint_on_exception_ends_with_the_process_groups_timeout(rank):
    """Its save ends in a barrier that the other rank never reaches; nothing of ours waits longer than that."""
    Path("last").mkdir()
    extra = (OnExceptionCheckpoint("last"),)
    assert None not in run_ranks(2, crash, 6, rank, 2, extra, 4.0, seconds=40)


@pytest.mark.filterwarnings("ignore:.*fit.ckpt_path=")  # a fork looks like that
def test_forked_ranks_end_at_once_also_with_a_checkpoint_on_exception():
    """Here Lightning's hooks for exceptions run in the parent, where the callbacks saw nothing."""
    Path("last").mkdir()
    callbacks = [PredictionHistory("run"), FlipTracker(), ExactResume(), Fail(6, 0), OnExceptionCheckpoint("last")]
    trainer = make_trainer(devices=2, strategy="ddp_fork", callbacks=callbacks, enable_checkpointing=True)
    begun = time.monotonic()
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"the case under test|onnection"):
        trainer.fit(Robust(), loader(16, 2, shuffle=True), loader(8, 2, seed=1))
    assert time.monotonic() - begun < 60
    assert read_history("run").to_arrow("train").num_rows == 16


def fit_while_handling():
    try:
        raise MemoryError("an earlier attempt")
    except MemoryError:
        crash(99, max_epochs=1)


def test_a_fit_started_in_an_except_block_still_talks():
    """A script that tries again with a smaller batch; its exception is not the fit's."""
    assert run_ranks(2, fit_while_handling) == [0, 0]
    state = recorder_state("saved/step=2.ckpt")
    assert not state["partial"]
    assert state["buffers"]["train"]["integers"].shape == (6, 8)
    checkpoint = torch.load("saved/step=2.ckpt", weights_only=True)
    assert len(checkpoint["callbacks"]["ExactResume"]["ranks"]) == 2
    assert not checkpoint["lightning_flip"]["partial"]


def test_sigterm_flushes_what_was_seen():
    assert None not in run_ranks(1, run_until_sigterm)
    seen = torch.load("seen.pt", weights_only=True)
    assert 0 < len(seen) < 3 * (17 + 6)
    assert stored_rows("run") == expected_rows(seen)


class Terminate(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_exception(self, trainer, pl_module, exception):
        torch.save(pl_module.seen, "seen.pt")


def run_until_sigterm() -> None:
    trainer = make_trainer(callbacks=[PredictionHistory("run"), Terminate()])
    trainer.fit(Watched(), loader(17, shuffle=True), loader(6, seed=1))
