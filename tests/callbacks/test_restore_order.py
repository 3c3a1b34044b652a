"""Strategies that load callback states after ``on_fit_start`` (FSDP, FSDP2, DeepSpeed): a resumed run goes on."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from lightning_flip.callbacks import (
    Diagnostic,
    ExactResume,
    Finding,
    FlipTracker,
    LearningPath,
    NegativeFlipMonitor,
    PredictionFilter,
    PredictionHistory,
    TransitionEstimator,
    ZigZag,
)
from lightning_flip.models import MLP
from lightning_flip.stores import read_paths, read_soft_targets, read_zigzag
from tests.callbacks.helpers import (
    Robust,
    assert_same,
    expected_rows,
    loader,
    make_trainer,
    run_ranks,
    stored_rows,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # a resumed run's always does
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),  # ModelCheckpoint's, where it is meant to
    pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders"),
]
EPOCHS, COUNT, HELD_OUT, CHOSEN = 3, 12, 6, [0, 3, 7]
FILES = ("filtered_last", "filtered_best")


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Kill(pl.Callback):
    """Ends the run inside an epoch, so that there are parts newer than the last checkpoint."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            raise KilledError


class Late(SingleDeviceStrategy):
    """One process in the order of FSDP and DeepSpeed: callback states are loaded after ``on_fit_start``."""

    restore_checkpoint_after_setup = property(lambda self: True)


class Rated(Robust):
    """Logs what a PredictionFilter chooses its best pass by."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        logits = self(x)
        if not self.trainer.sanity_checking:
            self.note("val", dataloader_idx, self.val_passes[self.trainer.current_epoch], x, y, logits)
        self.log("val_acc", (logits.argmax(dim=1) == y).float().mean(), sync_dist=True, batch_size=len(y))


class Largest(Diagnostic):
    title = "largest"

    def columns(self, step):
        return {"largest": step.logits.amax(dim=1)}

    def describe(self, trainer, split, rows):
        return Finding({"largest": [float(rows["largest"].max())]}, None)


class Sharded(Rated):
    """Parameters lie on both ranks, half of each."""

    def configure_model(self):
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def recorders(folder: Path | str) -> list[pl.Callback]:
    followers = [PredictionHistory(folder), FlipTracker(train=True), ZigZag(folder), ExactResume()]
    return [*followers, PredictionFilter(0.3, dirpath=folder), LearningPath(CHOSEN, dirpath=folder)]


def strategy_of(kind: str) -> pl.strategies.Strategy:
    return (Late if kind == "late" else SingleDeviceStrategy)(device=torch.device("cpu"))


def saver(folder: Path | str) -> ModelCheckpoint:
    return ModelCheckpoint(Path(folder, "saved"), filename="{epoch}", save_top_k=-1)


def paths_of(folder):
    paths = read_paths(Path(folder, "paths"))
    return paths.index.tolist(), paths.epochs.tolist(), paths.path.tolist(), paths.recorded.tolist()


def records(folder) -> dict[str, Any]:
    """Everything that a run left under its folder, but for its id."""
    scores = read_zigzag(folder)
    targets = {name: read_soft_targets(Path(folder, "soft_targets", f"{name}.safetensors")) for name in FILES}
    return {
        "rows": stored_rows(folder),
        "zigzag": {name: scores[name].to_pylist() for name in ("index", "target", "other", "visits", "zigzag")},
        "soft": {name: torch.from_numpy(np.asarray(soft.probs)) for name, soft in targets.items()},
        "paths": paths_of(folder),
    }


def load(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's file, or of a distributed checkpoint the file that is not sharded."""
    return torch.load(checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint, weights_only=True)


def followed(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of the run so far: the loss's table, and counts of the tracker."""
    saved = load(checkpoint)
    tracker = next(state for key, state in saved["callbacks"].items() if key.startswith("FlipTracker"))
    return {"table": saved["lightning_flip"]["tables"], "counts": tracker["splits"]}


def assert_every_sample_once(rows) -> None:
    for split, count in (("train", COUNT), ("val", HELD_OUT)):
        found = sorted((row[2], row[5]) for row in rows if row[0] == split)
        assert found == [(epoch, index) for epoch in range(EPOCHS) for index in range(count)]


def assert_whole(folder) -> None:
    """Every sample of every epoch once, in each of the records."""
    left = records(folder)
    assert_every_sample_once(left["rows"])
    assert left["zigzag"]["visits"] == [EPOCHS] * COUNT
    assert left["paths"][0] == CHOSEN
    assert np.asarray(left["paths"][3]).sum() == EPOCHS * len(CHOSEN)
    last = followed(Path(folder, "saved", f"epoch={EPOCHS - 1}.ckpt"))
    for name in ("train-0", "val-0"):
        assert last["counts"][name]["statistics"]["counts"][:, 0].unique().tolist() == [EPOCHS]
        assert last["counts"][name]["passes"] == EPOCHS
    assert last["table"]["behavior"]["seen"].any()


# -- two ranks that share the parameters ------------------------------------------------------------------------------


def fit_sharded(folder, *, distributed, ckpt=None, kill=None):
    strategy = ModelParallelStrategy(
        data_parallel_size=2,
        tensor_parallel_size=1,
        save_distributed_checkpoint=distributed,
        process_group_backend="gloo",
    )
    callbacks = [*recorders(folder), saver(folder), *([Kill(kill)] if kill is not None else [])]
    trainer = make_trainer(strategy=strategy, devices=2, callbacks=callbacks, max_epochs=EPOCHS)
    pl.seed_everything(3, verbose=False)
    try:
        with contextlib.suppress(KilledError):
            trainer.fit(Sharded(), loader(COUNT, 2), loader(HELD_OUT, 2, seed=1), ckpt_path=ckpt)
    except Exception:
        Path(folder, f"error-{trainer.global_rank}.txt").write_text(traceback.format_exc())
        raise


def fit_sharded_by_name(folder, distributed, ckpt, kill):
    torch.set_num_threads(
        1
    )  # renews the thread pool of the parent before several threads of autograd ask for it at once
    fit_sharded(folder, distributed=distributed, ckpt=ckpt, kill=kill)


def errors(folder) -> list[str]:
    return [path.read_text() for path in sorted(Path(folder).glob("error-*.txt"))]


@pytest.fixture(scope="module")
def whole_sharded(tmp_path_factory):
    """The run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_ranks(2, fit_sharded_by_name, folder, True, None, None) == [0, 0]
    return folder


def test_a_sharded_run_is_recorded_whole(whole_sharded):
    assert_whole(whole_sharded)


@pytest.mark.parametrize("distributed", [True, False], ids=["folder", "one file"])
def test_a_resumed_sharded_run_goes_on_in_its_folders(whole_sharded, distributed):
    Path("run").mkdir()
    assert run_ranks(2, fit_sharded_by_name, "run", distributed, None, 2) == [0, 0]
    checkpoint = Path("run/saved/epoch=1.ckpt")
    assert checkpoint.is_dir() == distributed
    codes = run_ranks(2, fit_sharded_by_name, "run", distributed, str(checkpoint), None)
    assert errors("run") == []
    assert codes == [0, 0]
    assert_whole("run")
    assert_same(
        records("run"), records(whole_sharded)
    )  # the table of the checkpoint was in use, or losses would differ
    assert_same(followed(Path("run/saved/epoch=2.ckpt")), followed(Path(whole_sharded, "saved/epoch=2.ckpt")))
    assert len(list(Path("run").rglob("*.orphan"))) == 2 + 1  # both ranks' rows, and chosen samples of one of them


# -- one process ------------------------------------------------------------------------------------------------------


def fit(
    kind,
    *,
    ckpt=None,
    kill=None,
    sanity=0,
    callbacks=None,
    shuffle=False,
    seed=3,
    folder="run",
    epochs=EPOCHS,
    **options,
):
    callbacks = recorders(folder) if callbacks is None else callbacks
    callbacks = [*callbacks, saver(folder), *([Kill(kill)] if kill is not None else [])]
    options = {"strategy": strategy_of(kind), "num_sanity_val_steps": sanity, "max_epochs": epochs, **options}
    trainer, model = make_trainer(callbacks=callbacks, **options), Rated()
    pl.seed_everything(seed, verbose=False)
    ended = contextlib.nullcontext() if kill is None else pytest.raises(KilledError)
    with ended:
        trainer.fit(model, loader(COUNT, shuffle=shuffle), loader(HELD_OUT, seed=1), ckpt_path=ckpt)
    return model


def in_folder(name, function):
    before = Path.cwd()
    Path(name).mkdir()
    os.chdir(name)
    try:
        return function()
    finally:
        os.chdir(before)


class Order(pl.Callback):
    """Writes down when its state comes."""

    def __init__(self) -> None:
        self.heard = []

    def state_dict(self):
        return {"here": True}

    def load_state_dict(self, state_dict):
        self.heard.append("load_state_dict")

    def setup(self, trainer, pl_module, stage):
        self.heard.append("setup")

    def on_fit_start(self, trainer, pl_module):
        self.heard.append("on_fit_start")

    def on_sanity_check_start(self, trainer, pl_module):
        self.heard.append("on_sanity_check_start")

    def on_train_start(self, trainer, pl_module):
        self.heard.append("on_train_start")


@pytest.mark.filterwarnings("ignore:this run began with a schedule of M = 1 epochs")
@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(
    ("kind", "restored"),
    [("usual", ["setup", "load_state_dict", "on_fit_start"]), ("late", ["setup", "on_fit_start", "load_state_dict"])],
)
def test_lightnings_own_order(kind, restored, sanity):
    """The other tests here rest on this: which hook is the first that knows the checkpoint."""
    begins = ["on_sanity_check_start", "on_train_start"][not sanity :]
    order = Order()
    fit(kind, callbacks=[order], sanity=sanity, epochs=1)
    assert order.heard == ["setup", "on_fit_start", *begins]
    order = Order()
    fit(kind, callbacks=[order], ckpt="run/saved/epoch=0.ckpt", sanity=sanity)
    assert order.heard == [*restored, *begins]


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("kill", [1, 2])
def test_late_states_make_no_difference(kill, sanity):
    """The uninterrupted run, the one resumed as usual, and the one whose states come late: every bit the same."""
    in_folder("whole", lambda: fit("usual", sanity=sanity))
    for kind in ("usual", "late"):

        def both(kind=kind):
            fit(kind, kill=kill, sanity=sanity)
            model = fit(kind, ckpt=f"run/saved/epoch={kill - 1}.ckpt", sanity=sanity)
            assert stored_rows("run") == expected_rows(model.seen)

        in_folder(kind, both)
        assert_whole(Path(kind, "run"))
        assert_same(records(Path(kind, "run")), records("whole/run"))
        last = "run/saved/epoch=2.ckpt"
        assert_same(followed(Path(kind, last)), followed(Path("whole", last)))
        assert_same(load(Path(kind, last))["state_dict"], load(Path("whole", last))["state_dict"])


def test_random_states_that_come_late_are_restored_in_time():
    """The next epoch's order is drawn before training starts."""
    in_folder("whole", lambda: fit("usual", shuffle=True))

    def both():
        fit("late", shuffle=True, kill=2)
        fit("late", shuffle=True, seed=77, ckpt="run/saved/epoch=1.ckpt")

    in_folder("late", both)
    assert_same(records("late/run"), records("whole/run"))


def test_a_folder_of_the_checkpoint_is_found_where_none_is_given():
    """Loggers begin a new version with each fit; the records stay together."""

    def callbacks():
        return [PredictionHistory(), ZigZag(), PredictionFilter(0.3), LearningPath(CHOSEN)]

    fit("late", kill=2, callbacks=callbacks(), logger=CSVLogger("logs", name="", version=0))
    assert Path("logs/version_0/run.json").exists()
    ckpt = "run/saved/epoch=1.ckpt"
    fit("late", ckpt=ckpt, callbacks=callbacks(), logger=CSVLogger("logs", name="", version=1))
    assert_every_sample_once(stored_rows("logs/version_0"))
    assert read_zigzag("logs/version_0")["visits"].to_pylist() == [EPOCHS] * COUNT
    assert paths_of("logs/version_0")[1] == list(range(EPOCHS))
    soft = read_soft_targets("logs/version_0/soft_targets/filtered_last.safetensors")
    assert soft.manifest["epoch"] == EPOCHS - 1
    ours = {path.name for path in Path("logs/version_1").rglob("*") if path.is_file()}
    assert ours <= {"metrics.csv", "hparams.yaml"}


@pytest.mark.parametrize("kind", ["usual", "late"])
def test_an_estimate_and_a_diagnostic_go_on(kind):
    """An estimate of the first epoch is in the checkpoint and in its file; a second one would be refused."""

    def callbacks():
        largest = Largest(train=True, every_n_epochs=1, figures=False, dirpath="run")
        return [TransitionEstimator("run/transition.npz"), largest, NegativeFlipMonitor(MLP(5, 3), train=True)]

    fit(kind, kill=2, callbacks=callbacks())
    written = Path("run/transition.npz").read_bytes()
    resumed = callbacks()
    fit(kind, ckpt="run/saved/epoch=1.ckpt", callbacks=resumed)
    assert Path("run/transition.npz").read_bytes() == written
    assert resumed[0].transition is not None
    lines = Path("run/diagnostics/train_largest.csv").read_text().splitlines()[1:]
    assert sorted({int(line.split(",")[0]) for line in lines}) == list(range(EPOCHS))


# -- checkpoints that know no run -------------------------------------------------------------------------------------


WRITERS = {
    "history": lambda folder, **options: PredictionHistory(folder, **options),
    "path": lambda folder, **options: LearningPath(CHOSEN, dirpath=folder, **options),
    "zigzag": lambda folder, **options: ZigZag(folder, **options),
    "filter": lambda folder, **options: PredictionFilter(0.3, dirpath=folder, **options),
}


def contents(folder) -> dict[str, bytes]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["usual", "late"])
@pytest.mark.parametrize("writer", WRITERS)
def test_overwrite_does_not_let_a_resumed_run_delete_a_finished_one(writer, kind):
    """A checkpoint made without the callback cannot say whose folder this is; it may well be this run's own."""
    fit("usual", callbacks=[WRITERS[writer]("kept")], folder="first")
    before = contents("kept")
    assert before
    fit("usual", callbacks=[], folder="other", kill=2)
    with pytest.raises(FileExistsError, match="dirpath"):
        fit(kind, callbacks=[WRITERS[writer]("kept", overwrite=True)], folder="again", ckpt="other/saved/epoch=1.ckpt")
    assert contents("kept") == before


@pytest.mark.parametrize("kind", ["usual", "late"])
@pytest.mark.parametrize("writer", WRITERS)
def test_without_an_id_an_empty_folder_is_taken(writer, kind):
    fit("usual", callbacks=[], folder="other", kill=2)
    callback = WRITERS[writer]("empty", overwrite=True)
    fit(kind, callbacks=[callback], folder="again", ckpt="other/saved/epoch=1.ckpt")
    assert contents("empty")


@pytest.mark.parametrize("kind", ["usual", "late"])
@pytest.mark.parametrize("writer", WRITERS)
def test_overwrite_still_replaces_another_run_where_none_is_resumed(writer, kind):
    fit("usual", callbacks=[WRITERS[writer]("kept")], folder="first")
    before = contents("kept")
    fit(kind, callbacks=[WRITERS[writer]("kept", overwrite=True)], folder="second")
    after = contents("kept")
    assert sorted(after) == sorted(before)
    assert any(after[name] != before[name] for name in before)  # at least the id
