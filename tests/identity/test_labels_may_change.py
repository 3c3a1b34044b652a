"""labels="may_change" against plain loops over what the module itself noted: each visit has its own label."""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_flip.callbacks import ExactResume, FlipTracker, PredictionHistory
from lightning_flip.steps import ChangedDataError
from lightning_flip.stores import read_history, read_samples
from lightning_flip.stores.history.parts import list_parts
from lightning_flip.tables import VisitStatistics
from tests.callbacks.helpers import (
    CLASSES,
    MEASURES,
    ROW,
    Lookup,
    Memory,
    Robust,
    Watched,
    expected_rows,
    loader,
    make_trainer,
    points,
    run_ranks,
    some_logits,
)
from tests.identity.helpers import FOLLOWERS, KINDS, Listed, Reloading, Unlisted, follower, some_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
    pytest.mark.filterwarnings("ignore:this run began with a schedule of"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path."),
    pytest.mark.filterwarnings("ignore:the transition has a condition number"),
]
TRAIN, VAL, EPOCHS, CHANGE = 24, 12, 5, 2
RATES = ("flipping_error", "relative_flipping_error", "flips_to_wrong", "flips_to_right", "churn", "coverage")


class Change(pl.Callback):
    """From epoch 2 on, the labels of every third sample are others."""

    def __init__(self, *datasets):
        self.datasets = datasets

    def on_train_epoch_start(self, trainer, pl_module):
        for dataset in self.datasets:
            change(dataset, trainer.current_epoch)


def change(dataset, epoch):
    labels = dataset.tensors[1] if isinstance(dataset, TensorDataset) else dataset.answers
    if not hasattr(dataset, "first"):
        dataset.first = labels.clone()
    where = torch.arange(len(labels)) % 3 == 0
    labels.copy_(torch.where(where & (epoch >= CHANGE), (dataset.first + 1) % CLASSES, dataset.first))


class Oracle:
    """What a loop over a module's notes says of a split, pass by pass.

    Args:
        seen: rows of `Watched.note`, of all ranks, in the order of time.
        split: "train" or "val".
        count: number of samples.
    """

    def __init__(self, seen, split, count):
        rows = [row for row in seen if row[0] == split]
        passes = sorted({(row[2], row[3]) for row in rows})
        self.count = count
        self.changed = 0
        self.visits, self.times_right, self.forgotten = (np.zeros(count, int) for _ in range(3))
        self.first_learned, self.last_pred = np.full(count, -1), np.full(count, -1)
        self.last_right = np.zeros(count, bool)
        self.matrix, self.learned_by = [], []
        self.rates = {name: [] for name in RATES}
        self.epoch_learned = [None] * count
        margins, probs = [[] for _ in range(count)], [[] for _ in range(count)]
        labels = {}
        for number, moment in enumerate(passes):
            counts = dict.fromkeys(("seen", "known", "wrong", "flipped", "to_wrong", "to_right", "changed"), 0)
            for row in (row for row in rows if (row[2], row[3]) == moment):
                index, pred, prob, margin, label = row[5], row[6], row[7], row[9], row[11]
                self.changed += labels.setdefault(index, label) != label
                right, was_right, known = pred == label, self.last_right[index], self.visits[index] > 0
                counts["seen"] += 1
                counts["known"] += known
                counts["wrong"] += not right
                counts["flipped"] += not right and 0 <= self.first_learned[index] < number
                counts["to_wrong"] += known and was_right and not right
                counts["to_right"] += known and not was_right and right
                counts["changed"] += known and pred != self.last_pred[index]
                self.visits[index] += 1
                self.times_right[index] += right
                self.forgotten[index] += known and was_right and not right
                if right and self.first_learned[index] < 0:
                    self.first_learned[index] = number  # of the pass: a resumed run may lack the one of an epoch
                    self.epoch_learned[index] = moment[0]
                self.last_right[index], self.last_pred[index] = right, pred
                margins[index].append(margin)
                probs[index].append(prob)
            self.matrix.append(self.last_right.copy())
            self.learned_by.append(self.first_learned >= 0)
            for name, part, whole in (
                ("flipping_error", "flipped", "seen"),
                ("relative_flipping_error", "flipped", "wrong"),
                ("flips_to_wrong", "to_wrong", "known"),
                ("flips_to_right", "to_right", "known"),
                ("churn", "changed", "known"),
            ):
                self.rates[name].append(counts[part] / counts[whole] if counts[whole] else 0.0)
            self.rates["coverage"].append(counts["seen"] / count)
        self.aum = np.array([np.mean(values) if values else np.nan for values in margins])
        self.confidence = np.array([np.mean(values) if values else np.nan for values in probs])


def assert_tracked(statistics, oracle):
    for name in ("visits", "times_right", "first_learned", "last_pred", "last_right"):
        assert getattr(statistics, name).tolist() == getattr(oracle, name).tolist(), name
    assert statistics.forgetting_events.tolist() == oracle.forgotten.tolist()
    np.testing.assert_allclose(statistics.aum.numpy(), oracle.aum, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.confidence.numpy(), oracle.confidence, rtol=1e-5, atol=1e-6)


def assert_recorded(folder, split, oracle, seen):
    history = read_history(folder)
    table = history.to_arrow(split)
    assert set(ROW) <= set(table.column_names)
    for name in set(MEASURES) - {"best_other"}:
        assert table.schema.field(name).type == "float"
    stored = sorted(zip(*(table[name].to_pylist() for name in ROW), strict=True))
    assert stored == expected_rows(seen, split)  # the label of every visit is its last column
    assert history.correct_matrix(split).tolist() == np.array(oracle.matrix).tolist()
    statistics = history.statistics(split)
    assert statistics["index"].to_pylist() == list(range(oracle.count))
    for name, expected in (
        ("visits", oracle.visits),
        ("times_right", oracle.times_right),
        ("forgetting_events", oracle.forgotten),
        ("last_right", oracle.last_right),
    ):
        assert statistics[name].to_pylist() == expected.tolist(), name
    assert statistics["first_learned"].to_pylist() == oracle.epoch_learned
    np.testing.assert_allclose(statistics["aum"].to_numpy(), oracle.aum, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics["confidence"].to_numpy(), oracle.confidence, rtol=1e-5, atol=1e-6)


def assert_logged(memory, split, oracle):
    for name in RATES:
        logged = memory.values(f"{split}_{name}")
        assert logged, name
        assert logged == [float(np.float32(value)) for value in oracle.rates[name][-len(logged) :]], name


def make_data(kind):
    """Training and validation data, neither of which has changed yet."""
    if kind == "tensors":
        return points(TRAIN), points(VAL, 1)
    return KINDS[kind](TRAIN), KINDS[kind](VAL, 1)


def train(data, val, *, model=None, ckpt=None, callbacks=(), epochs=EPOCHS, make=DataLoader, options=None, **more):
    options = {"labels": "may_change"} if options is None else options
    tracker, memory = FlipTracker(train=True, **options), Memory()
    recorders = [Change(data, val), PredictionHistory("run", **options), tracker, *callbacks]
    trainer = make_trainer(max_epochs=epochs, logger=memory, callbacks=recorders, **more)
    model = model or Robust(**options)
    loaders = make(data, batch_size=4, shuffle=True), DataLoader(val, batch_size=4)
    trainer.fit(model, *loaders, ckpt_path=ckpt, weights_only=True)
    return model, tracker, memory


def assert_all(model, tracker, memory):
    for split, count in (("train", TRAIN), ("val", VAL)):
        oracle = Oracle(model.seen, split, count)
        assert oracle.changed
        assert_tracked(tracker.statistics[split, 0], oracle)
        assert_recorded("run", split, oracle, model.seen)
        assert_logged(memory, split, oracle)
    oracle = Oracle(model.seen, "train", TRAIN)
    assert oracle.forgotten.sum() > 0
    assert max(oracle.rates["flipping_error"]) > 0
    # The loss's table: rows of samples that were right by the label of the visit, up to the epoch before the last.
    table = model._term_loop.tables["behavior"]
    assert table.seen(torch.arange(TRAIN)).tolist() == oracle.learned_by[-2].tolist()


# -- one process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tensors", "listed", "unlisted"])
def test_labels_that_change_in_epoch_two(kind):
    pl.seed_everything(3, verbose=False)
    data, val = make_data(kind)
    assert_all(*train(data, val))
    targets = {}
    for row in read_history("run").to_arrow("train").to_pylist():
        targets.setdefault(row["index"], []).append((row["epoch"], row["target"]))
    for index, visits in targets.items():
        labels = [label for _, label in sorted(visits)]
        assert (len(set(labels[:CHANGE])), len(set(labels[CHANGE:]))) == (1, 1)
        assert (labels[0] != labels[-1]) == (index % 3 == 0)


def test_the_oracle_holds_for_labels_that_stay():
    """And fixed labels are recorded as before."""
    pl.seed_everything(3, verbose=False)
    data, val = points(TRAIN), points(VAL, 1)
    tracker, memory, model = FlipTracker(train=True), Memory(), Watched()
    trainer = make_trainer(max_epochs=3, logger=memory, callbacks=[PredictionHistory("run"), tracker])
    trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), DataLoader(val, batch_size=4))
    for split, count in (("train", TRAIN), ("val", VAL)):
        oracle = Oracle(model.seen, split, count)
        assert oracle.changed == 0
        assert_tracked(tracker.statistics[split, 0], oracle)
        assert_recorded("run", split, oracle, model.seen)
        assert_logged(memory, split, oracle)


def test_only_parts_of_labels_that_may_change_have_a_column_of_labels():
    for name, options in (("fixed", {}), ("changing", {"labels": "may_change"})):
        make_trainer(max_epochs=1, callbacks=[PredictionHistory(name, **options)]).fit(
            Watched(), loader(8), loader(6, seed=1)
        )
    for name, expected in (("fixed", False), ("changing", True)):
        for path in list_parts(name).values():
            assert ("target" in pq.read_schema(path).names) == expected


def test_a_label_of_its_own_for_every_draw_of_an_epoch():
    """A sample that a sampler draws several times, even in one batch, has as many labels."""

    class Whimsical(Unlisted):
        reads = 0

        def __getitem__(self, index):
            x, _ = super().__getitem__(index)
            self.reads += 1
            return x, torch.tensor(self.reads * self.reads % CLASSES)

    pl.seed_everything(3, verbose=False)
    tracker, model = FlipTracker(train=True, val=False, labels="may_change"), Watched()
    data = DataLoader(Whimsical(6), batch_size=3, sampler=[0, 0, 1, 2, 0, 4, 3, 3, 3])
    recorder = PredictionHistory("run", val=False, labels="may_change")
    make_trainer(max_epochs=3, callbacks=[recorder, tracker]).fit(model, data, loader(6, seed=1))
    table = read_history("run").to_arrow("train")
    stored = sorted(zip(*(table[name].to_pylist() for name in ROW), strict=True))
    assert stored == expected_rows(model.seen, "train")
    assert table["target"].to_pylist().count(2) < table.num_rows
    right = np.zeros(6, int)
    for row in model.seen:
        if row[0] == "train":
            right[row[5]] += row[6] == row[11]
    assert tracker.statistics["train", 0].times_right.tolist() == right.tolist()
    assert tracker.statistics["train", 0].visits.tolist() == [9, 3, 3, 9, 3, 0]
    assert read_history("run").statistics("train")["times_right"].to_pylist() == right.tolist()


def test_a_prediction_that_stays_flips_when_its_label_changes():
    """Looked-up logits that never change: no churn, and flips exactly where labels changed."""
    logits = some_logits(1, VAL, 1).repeat(EPOCHS + 1, 1, 1)
    val, memory = points(VAL, 1), Memory()
    trainer = make_trainer(
        max_epochs=EPOCHS,
        logger=memory,
        num_sanity_val_steps=0,
        callbacks=[Change(val), FlipTracker(labels="may_change")],
    )
    trainer.fit(Lookup(some_logits(EPOCHS, 8), logits), loader(8), DataLoader(val, batch_size=4))
    pred, before = logits[0].argmax(dim=1), val.first
    after = val.tensors[1]
    to_wrong = ((pred == before) & (pred != after)).float().mean()
    to_right = ((pred != before) & (pred == after)).float().mean()
    assert to_wrong > 0
    assert to_right > 0
    assert memory.values("val_churn") == [0.0] * EPOCHS
    assert memory.values("val_flips_to_wrong") == [0.0, 0.0, float(to_wrong), 0.0, 0.0]
    assert memory.values("val_flips_to_right") == [0.0, 0.0, float(to_right), 0.0, 0.0]
    assert memory.values("val_flipping_error") == [0.0, 0.0, *[float(to_wrong)] * 3]


@pytest.mark.parametrize("name", FOLLOWERS)
def test_everything_that_follows_takes_labels_that_change(name):
    data = Listed(TRAIN)
    model, callbacks = follower(name, labels="may_change")
    trainer = make_trainer(callbacks=[Change(data), *callbacks])
    trainer.fit(model, DataLoader(data, batch_size=4, shuffle=True), loader(6, seed=1))
    assert Oracle(model.seen, "train", TRAIN).changed


@pytest.mark.parametrize("name", FOLLOWERS)
def test_an_unknown_choice_is_refused(name):
    with pytest.raises(ValueError, match="may_change"):
        follower(name, labels="changing")


def test_other_data_is_refused_though_labels_may_change():
    """Only labels may: positions may not."""
    data = Unlisted(40)
    trainer = make_trainer(
        callbacks=[FlipTracker(train=True, labels="may_change")], reload_dataloaders_every_n_epochs=1
    )
    with pytest.raises(ChangedDataError, match="train"):
        trainer.fit(Watched(), datamodule=Reloading(lambda epoch: some_of(data, 16, seed=epoch)))


# -- resumed --------------------------------------------------------------------------------------------------


class StopError(Exception):
    """Stands for whatever ends a process."""


class Stop(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise StopError


@pytest.mark.parametrize("kind", ["tensors", "unlisted"])
@pytest.mark.parametrize("step", [12, 15, 18, 21], ids=["before", "amid", "after", "later"])
def test_a_resumed_run_is_judged_as_one(kind, step):
    """Six steps an epoch: saved before the epoch of the change, amid it, after it, amid the next one."""
    pl.seed_everything(3, verbose=False)
    save = ModelCheckpoint("saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    with pytest.raises(StopError):
        train(*make_data(kind), callbacks=[ExactResume(), save, Stop(step)], make=StatefulDataLoader)
    data, val = make_data(kind)  # as the program makes them anew: with the first labels
    ckpt = f"saved/step={step}.ckpt"
    again = train(data, val, ckpt=ckpt, callbacks=[ExactResume(), ModelCheckpoint("saved")], make=StatefulDataLoader)
    assert_all(*again)


def test_a_run_is_resumed_on_data_that_has_the_new_labels_from_the_start():
    pl.seed_everything(3, verbose=False)
    save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
    train(*make_data("listed"), callbacks=[save], epochs=3)
    data, val = make_data("listed")
    for dataset in (data, val):
        change(dataset, CHANGE)
    assert_all(*train(data, val, ckpt="saved/epoch=2.ckpt", callbacks=[ModelCheckpoint("saved")]))


# -- ranks ----------------------------------------------------------------------------------------------------


def on_a_rank(folder):
    pl.seed_everything(3, verbose=False)
    data, val = make_data("unlisted")
    rank = int(os.environ["LOCAL_RANK"])
    model, tracker, memory = train(data, val, strategy="ddp", devices=2)
    statistics = {key: stats.state_dict() for key, stats in tracker.statistics.items()}
    seen = model._term_loop.tables["behavior"].seen(torch.arange(TRAIN))
    torch.save((model.seen, statistics, memory.logged, seen), Path(folder, f"rank-{rank}.pt"))


def test_two_ranks_are_judged_as_one():
    assert run_ranks(2, on_a_rank, str(Path.cwd())) == [0, 0]
    ranks = [torch.load(f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    seen = ranks[0][0] + ranks[1][0]
    memory = Memory()
    memory.logged = ranks[0][2]
    for split, count in (("train", TRAIN), ("val", VAL)):
        oracle = Oracle(seen, split, count)
        assert oracle.changed
        assert oracle.visits.tolist() == [EPOCHS] * count
        for _, statistics, _, _ in ranks:
            merged = VisitStatistics(count)
            merged.load_state_dict(statistics[split, 0])
            assert_tracked(merged, oracle)
        assert_recorded("run", split, oracle, seen)
        assert_logged(memory, split, oracle)
    oracle = Oracle(seen, "train", TRAIN)
    for *_, known in ranks:
        assert known.tolist() == oracle.learned_by[-2].tolist()
    assert read_samples("run").num_rows == TRAIN + VAL
