"""Recorded paths held against what the module itself saw, and against forwards of its own."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_flip.callbacks import ExactResume, FlipTracker, LearningPath
from lightning_flip.callbacks.exact_resume import random_states
from lightning_flip.callbacks.paths._recording import PathRows
from lightning_flip.models import MLP, Classifier
from lightning_flip.steps import SampleStep
from lightning_flip.steps._running_step import RunningStep
from lightning_flip.stores import read_paths
from lightning_flip.stores.history.parts import list_parts
from tests.callbacks.helpers import (
    Lookup,
    Watched,
    assert_same,
    loader,
    make_trainer,
    points,
    run_ranks,
    some_logits,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
    pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders"),
]
CHOSEN = [1, 4, 7, 16]


class Noted(Watched):
    """Keeps every distribution that a training forward predicted: (epoch, step, index, probs)."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.norm = nn.BatchNorm1d(4)
        self.probs: list[tuple[int, int, int, list[float]]] = []

    def forward(self, x):
        return super().forward(torch.cat([x[:, :1], self.norm(x[:, 1:])], dim=1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        moment = self.trainer.current_epoch, self.trainer.global_step
        for index, row in zip(x[:, 0].long().tolist(), logits.detach().softmax(dim=1).tolist(), strict=True):
            self.probs.append((*moment, index, row))
        return functional.cross_entropy(logits, y)

    def on_save_checkpoint(self, checkpoint) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["probs"] = [list(row) for row in self.probs]

    def on_load_checkpoint(self, checkpoint) -> None:
        super().on_load_checkpoint(checkpoint)
        self.probs = [tuple(row) for row in checkpoint["probs"]]

    def on_fit_end(self) -> None:
        if self.seen_dir is not None:
            torch.save(self.probs, Path(self.seen_dir, f"probs-{self.global_rank}.pt"))


class Witness(pl.Callback):
    """What the network says in eval mode of some samples, by a forward of the test's own, after every update."""

    def __init__(self, samples) -> None:
        self.samples, self.seen = samples, {}

    def _note(self, trainer, module) -> None:
        probe = nn.Sequential(module.norm, module.net)
        x = points(20).tensors[0][self.samples][:, 1:]
        with torch.random.fork_rng(), torch.no_grad():
            modes = [part.training for part in module.modules()]
            probe.eval()
            self.seen[trainer.global_step] = probe(x).softmax(dim=1)
            for part, mode in zip(module.modules(), modes, strict=True):
                part.training = mode

    def on_train_start(self, trainer, pl_module) -> None:
        self._note(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self._note(trainer, pl_module)


def fit(path, *, model=None, train=None, ckpt=None, extra=(), **options):
    pl.seed_everything(3, verbose=False)
    model = Noted() if model is None else model
    trainer = make_trainer(callbacks=[*([path] if path else []), *extra], **options)
    train = loader(20, shuffle=True) if train is None else train
    trainer.fit(model, train, ckpt_path=ckpt, weights_only=True)
    return model


def rows_of(paths):
    """(epoch, step, index, probs), sorted."""
    rows = []
    for time, place in zip(*np.nonzero(paths.recorded), strict=True):
        moment = int(paths.epochs[time]), int(paths.sample_steps[time, place]), int(paths.index[place])
        rows.append((*moment, paths.path[time, place].tolist()))
    return sorted(rows)


def noted(model, chosen=CHOSEN, epochs=None):
    return sorted(
        (epoch, step, index, [float(np.float32(value)) for value in probs])
        for epoch, step, index, probs in model.probs
        if index in chosen and (epochs is None or epoch in epochs)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_visits_are_what_the_training_forward_predicted(workers):
    model = fit(LearningPath(CHOSEN, dirpath="run"), train=loader(20, shuffle=True, num_workers=workers))
    paths = read_paths("run")
    assert paths.mode == "visits"
    assert paths.path.shape == (3, 4, 3)
    assert paths.index.tolist() == CHOSEN
    assert paths.target.tolist() == points(20).tensors[1][CHOSEN].tolist()
    assert rows_of(paths) == noted(model)
    np.testing.assert_allclose(paths.path.sum(axis=2), 1, atol=1e-6)


def test_visits_of_every_second_epoch():
    model = fit(LearningPath(CHOSEN, dirpath="run", every_n_epochs=2))
    assert rows_of(read_paths("run")) == noted(model, epochs=(0, 2))


def test_visits_of_a_sampler_that_repeats_itself():
    sampler = WeightedRandomSampler([1.0] * 3 + [9.0] + [1.0] * 16, 40)
    model = fit(LearningPath([3, 5], dirpath="run"), train=loader(20, sampler=sampler))
    paths = read_paths("run")
    assert rows_of(paths) == noted(model, [3, 5])
    assert len(paths.path) > 3


def test_gradients_that_accumulate_and_batches_that_are_left_out():
    model = fit(LearningPath(CHOSEN, dirpath="run"), accumulate_grad_batches=2, limit_train_batches=3)
    assert rows_of(read_paths("run")) == noted(model)
    steps = {row[1] for row in model.probs}
    fit(LearningPath(CHOSEN, passes="eval", every_n_steps=1, dirpath="eval"), accumulate_grad_batches=2)
    assert read_paths("eval").steps.tolist() == list(range(10))
    assert max(steps) == 5


@pytest.mark.parametrize(("every", "expected"), [({"every_n_steps": 1}, range(16)), ({}, [0, 5, 10, 15])])
def test_clean_passes_equal_forwards_of_our_own(every, expected):
    witness = Witness(CHOSEN)
    fit(LearningPath(CHOSEN, passes="eval", dirpath="run", **every), extra=[witness])
    paths = read_paths("run")
    assert paths.mode == "eval"
    assert paths.steps.tolist() == list(expected)
    assert paths.recorded.all()
    expected_path = torch.stack([witness.seen[step] for step in expected])
    torch.testing.assert_close(torch.from_numpy(paths.path), expected_path)
    assert paths.target.tolist() == points(20).tensors[1][CHOSEN].tolist()


class Twice(torch.optim.SGD):
    """Evaluates its closure twice for a step."""

    def step(self, closure=None):
        closure()
        return super().step(closure)


class ClosesTwice(Noted):
    def configure_optimizers(self):
        return Twice(self.parameters(), lr=0.1)


class TwoOptimizers(Noted):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.parameters(), lr=0.1)]


@pytest.mark.parametrize("kind", [ClosesTwice, TwoOptimizers])
def test_a_step_that_runs_several_forwards_is_one_visit(kind):
    model = fit(LearningPath(CHOSEN, dirpath="run"), model=kind(), max_epochs=2)
    paths = read_paths("run")
    assert paths.path.shape == (2, 4, 3)
    everything = [(row[0], row[2], [float(np.float32(value)) for value in row[3]]) for row in model.probs]
    assert all((row[0], row[2], row[3]) in everything for row in rows_of(paths))
    fit(LearningPath(CHOSEN, passes="eval", every_n_steps=3, dirpath="eval"), model=kind(), max_epochs=2)
    assert len(read_paths("eval").steps) >= 4


@pytest.mark.parametrize(
    "options",
    [
        {"passes": "eval", "every_n_steps": 1},
        {"passes": "eval", "every_n_steps": 2, "every_n_epochs": 1, "k": 3},
        {"k": 3},
        {"passes": "train"},
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_training_is_bit_for_bit_the_same(options, workers):
    samples = None if "k" in options else CHOSEN

    def outcome(path):
        model = fit(path, model=Noted(noise=True), train=loader(20, shuffle=True, num_workers=workers), max_epochs=2)
        return dict(model.state_dict()), model.trainer.optimizers[0].state_dict()["state"], random_states()

    assert_same(outcome(LearningPath(samples, dirpath="run", **options)), outcome(None))
    assert read_paths("run").recorded.any()


class Augmented(TensorDataset):
    """Adds noise of all three generators to its inputs."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        noise = torch.rand(5) + random.random() + float(np.random.rand())  # noqa: NPY002
        return torch.cat([x[:1], x[1:] + noise[1:]]), y


def test_a_random_view_is_drawn_once():
    """At a learning rate of 0 all that could change is the view."""

    class Still(Noted):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def on_train_epoch_start(self):
            self.norm.eval()

    data = Augmented(*points(20).tensors)
    paths = []
    for seed in range(2):
        path = LearningPath(CHOSEN, passes="eval", dirpath=f"run-{seed}")
        fit(path, model=Still(), train=DataLoader(data, 4, shuffle=bool(seed)))
        paths.append(read_paths(f"run-{seed}").path)
    assert (paths[0] == paths[0][:1]).all()
    np.testing.assert_array_equal(*paths)


def test_what_changes_its_input_in_place_gets_a_copy():
    class InPlace(Noted):
        def forward(self, x):
            x[:, 1:] *= 2
            return super().forward(x)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def on_train_epoch_start(self):
            self.norm.eval()

    fit(LearningPath(CHOSEN, passes="eval", dirpath="run"), model=InPlace())
    path = read_paths("run").path
    assert (path == path[:1]).all()


# -- chosen samples -------------------------------------------------------------------------------------


def best_by_loop(table, targets, epochs, k):
    """The k samples of the highest zig-zag after some epochs, by plain loops."""
    q = table.softmax(dim=2)
    scores = []
    for n in range(table.shape[1]):
        others = [sum(float(q[t, n, i]) for t in range(epochs)) for i in range(3) if i != targets[n]]
        scores.append((-max(others), n))
    return sorted(n for _, n in sorted(scores)[:k])


def test_the_highest_zigzags_so_far_are_recorded_from_then_on():
    table, targets = some_logits(4, 20), points(20).tensors[1].tolist()
    fit(LearningPath(k=3, dirpath="run"), model=Lookup(table), max_epochs=4)
    paths = read_paths("run")
    for epoch in range(1, 4):
        there = paths.recorded[paths.epochs == epoch].any(axis=0)
        assert paths.index[there].tolist() == best_by_loop(table, targets, epoch, 3)
        for sample in paths.index[there]:
            at = paths.of(sample)[1][paths.epochs[paths.recorded[:, paths.index == sample][:, 0]] == epoch]
            torch.testing.assert_close(torch.from_numpy(at[0]), table[epoch, sample].softmax(dim=0))
    assert 0 not in paths.epochs


class Toy(TensorDataset):
    def true_distribution(self, index):
        return torch.tensor([0.5, 0.3, 0.2]) if index % 5 else torch.tensor([0.01, 0.01, 0.98])


def test_the_most_difficult_are_recorded_from_the_start():
    data = Toy(*points(20).tensors)
    labels = data.tensors[1].tolist()
    distance = [
        sum((float(i == labels[n]) - float(data.true_distribution(n)[i])) ** 2 for i in range(3)) for n in range(20)
    ]
    expected = sorted(sorted(range(20), key=lambda n: (-round(distance[n], 6), n))[:4])
    path = LearningPath(k=4, select="difficulty", dirpath="run", passes="eval")
    fit(path, train=DataLoader(data, 4))
    assert read_paths("run").index.tolist() == expected == path.samples
    assert read_paths("run").steps[0] == 0


def test_difficulty_needs_a_true_distribution():
    with pytest.raises(ValueError, match="true_distribution"):
        fit(LearningPath(k=4, select="difficulty", dirpath="run"))


# -- size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"passes": "eval"}, {"passes": "eval", "every_n_steps": 1}])
def test_files_are_no_larger_than_said(options, monkeypatch):
    said = []
    monkeypatch.setattr("lightning_flip.callbacks.paths._budget.rank_zero_info", said.append)
    fit(LearningPath(CHOSEN, dirpath="run", **options))
    size = sum(path.stat().st_size for path in list_parts("run/paths").values())
    from lightning_flip.stores.paths import path_bytes

    rows = int(read_paths("run").recorded.sum())
    assert len(said) == 1
    times = rows // 4
    assert f"4 samples x 3 classes x {times} times" in said[0]
    assert size <= path_bytes(4, 3, times, files=len(list_parts("run/paths")))


@pytest.mark.parametrize(
    ("options", "less_often"),
    [
        ({}, {"every_n_epochs": 10}),
        ({"passes": "eval", "every_n_steps": 1}, {"every_n_steps": 20}),
        ({"passes": "eval"}, {"every_n_epochs": 10}),
        ({"k": 5}, {"every_n_epochs": 10}),
    ],
)
def test_too_much_is_refused_before_the_first_update(options, less_often):
    """And the option that the error names makes it fit."""
    limit = {"max_epochs": 20, "limit_train_batches": 2}
    model, samples = Noted(), None if "k" in options else CHOSEN
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    with pytest.raises(ValueError, match=rf"up to \d+ bytes .* max_bytes=30000.* \({next(iter(less_often))}=\)"):
        fit(LearningPath(samples, dirpath="run", max_bytes=30_000, **options), model=model, **limit)
    assert_same(dict(model.net.state_dict()), before)
    fit(LearningPath(samples, dirpath="run", max_bytes=30_000, **{**options, **less_often}), **limit)
    assert sum(path.stat().st_size for path in list_parts("run/paths").values()) <= 30_000


def test_a_run_of_unknown_length_stops_at_the_limit():
    path = LearningPath(CHOSEN, dirpath="run", max_bytes=4 * 40 * 3)
    with pytest.warns(UserWarning, match="records no more"):
        fit(path, max_epochs=-1, max_time={"seconds": 1})
    assert len(read_paths("run").steps) == 3


# -- what may go wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "either samples="),
        ({"samples": [1], "k": 2}, "either samples="),
        ({"samples": [1, 1]}, "different indices"),
        ({"samples": []}, "different indices"),
        ({"samples": [-1]}, "different indices"),
        ({"k": 0}, "at least 1"),
        ({"k": 1, "select": "random"}, "select must be"),
        ({"k": 1, "passes": "test"}, "passes must be"),
        ({"k": 1, "every_n_steps": 3}, 'for passes="eval"'),
        ({"k": 1, "every_n_epochs": 0}, "every_n_epochs must be at least 1"),
        ({"k": 1, "passes": "eval", "index_from": "id"}, 'Use passes="train"'),
    ],
)
def test_options_out_of_range(options, text):
    with pytest.raises(ValueError, match=text):
        LearningPath(**options)


def test_a_sample_that_is_not_there():
    with pytest.raises(ValueError, match="names 20, and there are 20 training samples"):
        fit(LearningPath([3, 20], dirpath="run"))


def test_nothing_is_left_of_a_fast_dev_run_and_of_a_sanity_check():
    fit(LearningPath(CHOSEN, dirpath="run"), fast_dev_run=True)
    assert not Path("run").exists()
    trainer = make_trainer(callbacks=[LearningPath(CHOSEN, dirpath="run", passes="eval")], max_epochs=1)
    model = Noted()
    trainer.fit(model, loader(20), loader(6, seed=1))
    assert read_paths("run").steps.tolist() == [0, 5]


def test_another_run_is_refused_and_replaced():
    fit(LearningPath(CHOSEN, dirpath="run"))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fit(LearningPath(CHOSEN, dirpath="run"))
    fit(LearningPath(CHOSEN, dirpath="run", overwrite=True), max_epochs=1)
    assert read_paths("run").epochs.tolist() == [0]


def test_two_recordings_of_one_trainer():
    extra = [LearningPath(CHOSEN, passes="eval", dirpath="run", name="clean"), FlipTracker(train=True)]
    model = fit(LearningPath(CHOSEN, dirpath="run"), extra=extra)
    assert rows_of(read_paths("run")) == noted(model)
    assert read_paths("run/paths/clean").steps.tolist() == [0, 5, 10, 15]


# -- resumption -----------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


class Kill(pl.Callback):
    def __init__(self, after) -> None:
        self.after = after

    def on_train_batch_start(self, trainer, *args) -> None:
        if trainer.global_step == self.after:
            raise KilledError


def attempt(options, kill=None, ckpt=None, folder="run"):
    saver = ModelCheckpoint(f"{folder}/saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    path = LearningPath(dirpath=folder, **options)
    pl.seed_everything(3, verbose=False)  # a stateful loader draws when it is made
    train = StatefulDataLoader(points(20), batch_size=4, shuffle=True)
    extra = [ExactResume(), saver, *([Kill(kill)] if kill else [])]
    model = fit(path, model=Noted(noise=True), train=train, ckpt=ckpt, extra=extra)
    return rows_of(read_paths(folder)), dict(model.state_dict())


@pytest.mark.parametrize("after", [3, 8, 12])
@pytest.mark.parametrize(
    "options",
    [
        {"samples": CHOSEN},
        {"k": 3},
        {"samples": CHOSEN, "passes": "eval", "every_n_steps": 2},
        {"k": 2, "passes": "eval", "every_n_steps": 2, "every_n_epochs": 1},
    ],
)
def test_resumed_is_uninterrupted(options, after):
    whole = attempt(options, folder="whole")
    with pytest.raises(KilledError):
        attempt(options, kill=after)
    assert_same(attempt(options, ckpt=f"run/saved/step={after}.ckpt"), whole)


def test_newer_parts_are_set_aside():
    with pytest.raises(KilledError):
        attempt({"samples": CHOSEN}, kill=13)
    assert rows_of(read_paths("run"))[-1][0] == 2  # what the exception flushed can be read
    with pytest.warns(UserWarning, match="2 parts newer than the checkpoint"):
        attempt({"samples": CHOSEN}, ckpt="run/saved/step=6.ckpt")
    assert len(list(Path("run").rglob("*.orphan"))) == 2


def test_after_the_last_batch_of_an_epoch_its_rows_and_its_pass_are_there():
    """Lightning never runs that epoch's end hooks."""
    for passes in ("train", "eval"):
        saver = ModelCheckpoint(f"{passes}/saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
        with pytest.raises(KilledError):
            fit(LearningPath(CHOSEN, dirpath=passes, passes=passes), extra=[saver, Kill(5)])
        ckpt = f"{passes}/saved/step=5.ckpt"
        model = fit(LearningPath(CHOSEN, dirpath=passes, passes=passes), ckpt=ckpt, extra=[saver])
        paths = read_paths(passes)
        if passes == "train":
            assert rows_of(paths) == noted(model)
        else:
            assert paths.steps.tolist() == [0, 5, 10, 15]
            assert paths.recorded.all()


# -- ranks ----------------------------------------------------------------------------------------------


def on_ranks(world, folder, options):
    pl.seed_everything(3, verbose=False)
    save = ModelCheckpoint(f"{folder}/saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    strategy = "ddp" if world > 1 else "auto"
    path = LearningPath(dirpath=folder, **options)
    trainer = make_trainer(devices=world, strategy=strategy, callbacks=[path, save])
    model = Lookup(some_logits(3, 17)) if "k" in options else Noted(seen_dir=str(folder))
    count = 17 if "k" in options else 20  # 17: one rank gets a sample twice, as padding
    with contextlib.suppress(InterruptedError):
        trainer.fit(model, loader(count, 4 // world, shuffle=True))


@pytest.mark.parametrize("options", [{"samples": CHOSEN}, {"k": 3}])
def test_two_ranks_record_every_chosen_sample_once(options):
    assert run_ranks(2, on_ranks, 2, "two", options) == [0, 0]
    two = read_paths("two")
    if "k" in options:
        on_ranks(1, "one", options)
        one = read_paths("one")
        assert_same(*[sorted((epoch, *row) for epoch, _, *row in rows_of(paths)) for paths in (one, two)])
        return
    assert two.path.shape == (3, 4, 3)
    assert two.recorded.all()
    seen = [row for rank in range(2) for row in torch.load(f"two/probs-{rank}.pt", weights_only=True)]
    known = {(*row[:3], tuple(float(np.float32(value)) for value in row[3])) for row in seen}
    assert {(*row[:3], tuple(row[3])) for row in rows_of(two)} <= known
    state = torch.load("two/saved/step=4.ckpt", weights_only=True)["callbacks"]
    rows = state["LearningPath{'train': True, 'val': False, 'name': ''}"]["recording"]["rows"]["integers"]
    expected = {row[2] for row in seen if row[0] == 0 and row[1] < 4 and row[2] in CHOSEN}
    assert set(rows[:, 0].tolist()) == expected


def all_of_seventeen(folder):
    trainer = make_trainer(devices=2, strategy="ddp", callbacks=[LearningPath(range(17), dirpath=folder)])
    trainer.fit(Lookup(some_logits(3, 17)), loader(17, 2, shuffle=True))


def test_a_sample_that_pads_a_rank_is_visited_once():
    assert run_ranks(2, all_of_seventeen, "two") == [0, 0]
    visits = sorted((epoch, index) for epoch, _, index, _ in rows_of(read_paths("two")))
    assert visits == [(epoch, index) for epoch in range(3) for index in range(17)]


def test_passes_on_two_ranks_are_rank_0s():
    options = {"samples": CHOSEN, "passes": "eval", "every_n_steps": 2}
    assert run_ranks(2, on_ranks, 2, "two", options) == [0, 0]
    paths = read_paths("two")
    assert paths.recorded.all()
    assert paths.steps.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert {key.rank for key in list_parts("two/paths")} == {0}


@pytest.mark.parametrize("options", [{"max_bytes": 100}, {"max_bytes": 100, "passes": "eval"}])
def test_a_refusal_ends_both_ranks(options):
    codes = run_ranks(2, on_ranks, 2, "two", {"samples": CHOSEN, **options}, seconds=40)
    assert None not in codes
    assert 0 not in codes


# -- what a step costs --------------------------------------------------------------------------------------


def test_a_step_is_built_once_to_learn_the_number_of_classes(monkeypatch):
    built = []
    original = RunningStep._build
    monkeypatch.setattr(RunningStep, "_build", lambda self, source: built.append(1) or original(self, source))
    data = TensorDataset(torch.rand(40, 5), torch.arange(40) % 3)
    module = Classifier(network=MLP(5, 3), num_classes=3)
    make_trainer(max_epochs=3, callbacks=[LearningPath([3], dirpath="a")]).fit(module, DataLoader(data, 8))
    assert len(built) == 1
    assert read_paths("a").path.shape == (3, 1, 3)


def block_of(index, target, logits, times):
    return SampleStep(torch.tensor(index), logits, target, samples=index, global_step=torch.tensor(times))


def test_rows_of_blocks_keep_their_order():
    generator = torch.Generator().manual_seed(0)
    rows, expected = PathRows(), []
    for n in range(50):  # blocks of different sizes, with a pass in between
        logits = torch.randn(4 + n % 3, 3, generator=generator)
        target = torch.randint(3, (len(logits),), generator=generator)
        chosen = [row for row in range(len(logits)) if (n + row) % 3] if n != 9 else list(range(len(logits)))
        probs = np.exp(logits.double().numpy())
        probs /= probs.sum(axis=1, keepdims=True)
        times = [n + row // 2 if n != 9 else n for row in range(len(logits))]
        expected += [(100 * n + row, times[row], int(target[row]), probs[row]) for row in chosen]
        index = [100 * n + row for row in range(len(logits))]
        if n == 9:
            rows.add(
                index=torch.tensor(index),
                global_step=torch.full((len(index),), n),
                target=target,
                probs=logits.softmax(dim=1),
            )
        else:
            rows.add_visits(block_of(index, target, logits, times), chosen)
            logits.fill_(7), target.fill_(7)  # the block's memory is used again
        assert len(rows) == len(expected)
    again = PathRows.from_state(rows.state_dict(None))
    index, step, labels, probs = zip(*expected, strict=True)
    for found in (rows.columns(), again.columns()):
        assert found["index"].tolist() == list(index)
        assert found["global_step"].tolist() == list(step)
        assert found["target"].tolist() == list(labels)
        np.testing.assert_allclose(found["probs"], np.stack(probs), rtol=1e-5)


@pytest.mark.parametrize(("value", "label"), [(float("nan"), 1), (float("inf"), 1), (0.0, 3), (0.0, -2)])
def test_rows_are_checked_before_they_are_written(value, label):
    rows = PathRows()
    bad = torch.tensor([[0.0, 0.0, 0.0], [0.0, torch.nan, 0.0]])
    rows.add_visits(block_of([4, 5], torch.tensor([0, 5]), bad, [0, 0]), [0])
    rows.check()
    rows.add_visits(block_of([7], torch.tensor([label]), torch.tensor([[0.0, value, 0.0]]), [2]), [0])
    with pytest.raises(ValueError, match="sample 7 after 2 updates"):
        rows.check()
