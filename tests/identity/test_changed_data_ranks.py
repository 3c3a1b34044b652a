"""Two and three ranks: the same data on each, or no training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Sampler, Subset, random_split

from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.data import NoisyLabels
from lightning_flip.stores import read_history
from tests.callbacks.helpers import Robust, Watched, expected_rows, loader, make_trainer, points, run_ranks, stored_rows
from tests.identity.helpers import After, Listed, Reloading, Unlisted, assert_says


def split(seed, count=12, make=Unlisted):
    return random_split(make(24), [count, 24 - count], torch.Generator().manual_seed(seed))[0]


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def on_ranks(world, folder, **scenes):
    """Run some scenes, one after the other, on every rank, each in a folder of its own.

    Args:
        world: number of ranks.
        folder: where the folders are made.
        **scenes: functions of the rank and `world`.

    Returns:
        For every scene what each rank raised, None where it came to its end. A rank that hangs or crashes gives "hung"
        for the scene in which it did, and for all after it.
    """
    run_ranks(world, _noting, Path(folder).absolute(), world, scenes, seconds=40.0)
    raised = {}
    for name in scenes:
        files = [Path(folder, name, f"rank-{number}.txt") for number in range(world)]
        raised[name] = [(file.read_text() or None) if file.exists() else "hung" for file in files]
    return raised


def _noting(folder, world, scenes):
    for name, scene in scenes.items():
        number, text = int(os.environ["LOCAL_RANK"]), ""
        Path(folder, name).mkdir(exist_ok=True)
        os.chdir(Path(folder, name))
        try:
            scene(number, world)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        Path(folder, name, f"rank-{number}.txt").write_text(text)


def fit(world, train, val=None, *, model=None, callbacks=None, ckpt=None, **options):
    """Two epochs; how many steps the ranks began is written down."""
    callbacks = [PredictionHistory("run"), FlipTracker(train=True)] if callbacks is None else callbacks
    callbacks = [*callbacks, count := After()]
    trainer = make_trainer(**{"strategy": "ddp", "devices": world, "callbacks": callbacks, "max_epochs": 2} | options)
    try:
        if isinstance(train, Reloading):
            trainer.fit(model or Watched(), datamodule=train)
        else:
            train = train if isinstance(train, DataLoader) else DataLoader(train, batch_size=2, shuffle=True)
            val = loader(6, seed=1) if val is None else DataLoader(val, batch_size=2)
            trainer.fit(model or Watched(), train, val, ckpt_path=ckpt, weights_only=True)
    finally:
        Path(f"steps-{trainer.global_rank}.txt").write_text(str(count.steps))
    return trainer


def assert_refused(raised, *words):
    for text in raised:
        assert text is not None
        assert text.startswith("ChangedDataError"), text
        assert_says(text, *words)


def assert_no_steps(folder, world):
    assert [Path(folder, f"steps-{number}.txt").read_text() for number in range(world)] == ["0"] * world


# -- at the start ---------------------------------------------------------------------------------------------

STARTS = {
    "own_split": lambda number, world: fit(world, split(number)),
    "own_listed_split": lambda number, world: fit(world, split(number, make=Listed)),
    "own_split_with_a_loss": lambda number, world: fit(world, split(number), model=Robust(), callbacks=[]),
    "own_validation_split": lambda number, world: fit(world, points(12), split(number)),
    "last_rank_differs": lambda number, world: fit(world, split(int(number == world - 1))),
    "own_noise": lambda number, world: fit(world, NoisyLabels(points(12), rate=0.5, exact=True, seed=number)),
    "allowed": lambda number, world: fit(
        world, split(number), callbacks=[FlipTracker(train=True, allow_changed_data=True)]
    ),
}


def one_split(number, world):
    tracker = FlipTracker(train=True)
    fit(world, split(0), split(1), model=Robust(), callbacks=[PredictionHistory("run"), tracker])
    torch.save(tracker.statistics["train", 0].visits, f"visits-{number}.pt")


@pytest.fixture(scope="module", params=[2, 3])
def starts(request, tmp_path_factory):
    """The number of ranks, where they ran, and what came of it."""
    world, folder = request.param, tmp_path_factory.mktemp("starts")
    return world, folder, on_ranks(world, folder, one_split=one_split, **STARTS)


@pytest.mark.parametrize("scene", list(STARTS))
def test_ranks_with_different_data_are_refused_before_the_first_step(starts, scene):
    """No option helps: there is no state to start anew, and samples of the ranks cannot be brought together."""
    world, folder, raised = starts
    assert_refused(raised[scene], "val" if "validation" in scene else "train")
    assert_no_steps(folder / scene, world)
    if scene == "own_noise":
        assert "labels" in raised[scene][0]


def test_one_split_on_all_ranks_is_recorded(starts):
    world, folder, raised = starts
    assert raised["one_split"] == [None] * world
    for number in range(world):
        assert torch.load(folder / "one_split" / f"visits-{number}.pt").tolist() == [2] * 12
    data = read_history(folder / "one_split" / "run").run.data
    assert {name: data[name]["length"] for name in ("train-0", "val-0")} == {"train-0": 12, "val-0": 12}


def test_lengths_that_differ_between_ranks_are_refused_with_the_numbers(tmp_path):
    raised = on_ranks(2, tmp_path, lengths=lambda number, world: fit(world, split(0, 12 - 2 * number)))
    assert_refused(raised["lengths"], "train", 12, 10)
    assert_no_steps(tmp_path / "lengths", 2)


# -- while training -------------------------------------------------------------------------------------------


def corrected(make):
    def scene(number, world):
        data = make(12)
        change = After(0, lambda: data.relabel(list(range(9))))
        fit(world, data, callbacks=[FlipTracker(train=True), change], max_epochs=3)

    return scene


@pytest.mark.parametrize(("world", "make"), [(2, Listed), (3, Unlisted)])
def test_corrected_labels_are_refused_and_no_rank_waits_for_another(world, make, tmp_path):
    raised = on_ranks(world, tmp_path, corrected=corrected(make))["corrected"]
    assert None not in raised
    assert "hung" not in raised
    assert any(text.startswith("ChangedDataError") for text in raised), raised


class Halves(Sampler):
    """Each epoch a rank gets the half that the other one had before."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(range(6) if (rank() + self.epoch) % 2 else range(6, 12))

    def __len__(self):
        return 6


def corrected_across(number, world):
    data = Unlisted(12)
    change = After(0, lambda: data.relabel([2, 8]))
    train = DataLoader(data, batch_size=3, sampler=Halves())
    fit(world, train, callbacks=[FlipTracker(train=True, val=False), change], use_distributed_sampler=False)


def test_a_label_that_another_rank_saw_first_is_compared(tmp_path):
    """No rank sees a sample twice."""
    raised = on_ranks(2, tmp_path, across=corrected_across)["across"]
    assert None not in raised
    assert "hung" not in raised
    assert any(text.startswith("ChangedDataError") for text in raised), raised


def redrawn(number, world):
    data = Unlisted(24)

    def train(epoch):
        return Subset(data, list(range(12)) if epoch == 0 else list(range(6, 18)))

    fit(world, Reloading(train, batch_size=2), reload_dataloaders_every_n_epochs=1)


def test_a_reload_with_another_subset_is_refused_on_every_rank(tmp_path):
    assert_refused(on_ranks(2, tmp_path, redrawn=redrawn)["redrawn"], "train", 12)


# -- resumption -----------------------------------------------------------------------------------------------


def begin(number, world):
    save = ModelCheckpoint("../saved", filename="{epoch}")
    fit(world, split(0), callbacks=[PredictionHistory("run"), FlipTracker(train=True), save], model=Robust())


def resume(seed, **options):
    def scene(number, world):
        tracker = FlipTracker(train=True, **options)
        callbacks = [PredictionHistory("run", **options), tracker]
        fit(
            world, split(seed), model=Robust(**options), callbacks=callbacks, ckpt="../saved/epoch=1.ckpt", max_epochs=4
        )
        torch.save(tracker.statistics["train", 0].visits, f"visits-{number}.pt")

    return scene


def test_a_resume_on_another_split_is_refused_on_every_rank_and_the_same_one_goes_on(tmp_path):
    raised = on_ranks(
        2, tmp_path, begin=begin, other=resume(1), same=resume(0), anew=resume(1, allow_changed_data=True)
    )
    assert raised["begin"] == raised["same"] == raised["anew"] == [None] * 2
    for number in range(2):
        assert torch.load(tmp_path / "same" / f"visits-{number}.pt").tolist() == [4] * 12
        assert torch.load(tmp_path / "anew" / f"visits-{number}.pt").tolist() == [2] * 12
    assert_refused(raised["other"], "train")
    assert_no_steps(tmp_path / "other", 2)


# -- growth ---------------------------------------------------------------------------------------------------


def growing(*, only_first):
    def scene(number, world):
        data, tracker = Unlisted(12), FlipTracker(train=True)
        grow = After(0, lambda: data.append(6) if number == 0 or not only_first else None)
        fit(
            world,
            Reloading(lambda epoch: data, batch_size=2),
            model=Robust(seen_dir="."),
            callbacks=[PredictionHistory("run"), tracker, grow],
            reload_dataloaders_every_n_epochs=1,
            max_epochs=3,
        )
        torch.save(tracker.statistics["train", 0].visits, f"visits-{number}.pt")

    return scene


@pytest.mark.parametrize("world", [2, 3])
def test_a_dataset_that_grows_on_all_ranks_is_followed(world, tmp_path):
    raised = on_ranks(world, tmp_path, growing=growing(only_first=False))
    assert raised["growing"] == [None] * world
    folder, seen = tmp_path / "growing", []
    for number in range(world):
        assert torch.load(folder / f"visits-{number}.pt").tolist() == [3] * 12 + [2] * 6
        seen += torch.load(folder / f"seen-{number}.pt")
    assert stored_rows(folder / "run", "train") == expected_rows(seen, "train")
    assert read_history(folder / "run").samples("train").num_rows == 18


def test_a_dataset_that_grows_on_one_rank_only_is_refused(tmp_path):
    raised = on_ranks(2, tmp_path, growing=growing(only_first=True))["growing"]
    assert None not in raised
    assert "hung" not in raised
    assert any(text.startswith("ChangedDataError") for text in raised), raised
