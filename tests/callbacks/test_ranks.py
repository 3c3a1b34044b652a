"""One process, two ranks and three ranks record the same, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Sampler

from lightning_flip.callbacks import ExactResume, FlipTracker, PredictionHistory
from lightning_flip.stores import read_history
from lightning_flip.stores.history.parts import list_parts
from tests.callbacks.helpers import (
    Robust,
    RobustLookup,
    Watched,
    assert_same,
    expected_rows,
    loader,
    make_trainer,
    points,
    run_ranks,
    some_logits,
    stored_rows,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders"),  # its padding is the test
]
TRACKER = "FlipTracker{'train': True, 'val': True, 'name': ''}"


def fit(world, model, train, val, folder, **options):
    """Train on some ranks; returns the Trainer of the parent."""
    strategy = "ddp_fork" if world > 1 else "auto"
    save = ModelCheckpoint(Path(folder, "saved"), filename="{epoch}", save_top_k=-1)
    recorders = [PredictionHistory(Path(folder, "run")), FlipTracker(train=True), ExactResume()]
    trainer = make_trainer(devices=world, strategy=strategy, callbacks=[*recorders, save], **options)
    trainer.fit(model, train, val)
    return trainer


def saved(folder, name="epoch=2.ckpt"):
    return torch.load(Path(folder, "saved", name), weights_only=True)


def by_time(rows):
    """Rows without the step, sorted by split, loader, epoch, pass, index and visit."""
    return sorted((*row[:4], *row[5:]) for row in rows)


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory):
    """Folders of runs on 1, 2 and 3 ranks with 11 and 7 samples, whose logits come from a table."""
    runs = {}
    for world in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"ranks-{world}")
        model = RobustLookup(some_logits(3, 11), some_logits(3, 7, 1), seen_dir=str(folder))
        trainer = fit(world, model, loader(11, 2, shuffle=True), loader(7, 2, seed=1), folder)
        runs[world] = folder, {name: float(value) for name, value in trainer.callback_metrics.items()}
    return runs


@pytest.mark.parametrize("world", [2, 3])
def test_looked_up_logits_are_recorded_bit_by_bit(looked_up, world):
    (one, rates), (many, same_rates) = looked_up[1], looked_up[world]
    assert by_time(stored_rows(one / "run")) == by_time(stored_rows(many / "run"))
    for split, count in (("train", 11), ("val", 7)):
        indices = [(row[2], row[5]) for row in stored_rows(many / "run", split)]
        assert sorted(indices) == [(epoch, index) for epoch in range(3) for index in range(count)]
    left, right = saved(one), saved(many)
    assert_same(left["callbacks"][TRACKER]["splits"], right["callbacks"][TRACKER]["splits"])
    assert_same(left["lightning_flip"]["tables"], right["lightning_flip"]["tables"])
    assert left["lightning_flip"]["tables"]["behavior"]["seen"].any()
    assert rates == same_rates
    assert "val_flipping_error" in rates
    assert len(list_parts(many / "run")) == 2 * 3 * world


@pytest.mark.parametrize("world", [2, 3])
def test_every_recorded_row_was_seen_by_a_rank(looked_up, world):
    """And what was seen but is not recorded is only padding: samples that another row of the epoch has."""
    folder = looked_up[world][0]
    seen = [row for rank in range(world) for row in torch.load(folder / f"seen-{rank}.pt", weights_only=True)]
    saw = {row[:-2] for row in expected_rows(seen)}
    recorded = {row[:-2] for row in stored_rows(folder / "run")}
    assert recorded <= saw
    assert len(stored_rows(folder / "run")) == 3 * (11 + 7)


class Slices(Sampler):
    """Rank r gets the r-th slice of every global batch of a fixed order."""

    def __init__(self, count, global_batch, world):
        self.count, self.global_batch, self.world, self.epoch = count, global_batch, world, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        rank = dist.get_rank() if dist.is_initialized() else 0
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        size = self.global_batch // self.world
        for start in range(rank * size, self.count, self.global_batch):
            yield from order[start : start + size]

    def __len__(self):
        return self.count // self.world


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of runs on 1, 2 and 3 ranks that really train, with the same global batches."""
    folders = {}
    for world in (1, 2, 3):
        folder = folders[world] = tmp_path_factory.mktemp(f"trained-{world}")
        train = DataLoader(points(24), batch_size=12 // world, sampler=Slices(24, 12, world))
        val = DataLoader(points(12, 1), batch_size=6 // world, sampler=Slices(12, 6, world))
        fit(world, Robust(seen_dir=str(folder)), train, val, folder, use_distributed_sampler=False)
    return folders


@pytest.mark.parametrize("world", [2, 3])
def test_a_network_that_trains_is_recorded_alike(trained, world):
    one, many = stored_rows(trained[1] / "run"), stored_rows(trained[world] / "run")
    assert [row[:7] for row in one] == [row[:7] for row in many]
    measures = [torch.tensor([row[7:11] for row in rows]) for rows in (one, many)]
    torch.testing.assert_close(*measures, rtol=1e-5, atol=1e-5)
    seen = []
    for rank in range(world):
        seen += torch.load(trained[world] / f"seen-{rank}.pt", weights_only=True)
    assert many == expected_rows(seen)
    left, right = saved(trained[1]), saved(trained[world])
    torch.testing.assert_close(
        left["lightning_flip"]["tables"], right["lightning_flip"]["tables"], rtol=1e-5, atol=1e-5
    )
    for split, state in left["callbacks"][TRACKER]["splits"].items():
        other = right["callbacks"][TRACKER]["splits"][split]
        torch.testing.assert_close(state["statistics"], other["statistics"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left["state_dict"], right["state_dict"], rtol=1e-5, atol=1e-5)


def follow_on_two_ranks(folder, ckpt=None):
    trainer = make_trainer(
        max_epochs=1,
        strategy="ddp",
        devices=2,
        callbacks=[
            FlipTracker(train=True, val=False),
            PredictionHistory(f"{folder}/run", val=False),
            ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1),
        ],
    )
    trainer.fit(Watched(), loader(40), loader(6, seed=1), ckpt_path=ckpt, weights_only=True)
    rates = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train_")}
    torch.save(rates, Path(folder, f"rates-{trainer.global_rank}.pt"))


def test_counts_and_rows_of_a_running_epoch_go_on_once_and_not_on_every_rank():
    """Three of five batches a rank before the checkpoint, two after it: forty samples are counted, not sixty-four."""
    for folder, ckpt in (("whole", None), ("resumed", "whole/step=3.ckpt")):
        Path(folder).mkdir()
        assert run_ranks(2, follow_on_two_ranks, folder, ckpt) == [0, 0]
        for rank in range(2):
            assert torch.load(Path(folder, f"rates-{rank}.pt"))["train_coverage"] == 1.0
        assert read_history(f"{folder}/run").to_arrow("train").num_rows == 40
