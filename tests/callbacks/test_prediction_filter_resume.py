"""Killed anywhere and resumed, and on several ranks, the filter writes what one uninterrupted process writes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_flip.callbacks import ExactResume, PredictionFilter
from tests.callbacks.helpers import assert_same, loader, make_trainer, points, run_ranks, silence, some_logits
from tests.callbacks.teachers import FOLDER, LookedUp, Teacher, asked, assert_filtered, read

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # a resumed run's always does
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path."),  # resumed with fewer callbacks
    pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders"),  # its padding is the test
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]
NAMES = ("filtered_last", "filtered_best", "eval_last", "eval_best")
SCORES = [0.125, 0.875, 0.25, 0.875]  # a mean over ranks is exact


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Kill(pl.Callback):
    """Ends the run after a number of updates, as the next batch begins."""

    def __init__(self, after: int, *, hard: bool = False) -> None:
        self.after, self.hard = after, hard

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.after:
            if self.hard:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KilledError


def run(saves: str, *, seed: int = 1, ckpt: str | None = None, kill: Kill | None = None, initial: bool = True):
    """One process of a run of four epochs with four batches each."""
    pl.seed_everything(seed, verbose=False)
    every = {"every_n_train_steps": 1} if saves == "batch" else {"save_on_train_epoch_end": saves == "epoch"}
    save = ModelCheckpoint("saved", filename="{step}", save_top_k=-1, **every)
    keep = PredictionFilter(0.2, dirpath="run", initial_pass=initial, also=("eval_last", "eval_best"))
    callbacks = [keep, ExactResume(), save, *([kill] if kill else [])]
    model = Teacher(SCORES)
    trainer = make_trainer(max_epochs=4, callbacks=callbacks)
    make = StatefulDataLoader if saves == "batch" else DataLoader  # what Lightning resumes exactly where
    train = make(points(14), batch_size=4, shuffle=True)
    trainer.fit(model, train, loader(6, seed=1), ckpt_path=ckpt, weights_only=True)
    return model


def content(folder: Path = FOLDER):
    """All that the files say, but for the run's id."""
    tables = {name: read(name, folder) for name in NAMES}
    return {
        name: {
            "tensors": [torch.from_numpy(array) for array in (table.probs, table.visited, table.target)],
            "manifest": {key: value for key, value in table.manifest.items() if key != "run"},
        }
        for name, table in tables.items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What uninterrupted runs write, by where they save."""
    before, made = Path.cwd(), {}
    for saves in ("batch", "epoch", "val"):
        os.chdir(tmp_path_factory.mktemp("whole"))
        try:
            run(saves)
            made[saves] = content()
        finally:
            os.chdir(before)
    return made


@pytest.mark.parametrize(
    ("saves", "after", "last"),
    [
        ("batch", 2, 2),
        ("batch", 5, 5),
        ("batch", 9, 9),  # after the best epoch
        ("batch", 14, 14),
        ("epoch", 6, 4),
        ("epoch", 15, 12),
        ("val", 10, 8),
    ],
)
def test_resumed_is_uninterrupted(whole, saves, after, last):
    with pytest.raises(KilledError):
        run(saves, kill=Kill(after))
    assert Path(f"saved/step={last}.ckpt").exists()
    model = run(saves, seed=77, ckpt=f"saved/step={last}.ckpt")
    assert_same(content(), whole[saves])
    assert len(model.visits) == 4 * 14
    assert_filtered(read("filtered_best"), model.visits[: model.passes[1]], 0.2, _initial())


def _initial():
    return asked(Teacher(), points(14))


def be_killed() -> None:
    silence()
    run("epoch", kill=Kill(10, hard=True))


def test_a_killed_process_leaves_the_files_of_its_last_epoch(whole):
    process = multiprocessing.get_context("fork").Process(target=be_killed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert read("filtered_last").manifest["epoch"] == 1
    assert read("filtered_best").manifest["epoch"] == 1
    assert read("eval_best").manifest["epoch"] == 1
    run("epoch", seed=5, ckpt="saved/step=8.ckpt")
    assert_same(content(), whole["epoch"])


def test_a_finished_run_that_is_resumed_writes_its_files_again(whole):
    run("epoch")
    for path in FOLDER.iterdir():
        path.unlink()
    run("epoch", ckpt="saved/step=16.ckpt")
    assert_same(content(), whole["epoch"])


def test_a_moved_run_goes_on_where_its_folder_was():
    def fit(ckpt, epochs):
        callbacks = [PredictionFilter(), ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)]
        trainer = make_trainer(max_epochs=epochs, callbacks=callbacks, default_root_dir=f"root-{epochs}")
        trainer.fit(Teacher(SCORES), loader(14), loader(6, seed=1), ckpt_path=ckpt, weights_only=True)

    fit(None, 1)
    fit("saved/epoch=0.ckpt", 2)
    assert read("filtered_last", Path("root-1/prediction_history/version_0/soft_targets")).manifest["epoch"] == 1
    assert not Path("root-2/prediction_history").exists()


def test_another_alpha_on_resumption_is_said():
    run("epoch", initial=False)
    pl.seed_everything(1, verbose=False)
    callbacks = [PredictionFilter(0.7, dirpath="run"), ExactResume(), ModelCheckpoint("saved")]
    trainer = make_trainer(max_epochs=4, callbacks=callbacks)
    with pytest.warns(UserWarning, match=r"made with alpha=0\.2; they continue with 0\.7"):
        trainer.fit(Teacher(SCORES), loader(14), loader(6, seed=1), ckpt_path="saved/step=12.ckpt", weights_only=True)


def test_the_state_holds_tensors_numbers_and_text():
    run("epoch")
    state = torch.load("saved/step=16.ckpt", weights_only=True)
    (mine,) = [value for name, value in state["callbacks"].items() if name.startswith("PredictionFilter")]
    assert not mine["partial"]
    assert mine["tables"]["best"]["epoch"] == 1


# -- ranks ------------------------------------------------------------------------------------------------


def fit_on(world: int, folder: Path, model: Teacher, **options) -> None:
    save = ModelCheckpoint(folder / "saved", filename="{epoch}", save_top_k=-1)
    keep = PredictionFilter(0.2, dirpath=folder / "run", also=("eval_last", "eval_best"), initial_pass=True)
    strategy = "ddp_fork" if world > 1 else "auto"
    trainer = make_trainer(devices=world, strategy=strategy, callbacks=[keep, save], **options)
    trainer.fit(model, loader(11, 2, shuffle=True), loader(7, 2, seed=1))


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory):
    folders = {}
    for world in (1, 2, 3):
        folders[world] = tmp_path_factory.mktemp(f"filter-{world}")
        fit_on(world, folders[world], LookedUp(some_logits(4, 11), SCORES[:3]))
    return folders


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", ["filtered_last", "filtered_best"])
def test_several_ranks_are_one_bit_by_bit(looked_up, world, name):
    """Samples change ranks from epoch to epoch, and the sampler pads: 11 samples, one or more are repeated."""
    one, many = (read(name, looked_up[count] / "run/soft_targets") for count in (1, world))
    assert one.num_visited == 11
    np.testing.assert_array_equal(one.probs, many.probs)
    np.testing.assert_array_equal(one.visited, many.visited)
    np.testing.assert_array_equal(one.target, many.target)
    for key in ("dataset_fingerprint", "epoch", "score", "num_visited"):
        assert one.manifest.get(key) == many.manifest.get(key)


@pytest.fixture(scope="module")
def often_validated(tmp_path_factory):
    folders = {}
    for world in (1, 2):
        folders[world] = tmp_path_factory.mktemp(f"often-{world}")
        scores = [index / 32 for index in range(32)]
        fit_on(world, folders[world], LookedUp(some_logits(4, 11), scores), val_check_interval=1)
    return folders


def test_clean_passes_inside_an_epoch_do_not_confuse_the_padding(often_validated):
    one, many = (read("filtered_last", often_validated[world] / "run/soft_targets") for world in (1, 2))
    np.testing.assert_array_equal(one.probs, many.probs)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_reads_its_share_of_the_clean_passes(looked_up, world):
    logits = some_logits(4, 11)
    folder = looked_up[world] / "run/soft_targets"
    # The epoch whose row the passes looked up: as the best validation ran, and after the last epoch.
    for name, epoch in (("eval_best", 1), ("eval_last", 3)):
        table = read(name, folder)
        assert table.visited.all()
        np.testing.assert_allclose(table.probs, logits[epoch].softmax(dim=1).numpy(), atol=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_checkpoints_of_several_ranks_are_those_of_one(looked_up, world):
    for epoch in range(3):
        states = [torch.load(looked_up[n] / f"saved/epoch={epoch}.ckpt", weights_only=True) for n in (1, world)]
        one, many = (next(iter(state["callbacks"].values())) for state in states)
        assert not many["partial"]
        for table in (one["tables"], many["tables"]):  # updates are counted by batches of each rank
            table["best"].pop("step") if table["best"] else None
        assert_same(one["tables"], many["tables"])


class Fail(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 6 and trainer.global_rank == 1:
            raise InterruptedError("the case under test")


def crash_on_one_rank() -> None:
    save = ModelCheckpoint("saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=20))
    keep = PredictionFilter(0.2, dirpath="run")
    trainer = make_trainer(devices=2, strategy=strategy, callbacks=[keep, Fail(), save])
    trainer.fit(Teacher(SCORES, noise=False), loader(16, 2, shuffle=True), loader(8, 2, seed=1))


def test_an_exception_on_one_rank_ends_both_and_a_resumed_run_goes_on():
    codes = run_ranks(2, crash_on_one_rank, seconds=60)
    assert None not in codes
    assert 0 not in codes
    assert read("filtered_last").manifest["epoch"] == 0
    callbacks = [PredictionFilter(0.2, dirpath="run"), ModelCheckpoint("saved"), Kill(-1)]
    trainer = make_trainer(callbacks=callbacks)
    trainer.fit(
        Teacher(SCORES, noise=False),
        loader(16, 2, shuffle=True),
        loader(8, 2, seed=1),
        ckpt_path="saved/step=6.ckpt",
        weights_only=True,
    )
    assert read("filtered_last").num_visited == 16


def refuse_on_both() -> None:
    keep = PredictionFilter(dirpath="run")
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=20))
    trainer = make_trainer(devices=2, strategy=strategy, callbacks=[keep])
    with pytest.raises(FileExistsError, match="of another run"):
        trainer.fit(Teacher(SCORES, noise=False), loader(16, 2), loader(8, 2, seed=1))


def test_all_ranks_hear_of_a_refusal():
    run("epoch")
    assert run_ranks(2, refuse_on_both, seconds=60) == [0, 0]
