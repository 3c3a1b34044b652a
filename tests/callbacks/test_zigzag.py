"""Scores added up online, held against stored paths and plain loops."""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_flip.callbacks import ExactResume, LearningPath, ZigZag
from lightning_flip.functional import zigzag_score
from lightning_flip.stores import read_paths, read_zigzag
from lightning_flip.tables import PredictionSums
from tests.callbacks.helpers import Lookup, assert_same, loader, make_trainer, points, run_ranks, some_logits
from tests.callbacks.test_learning_path import Kill, KilledError, Noted, Toy

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
    pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders"),
]
STATE = "ZigZag{'train': True, 'val': False, 'name': ''}"


def fit(zigzag, *, model=None, train=None, ckpt=None, extra=(), **options):
    pl.seed_everything(3, verbose=False)
    trainer = make_trainer(callbacks=[zigzag, *extra], **options)
    model = Lookup(some_logits(3, 17)) if model is None else model
    trainer.fit(model, loader(17, shuffle=True) if train is None else train, ckpt_path=ckpt, weights_only=True)
    return model


def by_loop(visits, targets):
    """visits: (index, probs) in any order."""
    sums = {}
    for index, probs in visits:
        sums[index] = [a + b for a, b in zip(sums.get(index, [0.0] * len(probs)), probs, strict=True)]
    others = {n: [(value, -i) for i, value in enumerate(row) if i != targets[n]] for n, row in sums.items()}
    return {n: max(row)[0] for n, row in others.items()}, {n: -max(row)[1] for n, row in others.items()}


def test_scores_are_those_of_a_stored_path():
    zigzag, every = ZigZag("run"), LearningPath(range(20), dirpath="run")
    fit(zigzag, model=Noted(), train=loader(20, shuffle=True), extra=[every])
    paths = read_paths("run")
    expected = zigzag_score(torch.from_numpy(paths.path), torch.from_numpy(paths.target))
    torch.testing.assert_close(zigzag.scores(), expected)
    table = read_zigzag("run")
    assert table["visits"].to_pylist() == [3] * 20
    assert table["base_difficulty"].null_count == 20
    assert table["target"].to_pylist() == points(20).tensors[1].tolist()


def test_looked_up_paths_by_plain_loops():
    zigzag = ZigZag("run")
    fit(zigzag)
    q, targets = some_logits(3, 17).softmax(dim=2), points(17).tensors[1].tolist()
    scores, other = by_loop([(n, q[t, n].tolist()) for t in range(3) for n in range(17)], targets)
    torch.testing.assert_close(zigzag.scores(), torch.tensor([scores[n] for n in range(17)]))
    assert read_zigzag("run")["other"].to_pylist() == [other[n] for n in range(17)]


def test_samples_drawn_twice_and_samples_never_drawn():
    sampler = WeightedRandomSampler([9.0] + [1.0] * 8 + [0.0] * 11, 40)
    zigzag = ZigZag("run")
    model = fit(zigzag, model=Noted(), train=DataLoader(points(20), 4, sampler=sampler))
    scores, _ = by_loop([(row[2], row[3]) for row in model.probs], points(20).tensors[1].tolist())
    assert zigzag.scores()[9:].isnan().all()
    seen = sorted(scores)
    torch.testing.assert_close(zigzag.scores()[seen], torch.tensor([scores[n] for n in seen]))
    table = read_zigzag("run")
    assert table["visits"].to_pylist() == [sum(row[2] == n for row in model.probs) for n in range(20)]
    assert table["zigzag"].null_count == 20 - len(seen)


def test_base_difficulty_through_a_subset():
    data = Subset(Toy(*points(20).tensors), [5, 2, 9, 11])
    fit(ZigZag("run"), model=Noted(), train=DataLoader(data, 2), max_epochs=1)
    expected = []
    for index in data.indices:
        p, label = data.dataset.true_distribution(index).tolist(), int(data.dataset.tensors[1][index])
        expected.append(sum((p[i] - (i == label)) ** 2 for i in range(3)) ** 0.5)
    assert read_zigzag("run")["base_difficulty"].to_pylist() == pytest.approx(expected, abs=1e-6)


def test_straight_path():
    """T + 1 points to the label: (T + 1) / 2 times the largest other initial mass."""
    table = PredictionSums(1, 4)
    start, end = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    for t in range(11):
        table.add(torch.tensor([0]), start + t / 10 * (end - start), torch.tensor([1]))
    torch.testing.assert_close(table.zigzag(), torch.tensor([11 / 2 * 0.4]))
    assert table.other().tolist() == [3]


def test_visits_that_do_not_count():
    table = PredictionSums(3, 2)
    rows = torch.tensor([[0.25, 0.75], [float("nan"), float("nan")]])
    table.add(torch.tensor([0, 2]), rows, torch.tensor([0, 1]), torch.tensor([True, False]))
    assert table.sums.tolist() == [[0.25, 0.75], [0, 0], [0, 0]]
    assert table.visits.tolist() == [1, 0, 0]
    assert table.target.tolist() == [0, -1, -1]
    with pytest.raises(ValueError, match=r"probs must be \[1, 2\]"):
        table.add(torch.tensor([0]), torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="two classes"):
        PredictionSums(3, 1)
    with pytest.raises(ValueError, match="3 samples x 2 classes, this run has 4 x 2"):
        PredictionSums(4, 2).load_state_dict(table.state_dict())


def test_training_is_the_same_and_nothing_is_left_of_a_fast_dev_run():
    whole, without = (
        dict(fit(callback, model=Noted(noise=True), train=loader(20, shuffle=True)).state_dict())
        for callback in (ZigZag("run"), pl.Callback())
    )
    assert_same(whole, without)
    fit(ZigZag("dev"), fast_dev_run=True)
    assert not Path("dev").exists()
    with pytest.raises(RuntimeError, match="Fit first"):
        ZigZag().scores()


def test_another_run_is_refused_and_replaced():
    fit(ZigZag("run"))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fit(ZigZag("run"))
    fit(ZigZag("run", overwrite=True), max_epochs=1)
    assert read_zigzag("run")["visits"].to_pylist() == [1] * 17


@pytest.mark.parametrize("after", [3, 8, 10])
def test_resumed_is_uninterrupted(after):
    def attempt(folder, kill=None, ckpt=None):
        saver = ModelCheckpoint(f"{folder}/saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
        extra = [ExactResume(), saver, *([Kill(kill)] if kill else [])]
        zigzag = ZigZag(folder)
        pl.seed_everything(3, verbose=False)  # a stateful loader draws when it is made
        train = StatefulDataLoader(points(20), batch_size=4, shuffle=True)
        model = Noted(noise=True)
        fit(zigzag, model=model, train=train, ckpt=ckpt, extra=extra)
        return model, zigzag

    _, whole = attempt("whole")
    with pytest.raises(KilledError):
        attempt("run", kill=after)
    model, resumed = attempt("run", ckpt=f"run/saved/step={after}.ckpt")
    if after % 5:
        assert_same(resumed.sums.state_dict(), whole.sums.state_dict())
    scores, _ = by_loop([(row[2], row[3]) for row in model.probs], points(20).tensors[1].tolist())
    torch.testing.assert_close(resumed.scores(), torch.tensor([scores[n] for n in range(20)]))
    assert read_zigzag("run")["zigzag"].to_pylist() == pytest.approx(resumed.scores().tolist())


def on_ranks(world, folder):
    pl.seed_everything(3, verbose=False)
    zigzag = ZigZag(folder)
    save = ModelCheckpoint(f"{folder}/saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = make_trainer(devices=world, strategy="ddp" if world > 1 else "auto", callbacks=[zigzag, save])
    model = Lookup(some_logits(3, 17), seen_dir=str(folder))
    trainer.fit(model, loader(17, 4 // world, shuffle=True))
    torch.save(zigzag.sums.state_dict(), Path(folder, f"sums-{trainer.global_rank}.pt"))


def test_two_ranks_add_up_as_one():
    assert run_ranks(2, on_ranks, 2, "two") == [0, 0]
    on_ranks(1, "one")
    one = torch.load("one/sums-0.pt", weights_only=True)
    for rank in range(2):
        assert_same(torch.load(f"two/sums-{rank}.pt", weights_only=True), one)
    assert_same(read_zigzag("two").to_pydict(), read_zigzag("one").to_pydict())
    inside = torch.load("two/saved/step=7.ckpt", weights_only=True)["callbacks"][STATE]
    assert int(inside["sums"]["visits"].sum()) == 17 + 2 * 2 * 2
    assert not inside["partial"]


def merge_repeats(folder):
    """Both ranks visit sample 1; sample 0 is rank 0's, sample 2 rank 1's."""
    pl.seed_everything(3, verbose=False)
    torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    rank = torch.distributed.get_rank()
    table = PredictionSums(4, 2)
    for _ in range(2):
        table.add(torch.tensor([2 * rank, 1]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([rank, rank]))
        assert not table.merged
        table.sync()
        assert table.merged
    torch.save(table.state_dict(), Path(folder, f"{rank}.pt"))


def test_samples_that_both_ranks_drew():
    Path("merged").mkdir()
    assert run_ranks(2, merge_repeats, "merged") == [0, 0]
    left, right = (torch.load(f"merged/{rank}.pt", weights_only=True) for rank in range(2))
    assert_same(left, right)
    assert left["visits"].tolist() == [2, 4, 2, 0]
    assert left["sums"].tolist() == [[0.5, 1.5], [2.0, 2.0], [0.5, 1.5], [0.0, 0.0]]
    assert left["target"].tolist() == [0, 1, 1, -1]
