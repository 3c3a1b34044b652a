"""NegativeFlipMonitor logs what numpy counts from two tables of predictions."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Subset

from lightning_flip.callbacks import NegativeFlipMonitor, PredictionWriter
from lightning_flip.cli import training_cli
from lightning_flip.data import ClassSubset
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.models import MLP, Classifier
from lightning_flip.stores import PredictionError, write_predictions
from tests.callbacks.helpers import (
    CLASSES,
    Lookup,
    Memory,
    Watched,
    loader,
    make_trainer,
    points,
    run_ranks,
    some_logits,
)

NAMES = ("negative_flip_rate", "relative_negative_flip_rate", "error")


class Old(nn.Module):
    """Answers sample i with row i of a table; samples have their number as first feature."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x):
        return self.logits[x[:, 0].long()]


def rates(old_pred, new_pred, labels):
    """NFR, relative NFR and error by METHODS, in numpy."""
    old_right, new_right = np.asarray(old_pred) == labels, np.asarray(new_pred) == labels
    negative = np.mean(old_right & ~new_right)
    chance = np.mean(old_right) * np.mean(~new_right)
    return negative, negative / chance if chance else 0.0, np.mean(~new_right)


def assert_logged(memory, prefix, old_pred, new_logits, labels):
    """One value a pass; new_logits: [passes, N, K]."""
    expected = [rates(old_pred, logits.argmax(axis=1), labels) for logits in np.asarray(new_logits)]
    assert max(row[0] for row in expected) > 0
    for place, name in enumerate(NAMES):
        values = memory.values(f"{prefix}_{name}")
        np.testing.assert_allclose(values, [row[place] for row in expected], rtol=1e-6, err_msg=name)


def labels_of(count, seed=0):
    return points(count, seed).tensors[1].numpy()


def old_logits(count, seed=7):
    return some_logits(1, count, seed)[0]


def write_old(path, pred, target, ids=None, **options):
    ids = [str(i) for i in range(len(pred))] if ids is None else ids
    columns = {"index": np.arange(len(pred)), "sample_id": ids, "target": target, "pred": pred}
    return write_predictions(path, {**columns, "confidence": np.full(len(pred), 0.5)}, **options)


def fit(monitor, new, *loaders, train=None, epochs=3, memory=None, **options):
    memory = memory or Memory()
    trainer = make_trainer(max_epochs=epochs, logger=memory, callbacks=[monitor], **options)
    trainer.fit(new, loader(8) if train is None else train, list(loaders) if len(loaders) > 1 else loaders[0])
    return memory


# -- rates --------------------------------------------------------------------------------------------


def test_a_model_on_two_val_loaders_and_training():
    train, first, second = some_logits(3, 13, 1), some_logits(3, 11, 2), some_logits(3, 6, 3)
    old = old_logits(13)
    new = Lookup(train, first, second)
    # The sanity check runs, and is counted nowhere.
    memory = fit(
        NegativeFlipMonitor(Old(old), train=True),
        new,
        loader(11, seed=1),
        loader(6, seed=2),
        train=loader(13, shuffle=True),
    )
    pred = old.argmax(dim=1).numpy()
    assert_logged(memory, "train", pred, train, labels_of(13))
    assert_logged(memory, "val", pred[:11], first, labels_of(11, 1))
    assert_logged(memory, "val_1", pred[:6], second, labels_of(6, 2))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "npz"])
def test_a_file_of_predictions(suffix):
    val, pred, labels = some_logits(3, 11, 2), old_logits(11).argmax(dim=1).numpy(), labels_of(11, 1)
    order = np.random.default_rng(0).permutation(11)
    path = Path(f"old.{suffix}")
    if suffix == "parquet":
        write_old(path, pred[order], labels[order], ids=[str(i) for i in order])
    elif suffix == "csv":
        rows = [f"{i},{labels[i]},{pred[i]}" for i in order]
        path.write_text("sample_id,target,pred\n" + "\n".join(rows) + "\n")
    else:
        np.savez(path, sample_id=order, target=labels[order], pred=pred[order])
    memory = fit(NegativeFlipMonitor(path), Lookup(some_logits(3, 8), val), loader(11, seed=1))
    assert_logged(memory, "val", pred, val, labels)


def test_stored_logits():
    val, old = some_logits(3, 11, 2), old_logits(11)
    np.save("old.npy", old.numpy())
    memory = fit(NegativeFlipMonitor("old.npy"), Lookup(some_logits(3, 8), val), loader(11, seed=1))
    assert_logged(memory, "val", old.argmax(dim=1).numpy(), val, labels_of(11, 1))


def test_a_file_of_the_whole_data_serves_subsets_and_other_loaders():
    first, second, pred = some_logits(3, 11, 2), some_logits(3, 11, 3), old_logits(11).argmax(dim=1).numpy()
    labels = labels_of(11, 1)
    write_old("old.parquet", pred, labels)
    some = [9, 2, 4, 7]
    loaders = [loader(11, seed=1), DataLoader(Subset(points(11, 1), some), batch_size=3)]
    memory = fit(NegativeFlipMonitor("old.parquet"), Lookup(some_logits(3, 8), first, second), *loaders)
    assert_logged(memory, "val", pred, first, labels)
    assert_logged(memory, "val_1", pred[some], second[:, some], labels[some])


def test_a_file_for_each_loader_and_one_for_training():
    train, first, second = some_logits(3, 8, 1), some_logits(3, 11, 2), some_logits(3, 6, 3)
    preds = [old_logits(count, seed).argmax(dim=1).numpy() for count, seed in ((8, 4), (11, 5), (6, 6))]
    for name, pred, labels in zip("tab", preds, (labels_of(8), labels_of(11, 1), labels_of(6, 2)), strict=True):
        write_old(f"{name}.parquet", pred, labels)
    monitor = NegativeFlipMonitor(["a.parquet", "b.parquet"], train=True, train_reference="t.parquet")
    memory = fit(monitor, Lookup(train, first, second), loader(11, seed=1), loader(6, seed=2))
    assert_logged(memory, "train", preds[0], train, labels_of(8))
    assert_logged(memory, "val", preds[1], first, labels_of(11, 1))
    assert_logged(memory, "val_1", preds[2], second, labels_of(6, 2))


def test_trainer_validate_logs_too():
    val, old = some_logits(1, 11, 2), old_logits(11)
    trainer = make_trainer(callbacks=[NegativeFlipMonitor(Old(old))])
    (logged,) = trainer.validate(Lookup(some_logits(1, 8), val), loader(11, seed=1), verbose=False)
    expected = rates(old.argmax(dim=1).numpy(), val[0].argmax(dim=1).numpy(), labels_of(11, 1))
    assert [logged[f"val_{name}"] for name in NAMES] == pytest.approx(expected)


def test_an_old_model_without_a_right_answer_gives_zero_and_not_nan():
    labels = labels_of(11, 1)
    write_old("old.parquet", (labels + 1) % CLASSES, labels)
    memory = fit(NegativeFlipMonitor("old.parquet"), Lookup(some_logits(3, 8), some_logits(3, 11)), loader(11, seed=1))
    assert memory.values("val_negative_flip_rate") == [0.0] * 3
    assert memory.values("val_relative_negative_flip_rate") == [0.0] * 3


# -- where the old model comes from -------------------------------------------------------------------


def test_a_module_is_what_it_was_when_it_was_given():
    new = Watched()
    monitor = NegativeFlipMonitor(new)  # fine-tuning: the new model starts from the old one
    with torch.no_grad():
        for weights in new.parameters():
            weights.neg_()
    before = [weights.clone() for weights in new.parameters()]
    data = points(40, 1)
    (logged,) = make_trainer(callbacks=[monitor]).validate(new, DataLoader(data, batch_size=8), verbose=False)
    old, labels = Watched(), data.tensors[1].numpy()
    preds = [model(data.tensors[0]).argmax(dim=1).numpy() for model in (old, new)]
    assert [logged[f"val_{name}"] for name in NAMES] == pytest.approx(rates(*preds, labels))
    assert logged["val_negative_flip_rate"] > 0
    assert all(torch.equal(*pair) for pair in zip(before, new.parameters(), strict=True))


class Plain(Classifier):
    def __init__(self, hidden: int = 8):
        super().__init__(MLP(5, CLASSES, hidden=(hidden,)), num_classes=CLASSES)
        self.save_hyperparameters()


class Robust(FlippingErrorReduction, Plain):
    pass


def test_a_checkpoint_is_of_the_fitted_class_without_its_mixins():
    torch.manual_seed(3)
    old, data = Plain(hidden=6), points(30, 1)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(old, loader(30), loader(30))
    trainer.save_checkpoint("old.ckpt")
    new, memory = Robust(hidden=12), Memory()
    fit(NegativeFlipMonitor("old.ckpt"), new, loader(30, seed=1), train=loader(30), epochs=1, memory=memory)
    preds = [model.eval()(data.tensors[0]).argmax(dim=1).numpy() for model in (old, new)]
    expected = rates(*preds, data.tensors[1].numpy())
    assert [memory.values(f"val_{name}")[-1] for name in NAMES] == pytest.approx(expected)
    assert not any("reference" in name or "monitor" in name for name in new.state_dict())


def test_what_the_writer_wrote_is_found_again():
    old, val = old_logits(11), some_logits(3, 11, 2)
    writer = PredictionWriter("old.parquet")

    class Answers(Watched):
        def forward(self, x):
            return old[x[:, 0].long()] + 0.0 * self.net(x[:, 1:])

    make_trainer(callbacks=[writer]).validate(Answers(), loader(11, seed=1), verbose=False)
    some = [1, 3, 10, 4, 5]
    memory = fit(
        NegativeFlipMonitor("old.parquet"),
        Lookup(some_logits(3, 8), val),
        DataLoader(Subset(points(11, 1), some), batch_size=2),
    )
    assert_logged(memory, "val", old[some].argmax(dim=1).numpy(), val[:, some], labels_of(11, 1)[some])


def test_the_fit_is_the_same_with_and_without():
    weights = []
    for callbacks in ([], [NegativeFlipMonitor(Watched(noise=True), train=True)]):
        pl.seed_everything(1, verbose=False)
        model = Watched(noise=True)
        make_trainer(callbacks=callbacks).fit(model, loader(20, shuffle=True), loader(8, seed=1))
        weights.append(torch.cat([weight.flatten() for weight in model.parameters()]))
    assert torch.equal(*weights)


# -- classes ------------------------------------------------------------------------------------------


def test_class_growth_leaves_samples_of_new_classes_out():
    val, labels = some_logits(3, 30, 2), labels_of(30, 1)
    old = some_logits(1, 30, 8)[0][:, :2]  # its outputs are the new model's classes 2 and 0
    pred = np.array([2, 0])[old.argmax(dim=1).numpy()]
    kept = labels != 1
    memory = fit(NegativeFlipMonitor(Old(old), old_classes=[2, 0]), Lookup(some_logits(3, 8), val), loader(30, seed=1))
    assert_logged(memory, "val", pred[kept], val[:, kept], labels[kept])
    # The same from a file that has samples of the old classes only.
    ids = np.flatnonzero(kept)
    write_old("old.parquet", pred[kept], labels[kept], ids=[str(i) for i in ids])
    again = fit(
        NegativeFlipMonitor("old.parquet", old_classes=[2, 0]), Lookup(some_logits(3, 8), val), loader(30, seed=1)
    )
    assert again.logged == memory.logged


def test_labels_of_a_class_subset_are_those_of_the_file():
    labels, val = labels_of(20, 1), some_logits(3, 20, 2)
    classes = [2, 0, 1]
    pred = old_logits(20).argmax(dim=1).numpy()
    write_old("old.parquet", pred, labels, classes=(0, 1, 2))  # original labels
    data = ClassSubset(points(20, 1), classes)
    ids = [int(row[0][0]) for row in data]
    answers = np.array(classes)[val[:, ids].argmax(dim=2).numpy()]  # of output k: class classes[k]
    memory = fit(NegativeFlipMonitor("old.parquet"), Lookup(some_logits(3, 8), val), DataLoader(data, batch_size=6))
    expected = [rates(pred[ids], answer, labels[ids]) for answer in answers]
    for place, name in enumerate(NAMES):
        np.testing.assert_allclose(memory.values(f"val_{name}"), [row[place] for row in expected], rtol=1e-6)


def test_words_for_labels():
    words, labels, val = np.array(["eel", "cat", "dog"]), labels_of(11, 1), some_logits(3, 11, 2)
    pred = old_logits(11).argmax(dim=1).numpy()
    write_old("old.parquet", words[pred], words[labels])
    monitor = NegativeFlipMonitor("old.parquet", class_labels=words.tolist())
    memory = fit(monitor, Lookup(some_logits(3, 8), val), loader(11, seed=1))
    assert_logged(memory, "val", pred, val, labels)


# -- errors -------------------------------------------------------------------------------------------


def refused(error, match, monitor, count=11):
    with pytest.raises(error, match=match):
        fit(monitor, Lookup(some_logits(3, 8), some_logits(3, 30)), loader(count, seed=1))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (range(3, 11), "lacks 3 of 11 val samples in the first 11 rows"),
        (range(10), "lacks 1 of 11 val samples in the first 11 rows"),
        (range(20, 30), "has none of the 11 samples"),
        ([*range(11), 3], "12 rows for 11 different samples"),
        ([], "no rows"),
    ],
)
def test_samples_that_the_file_lacks(rows, match):
    labels, rows = labels_of(30, 1), list(rows)
    same = labels_of(11, 1)
    target = [same[i] if i < 11 else labels[i] for i in rows]
    write_old("old.parquet", target, target, ids=[str(i) for i in rows])
    refused(PredictionError, match, NegativeFlipMonitor("old.parquet"))


def test_a_file_with_other_targets():
    labels = labels_of(11, 1)
    other = labels.copy()
    other[[5, 9]] = (other[[5, 9]] + 1) % CLASSES
    write_old("old.parquet", labels, other)
    refused(PredictionError, "other targets than the data for 2 of 11", NegativeFlipMonitor("old.parquet"))


def test_a_file_without_targets_is_believed():
    val, pred = some_logits(3, 11, 2), old_logits(11).argmax(dim=1).numpy()
    write_old("old.parquet", pred, [None] * 11)
    memory = fit(NegativeFlipMonitor("old.parquet"), Lookup(some_logits(3, 8), val), loader(11, seed=1))
    assert_logged(memory, "val", pred, val, labels_of(11, 1))


def test_words_that_nobody_explains():
    words = np.array(["eel", "cat", "dog"])[labels_of(11, 1)]
    write_old("old.parquet", words, words)
    refused(PredictionError, "words for labels", NegativeFlipMonitor("old.parquet"))
    refused(PredictionError, "none of which", NegativeFlipMonitor("old.parquet", class_labels=["a", "b", "c"]))


def test_classes_that_do_not_fit():
    refused(ValueError, "2 outputs, the new model 3. Pass old_classes=", NegativeFlipMonitor(Old(torch.zeros(30, 2))))
    monitor = NegativeFlipMonitor(Old(torch.zeros(30, 2)), old_classes=[0])
    refused(ValueError, "each of the reference's 2 outputs", monitor)
    monitor = NegativeFlipMonitor(Old(torch.zeros(30, 2)), old_classes=[0, 3])
    refused(ValueError, "among the new model's 3", monitor)
    with pytest.raises(ValueError, match="different classes"):
        NegativeFlipMonitor(Old(torch.zeros(30, 2)), old_classes=[1, 1])


def test_a_list_that_is_too_short():
    monitor = NegativeFlipMonitor([Old(old_logits(11))])
    with pytest.raises(ValueError, match="list of 1, and there is a validation loader 1"):
        fit(monitor, Lookup(some_logits(3, 8), some_logits(3, 11), some_logits(3, 6)), loader(11), loader(6))


def test_training_needs_a_file_of_its_own():
    for path in ("old.parquet", "old.npy", "old.csv"):
        with pytest.raises(ValueError, match="train_reference="):
            NegativeFlipMonitor(path, train=True)


# -- resumption and ranks -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resumed_inside_an_epoch():
    """A plain loader begins afresh: two batches of before and four from the start make the epoch."""
    old, train, memory = old_logits(24), some_logits(1, 24, 1), Memory()
    save = ModelCheckpoint(".", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    for logger, ckpt in ((Memory(), None), (memory, "step=2.ckpt")):
        monitor = NegativeFlipMonitor(Old(old), train=True)
        trainer = make_trainer(max_epochs=1, logger=logger, callbacks=[monitor, save])
        trainer.fit(Lookup(train, some_logits(1, 4)), loader(24), loader(4), ckpt_path=ckpt, weights_only=True)
    visits = [*range(8), *range(16)]
    pred = old.argmax(dim=1).numpy()
    assert_logged(memory, "train", pred[visits], train[:, visits], labels_of(24)[visits])


def follow(world, source, folder):
    Path(folder).mkdir(exist_ok=True)
    memory = Memory()
    monitor = NegativeFlipMonitor(
        "old.parquet" if source == "file" else Old(old_logits(13)),
        train=True,
        train_reference=Old(old_logits(13)),
    )
    strategy = "ddp" if world > 1 else "auto"
    trainer = make_trainer(max_epochs=3, logger=memory, callbacks=[monitor], strategy=strategy, devices=world)
    loaders = [loader(13, 2, seed=1), loader(11, 2, seed=1)]
    second = some_logits(3, 13, 2)
    trainer.fit(Lookup(some_logits(3, 13, 1), second, second), loader(13, 2, shuffle=True), loaders)
    torch.save(memory.logged, Path(folder, f"logged-{trainer.global_rank}.pt"))


@pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders")
@pytest.mark.parametrize("source", ["file", "model"])
def test_any_number_of_ranks_logs_the_same(source):
    pred, val = old_logits(13).argmax(dim=1).numpy(), some_logits(3, 13, 2)
    write_old("old.parquet", pred, [None] * 13)
    for world in (1, 2, 3):
        if world == 1:
            follow(1, source, "1")
        else:
            assert run_ranks(world, follow, world, source, str(world)) == [0] * world
        memory = Memory()
        memory.logged = torch.load(Path(str(world), "logged-0.pt"))
        assert_logged(memory, "val", pred, val, labels_of(13, 1))
        assert_logged(memory, "val_1", pred[:11], val[:, :11], labels_of(11, 1))
        assert_logged(memory, "train", pred, some_logits(3, 13, 1), labels_of(13))


# -- command line -------------------------------------------------------------------------------------


def test_from_the_command_line():
    words = ["--model=Classifier", "--model.network=SmallCNN", "--model.num_classes=10", "--data=DigitsDataModule"]
    words += ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.callbacks+=NegativeFlipMonitor"]
    words += ["--trainer.callbacks.reference=old.ckpt", "--trainer.callbacks.old_classes=[1, 2]"]
    cli = training_cli(words, run=False)
    (monitor,) = (part for part in cli.trainer.callbacks if isinstance(part, NegativeFlipMonitor))
    assert monitor.models.old_classes == [1, 2]
    assert monitor.models._sources == {"val-0": "old.ckpt"}
    listed = [*words[:-2], "--trainer.callbacks.reference=[a.parquet, b.parquet]"]
    cli = training_cli(listed, run=False)
    (monitor,) = (part for part in cli.trainer.callbacks if isinstance(part, NegativeFlipMonitor))
    assert [str(path) for path in monitor.models._sources.values()] == ["a.parquet", "b.parquet"]
