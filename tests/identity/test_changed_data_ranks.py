"""Two and three ranks: the same data on each, or no training."""

from __future__ import annotations

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

worlds = pytest.mark.parametrize("world", [2, 3])


def split(seed, count=12, make=Unlisted):
    return random_split(make(24), [count, 24 - count], torch.Generator().manual_seed(seed))[0]


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def on_ranks(world, body, *args):
    """Run body(rank, folder, ...) on every rank; what each of them raised, None where it came to its end.

    A rank that waits for one that has given up is killed, and fails the test.
    """
    folder = Path("ranks").absolute()
    folder.mkdir(exist_ok=True)
    for old in folder.glob("rank-*.txt"):
        old.unlink()
    codes = run_ranks(world, _noting, body, folder, *args, seconds=40.0)
    assert codes == [0] * world, "a rank hangs or crashes"
    raised = [Path(folder, f"rank-{number}.txt").read_text() for number in range(world)]
    return [text or None for text in raised]


def _noting(body, folder, *args):
    import os

    number, text = int(os.environ["LOCAL_RANK"]), ""
    try:
        body(number, folder, *args)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    Path(folder, f"rank-{number}.txt").write_text(text)


def fit(world, train, val=None, *, model=None, callbacks=None, ckpt=None, datamodule=None, **options):
    callbacks = [PredictionHistory("run"), FlipTracker(train=True)] if callbacks is None else callbacks
    trainer = make_trainer(**{"strategy": "ddp", "devices": world, "callbacks": callbacks, "max_epochs": 2} | options)
    if datamodule is not None:
        trainer.fit(model or Watched(), datamodule=datamodule)
    else:
        train = DataLoader(train, batch_size=2, shuffle=True)
        val = loader(6, seed=1) if val is None else DataLoader(val, batch_size=2)
        trainer.fit(model or Watched(), train, val, ckpt_path=ckpt, weights_only=True)


def assert_refused(raised, *words):
    for text in raised:
        assert text is not None
        assert text.startswith("ChangedDataError"), text
        assert_says(text, *words)


# -- at the start ---------------------------------------------------------------------------------------------


def own_split(number, folder, world, make):
    count = After()
    try:
        fit(world, split(number, make=make), callbacks=[PredictionHistory("run"), FlipTracker(train=True), count])
    finally:
        Path(folder, f"steps-{number}.txt").write_text(str(count.steps))


@worlds
@pytest.mark.parametrize("make", [Unlisted, Listed])
def test_a_split_of_each_ranks_own_is_refused_on_every_rank_before_the_first_step(world, make):
    assert_refused(on_ranks(world, own_split, world, make), "train")
    assert [Path("ranks", f"steps-{number}.txt").read_text() for number in range(world)] == ["0"] * world


def own_split_with_a_loss(number, folder, world):
    fit(world, split(number), model=Robust(), callbacks=[])


def test_a_loss_refuses_a_split_of_each_ranks_own():
    assert_refused(on_ranks(2, own_split_with_a_loss, 2), "train")


def own_validation_split(number, folder, world):
    fit(world, points(12), split(number))


def test_a_validation_split_of_each_ranks_own_is_refused():
    assert_refused(on_ranks(2, own_validation_split, 2), "val")


def last_rank_differs(number, folder, world):
    """Ranks 0 and 1 agree."""
    fit(world, split(int(number == world - 1)))


def test_one_rank_of_three_is_enough():
    assert_refused(on_ranks(3, last_rank_differs, 3), "train", 2)


def own_length(number, folder, world):
    fit(world, split(0, 12 - 2 * number))


def test_lengths_that_differ_between_ranks_are_refused_with_the_numbers():
    assert_refused(on_ranks(2, own_length, 2), "train", 12, 10)


def own_noise(number, folder, world):
    fit(world, NoisyLabels(points(12), rate=0.5, exact=True, seed=number))


def test_labels_that_differ_between_ranks_are_refused():
    assert_refused(on_ranks(2, own_noise, 2), "train", "labels")


def allowed(number, folder, world):
    fit(world, split(number), callbacks=[FlipTracker(train=True, allow_changed_data=True)])


def test_no_option_makes_ranks_with_different_data_count_as_one():
    """There is no state to start anew: samples of the ranks can never be brought together."""
    assert_refused(on_ranks(2, allowed, 2), "train")


def one_split(number, folder, world):
    tracker = FlipTracker(train=True)
    model = Robust(seen_dir=str(folder))
    fit(world, split(0), split(1), model=model, callbacks=[PredictionHistory("run"), tracker])
    torch.save(tracker.statistics["train", 0].visits, Path(folder, f"visits-{number}.pt"))


@worlds
def test_one_split_on_all_ranks_is_recorded(world):
    assert on_ranks(world, one_split, world) == [None] * world
    for number in range(world):
        assert torch.load(Path("ranks", f"visits-{number}.pt")).tolist() == [2] * 12
    data = read_history("run").run.data
    assert {name: data[name]["length"] for name in ("train-0", "val-0")} == {"train-0": 12, "val-0": 12}


# -- while training -------------------------------------------------------------------------------------------


def corrected(number, folder, world, make):
    data = make(12)
    fit(world, data, callbacks=[FlipTracker(train=True), After(0, lambda: data.relabel(list(range(9))))], max_epochs=3)


@worlds
@pytest.mark.parametrize("make", [Unlisted, Listed])
def test_corrected_labels_are_refused_and_no_rank_waits_for_another(world, make):
    raised = on_ranks(world, corrected, world, make)
    assert all(raised)
    assert any(text.startswith("ChangedDataError") for text in raised)


class Halves(Sampler):
    """Each epoch a rank gets the half that the other one had before."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(range(6) if (rank() + self.epoch) % 2 else range(6, 12))

    def __len__(self):
        return 6


def corrected_across(number, folder):
    data = Unlisted(12)
    train = DataLoader(data, batch_size=3, sampler=Halves())
    trainer = make_trainer(
        strategy="ddp",
        devices=2,
        use_distributed_sampler=False,
        max_epochs=2,
        callbacks=[FlipTracker(train=True, val=False), After(0, lambda: data.relabel([2, 8]))],
    )
    trainer.fit(Watched(), train, DataLoader(points(6, 1), batch_size=3))


def test_a_label_that_another_rank_saw_first_is_compared():
    """No rank sees a sample twice."""
    raised = on_ranks(2, corrected_across)
    assert all(raised)
    assert any(text.startswith("ChangedDataError") for text in raised)


def redrawn(number, folder, world):
    data = Unlisted(24)

    def train(epoch):
        return Subset(data, list(range(12)) if epoch == 0 else list(range(6, 18)))

    fit(world, None, datamodule=Reloading(train, batch_size=2), reload_dataloaders_every_n_epochs=1)


def test_a_reload_with_another_subset_is_refused_on_every_rank():
    assert_refused(on_ranks(2, redrawn, 2), "train", 12)


# -- resumption -----------------------------------------------------------------------------------------------


def begin(number, folder, world):
    save = ModelCheckpoint("saved", filename="{epoch}")
    fit(world, split(0), callbacks=[PredictionHistory("run"), FlipTracker(train=True), save], model=Robust())


def resume(number, folder, world, seed, allow):
    count, tracker = After(), FlipTracker(train=True, allow_changed_data=allow)
    callbacks = [PredictionHistory("run", allow_changed_data=allow), tracker, count]
    model, ckpt = Robust(allow_changed_data=allow), "saved/epoch=1.ckpt"
    try:
        fit(world, split(seed), model=model, callbacks=callbacks, ckpt=ckpt, max_epochs=4)
        torch.save(tracker.statistics["train", 0].visits, Path(folder, f"visits-{number}.pt"))
    finally:
        Path(folder, f"steps-{number}.txt").write_text(str(count.steps))


def test_a_resume_on_another_split_is_refused_on_every_rank_and_the_same_one_goes_on():
    assert on_ranks(2, begin, 2) == [None] * 2
    assert_refused(on_ranks(2, resume, 2, 1, False), "train")
    assert [Path("ranks", f"steps-{number}.txt").read_text() for number in range(2)] == ["0", "0"]
    for seed, allow, visits in ((0, False, 4), (1, True, 2)):
        assert on_ranks(2, resume, 2, seed, allow) == [None] * 2
        for number in range(2):
            assert torch.load(Path("ranks", f"visits-{number}.pt")).tolist() == [visits] * 12


# -- growth ---------------------------------------------------------------------------------------------------


def growing(number, folder, world, only_first):
    data, tracker = Unlisted(12), FlipTracker(train=True)
    grow = After(0, lambda: data.append(6) if number == 0 or not only_first else None)
    fit(
        world,
        None,
        model=Robust(seen_dir=str(folder)),
        datamodule=Reloading(lambda epoch: data, batch_size=2),
        callbacks=[PredictionHistory("run"), tracker, grow],
        reload_dataloaders_every_n_epochs=1,
        max_epochs=3,
    )
    torch.save(tracker.statistics["train", 0].visits, Path(folder, f"visits-{number}.pt"))


@worlds
def test_a_dataset_that_grows_on_all_ranks_is_followed(world):
    assert on_ranks(world, growing, world, False) == [None] * world
    for number in range(world):
        assert torch.load(Path("ranks", f"visits-{number}.pt")).tolist() == [3] * 12 + [2] * 6
    seen = [row for number in range(world) for row in torch.load(Path("ranks", f"seen-{number}.pt"))]
    assert stored_rows("run", "train") == expected_rows(seen, "train")
    assert read_history("run").samples("train").num_rows == 18


def test_a_dataset_that_grows_on_one_rank_only_is_refused():
    raised = on_ranks(2, growing, 2, True)
    assert all(raised)
    assert any(text.startswith("ChangedDataError") for text in raised)
