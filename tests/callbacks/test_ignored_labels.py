"""Samples whose label the loss leaves out: callbacks record and count as if they were not in the batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import (
    FlipTracker,
    LearningPath,
    LogitGaps,
    NegativeFlipMonitor,
    NoiseAccuracy,
    PredictionFilter,
    PredictionHistory,
    PredictionWriter,
    TemperatureScaling,
    TrainingTargets,
    TransitionEstimator,
    WinningScores,
    ZigZag,
)
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.steps import ChangedDataError, StepSource
from lightning_flip.steps.checks import ValueChecks
from lightning_flip.stores import read_history, read_paths, read_predictions, read_soft_targets, read_zigzag
from tests.callbacks.helpers import (
    CLASSES,
    Lookup,
    expected_rows,
    make_trainer,
    points,
    run_ranks,
    some_logits,
    stored_rows,
)
from tests.callbacks.noisy import table
from tests.mixins.baselines import Shares

N, VAL, EPOCHS = 21, 10, 3
OUT, VAL_OUT = {0, 3, 4, 11, 20}, {2, 9}

pytestmark = [
    pytest.mark.filterwarnings("ignore:TemperatureScaling. T = "),
    pytest.mark.filterwarnings("ignore:the transition has a condition number"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path"),
]


class Partly(TensorDataset):
    """Samples of which some have no label; the true ones are known of all that have."""

    def __init__(self, count: int, out: set[int], *, label: int = -100, seed: int = 0) -> None:
        x, y = points(count, seed).tensors
        self.true = (y + (torch.arange(count) % 4 == 1)) % CLASSES
        y = torch.where(torch.tensor([n in out for n in range(count)]), label, y)
        self.true = torch.where(y == label, label if label < 0 else 0, self.true)
        super().__init__(x, y)
        self.targets = y

    def true_target(self, index: int) -> int:
        return int(self.true[index])


class Module(Lookup):
    """A user's module, whose loss leaves out what torch's does; validation has no loss."""

    ignore_index = -100

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.place, self.round = ("train", 0), self.trainer.current_epoch
        x, y = batch
        logits = self(x)
        self.note("train", 0, 0, x, y, logits)
        return functional.cross_entropy(logits, y, ignore_index=self.ignore_index)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)

    def forward(self, x: Tensor) -> Tensor:
        self.round = self.round if self.trainer.predicting or self.trainer.testing else self.trainer.current_epoch
        return super().forward(x)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val_acc", float(self.current_epoch))

    def note(self, split: str, loader: int, number: int, x: Tensor, y: Tensor, logits: Tensor) -> None:
        kept = y != self.ignore_index
        super().note(split, loader, number, x[kept], y[kept], logits[kept])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.place, self.round = ("val", 0), 0
        return self(batch[0])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.place, self.round = ("val", 0), 0
        self(batch[0])


class Robust(FlippingErrorReduction, Module): ...


class Old(nn.Module):
    """Answers sample i with row i of a table."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x: Tensor) -> Any:
        return self.logits[x[:, 0].long()]


def batches(count: int, out: set[int], kept: bool, size: int = 7, first: bool = True) -> Any:
    """Batches of every epoch, with the samples to leave out or without; the first ones have none if it is to be so."""
    rng = np.random.default_rng(7)
    epochs = []
    for _ in range(EPOCHS):
        order = rng.permutation(count)
        if not first:
            order = np.array(sorted(order, key=lambda n: n in out))
        cut = [order[start : start + size] for start in range(0, count, size)]
        cut[1] = np.append(cut[1], cut[0][0])  # visited twice
        epochs.append(cut if kept else [np.array([n for n in batch if n not in out]) for batch in cut])
    return [[batch for batch in epoch if len(batch)] for epoch in epochs]


def loaders(kept: bool, *, first: bool = True, label: int = -100, world: int = 1) -> Any:
    train, val = Partly(N, OUT, label=label), Partly(VAL, VAL_OUT, label=label, seed=1)
    rows = [n for n in range(VAL) if kept or n not in VAL_OUT]
    return (
        DataLoader(train, batch_sampler=Shares(batches(N, OUT, kept, first=first), world)),
        DataLoader(val, batch_size=5 if kept else 4, sampler=rows),
    )


def watchers(folder: Path, module: Any) -> list[pl.Callback]:
    place: dict[str, Any] = {"dirpath": folder / "run"}
    quiet = place | {"figures": False, "every_n_epochs": 1}
    return [
        PredictionHistory(**place),
        FlipTracker(train=True),
        NegativeFlipMonitor(Old(some_logits(1, VAL, 9)[0]), train_reference=Old(some_logits(1, N, 9)[0]), train=True),
        ZigZag(**place),
        PredictionFilter(**place),
        LearningPath(range(N), **place),
        LearningPath(k=4, name="strays", **place),
        NoiseAccuracy(**place, every_n_epochs=1),
        LogitGaps(**quiet),
        WinningScores(**quiet),
        TemperatureScaling(**quiet),
        TransitionEstimator(folder / "transition.npz", warmup_epochs=2),
        *([] if module is Robust else [TrainingTargets(**quiet)]),  # FER's loss has no target
    ]


def run(folder: Path, kept: bool, module: Any = Module, **options: Any) -> tuple[Any, dict[str, float]]:
    model = module(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
    trainer = make_trainer(callbacks=watchers(folder, module), max_epochs=EPOCHS)
    trainer.fit(model, *loaders(kept, **options))
    return model, {name: float(value) for name, value in trainer.callback_metrics.items()}


def same(one: Path, other: Path) -> None:
    """What two runs left."""
    assert stored_rows(one / "run") == stored_rows(other / "run")
    names = sorted(path.name for path in (one / "run/diagnostics").iterdir())
    assert len(names) >= 4
    for name in names:
        rows = [table(folder / "run/diagnostics" / name) for folder in (one, other)]
        assert len(rows[0]) == len(rows[1]) > 0
        for left, right in zip(*rows, strict=True):
            assert left.keys() == right.keys()
            for key, cell in left.items():
                close = isinstance(cell, float) and right[key] == pytest.approx(cell, abs=1e-6)
                assert close or cell == right[key], (name, key)
    scores = [read_zigzag(folder / "run").to_pydict() for folder in (one, other)]
    assert repr(scores[0]) == repr(scores[1])
    for name in ("filtered_last", "filtered_best"):
        soft = [read_soft_targets(folder / f"run/soft_targets/{name}.safetensors") for folder in (one, other)]
        np.testing.assert_array_equal(soft[0].probs, soft[1].probs)
        np.testing.assert_array_equal(soft[0].visited, soft[1].visited)
    for name in ("", "strays"):
        paths = [read_paths(folder / "run/paths" / name) for folder in (one, other)]
        np.testing.assert_array_equal(paths[0].path, paths[1].path)
        np.testing.assert_array_equal(paths[0].index, paths[1].index)
        np.testing.assert_array_equal(paths[0].steps, paths[1].steps)
    with np.load(one / "transition.npz") as left, np.load(other / "transition.npz") as right:
        for name in left.files:
            np.testing.assert_array_equal(left[name], right[name])


def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    look = ValueChecks.look
    deferring = lambda self, *args, **options: look(self, *args, **options | {"deferred": True})  # noqa: E731
    monkeypatch.setattr(ValueChecks, "look", deferring)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_it_is_as_if_they_were_not_in_the_batches(
    first: bool, deferred: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = run(tmp_path / "without", False, first=first)
    if deferred:
        as_on_a_device(monkeypatch)
    model, found = run(tmp_path / "with", True, first=first)
    assert found == pytest.approx(expected, abs=1e-12)
    assert stored_rows(tmp_path / "with/run") == expected_rows(model.seen)
    assert not OUT & set(read_history(tmp_path / "with/run").to_arrow("train")["index"].to_pylist())
    same(tmp_path / "with", tmp_path / "without")
    assert found["val_coverage"] == pytest.approx((VAL - len(VAL_OUT)) / VAL)


@pytest.mark.parametrize("label", [255, -1, 2])
def test_another_label_than_that_of_torch(label: int, tmp_path: Path) -> None:
    """In validation, which has no loss, what training's left out counts."""
    kind = type("Mine", (Module,), {"ignore_index": label})
    model, _ = run(tmp_path, True, kind, label=label)
    assert stored_rows(tmp_path / "run") == expected_rows(model.seen)


def test_a_mixin_beside_callbacks_reads_the_same_rows(tmp_path: Path) -> None:
    model, _ = run(tmp_path / "with", True, Robust)
    other, _ = run(tmp_path / "without", False, Robust)
    same(tmp_path / "with", tmp_path / "without")
    tables = [one._term_loop.tables["behavior"].pending(torch.arange(N)) for one in (model, other)]
    torch.testing.assert_close(tables[0], tables[1], rtol=0, atol=0)


class Evaluated(Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:  # a clean pass over the training data
            self.place, self.round = ("train", 0), min(self.trainer.current_epoch, EPOCHS - 1)
        return super().forward(x)


def test_clean_passes_leave_them_out() -> None:
    def found(kept: bool) -> list[Any]:
        place: dict[str, Any] = {"dirpath": f"run-{kept}", "figures": False, "every_n_epochs": 1, "passes": "eval"}
        path = LearningPath(range(N), passes="eval", dirpath=f"run-{kept}")
        accuracy = NoiseAccuracy(**{name: value for name, value in place.items() if name != "figures"})
        trainer = make_trainer(callbacks=[accuracy, LogitGaps(**place), path], max_epochs=EPOCHS)
        model = Evaluated(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
        trainer.fit(model, loaders(kept)[0])
        return [table(f"run-{kept}/diagnostics/train_{name}.csv") for name in ("noise_accuracy", "logit_gaps")]

    whole = found(True)
    assert {row["samples"] for row in whole[0] if row["part"] == "all"} == {N - len(OUT)}
    assert all(math.isfinite(row["all_top"]) for row in whole[1])
    paths = read_paths("run-True")
    target = dict(zip(paths.index.tolist(), paths.target.tolist(), strict=True))
    assert [n for n, label in target.items() if label == -1] == sorted(OUT)
    assert all(target[n] == int(Partly(N, OUT).targets[n]) for n in range(N) if n not in OUT)
    assert paths.recorded.all()  # what the network says of them is recorded all the same


def test_files_of_predictions_have_no_row_for_them_but_in_predict() -> None:
    model = Module(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
    trainer = make_trainer(callbacks=[PredictionWriter("new.parquet"), FlipTracker(train=True)], max_epochs=1)
    train, val = loaders(True)
    trainer.fit(model, train)
    labels = val.dataset.targets.tolist()
    trainer.test(model, val, verbose=False)
    tested = read_predictions("new.parquet")
    assert tested.rows["index"].to_pylist() == [n for n in range(VAL) if n not in VAL_OUT]
    assert tested.rows["target"].to_pylist() == [label for label in labels if label >= 0]
    assert tested.dataset_size == VAL
    trainer.predict(model, val)
    predicted = read_predictions("new-predict.parquet")
    assert predicted.rows["index"].to_pylist() == list(range(VAL))
    assert predicted.rows["target"].to_pylist() == [None if label < 0 else label for label in labels]
    known = [value is not None for value in predicted.rows["prob_label"].to_pylist()]
    assert known == [label >= 0 for label in labels]
    assert predicted.rows["pred"].to_pylist() == model.tables["val", 0][0].argmax(dim=1).tolist()


@pytest.mark.parametrize("how", ["option", "attribute", "checkpoint", "nobody"])
def test_a_module_that_was_not_trained_here_needs_the_option(how: str) -> None:
    """A checkpoint of a callback says it, too."""
    tables = some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1)
    train, val = loaders(True)
    kind = Module
    writer = PredictionWriter("new.parquet", ignore_index=-100 if how == "option" else None)
    if how == "attribute":
        kind = type("Named", (Module,), {"flip_source": StepSource(ignore_index=-100)})
    if how == "checkpoint":
        trainer = make_trainer(callbacks=[FlipTracker(train=True), ModelCheckpoint("saved", filename="it")])
        trainer.fit(Module(*tables), train, val)
    model = kind(*tables)
    options: dict[str, Any] = {"ckpt_path": "saved/it.ckpt", "weights_only": True} if how == "checkpoint" else {}
    trainer = make_trainer(callbacks=[writer])
    if how == "nobody":
        with pytest.raises(ValueError, match=r"labels are outside .* sample 2 in batch 0 .*ignore_index="):
            trainer.test(model, val, verbose=False)
        return
    trainer.test(model, val, verbose=False, **options)
    assert read_predictions("new.parquet").num_samples == VAL - len(VAL_OUT)


def test_labels_that_come_and_go_are_no_change() -> None:
    """Such as those of samples that are chosen anew in each epoch; a label that comes back has to be the same."""

    class Choosing(Module):
        other = False

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            index = x[:, 0].long()
            y = torch.where((index + self.current_epoch) % 3 == 0, -100, y)
            if self.other and self.current_epoch == 2:
                y = torch.where(y < 0, y, (y + 1) % CLASSES)
            return x, y

    def fit(other: bool) -> Any:
        model = Choosing(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
        model.other = other
        data = DataLoader(points(N), batch_sampler=Shares(batches(N, set(), True), 1))
        history = PredictionHistory(f"run-{other}")
        make_trainer(callbacks=[history], max_epochs=EPOCHS).fit(model, data)
        return model

    model = fit(False)
    assert stored_rows("run-False") == expected_rows(model.seen)
    with pytest.raises(ChangedDataError):
        fit(True)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_pass_without_any_label_warns_and_goes_on(deferred: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if deferred:
        as_on_a_device(monkeypatch)
    train = DataLoader(Partly(N, set(range(N))), batch_size=5)
    model = Module(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
    tracker, scores = FlipTracker(train=True), WinningScores(dirpath="run", figures=False)
    val = DataLoader(Partly(VAL, set(range(VAL)), seed=1), batch_size=5)
    trainer = make_trainer(callbacks=[PredictionHistory("run"), tracker, scores], max_epochs=2)
    with pytest.warns(UserWarning, match="every sample has the label -100") as warned:
        trainer.fit(model, train, val)
    told = {str(warning.message) for warning in warned if "every sample" in str(warning.message)}
    assert {text.partition(":")[0] for text in told} == {"PredictionHistory", "FlipTracker", "WinningScores"}
    assert sum("pass of val steps" in text for text in told) >= 2
    assert trainer.callback_metrics["train_coverage"] == trainer.callback_metrics["val_coverage"] == 0
    assert stored_rows("run") == []


def test_a_pass_with_one_label_does_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    train = DataLoader(Partly(N, set(range(N)) - {7}), batch_size=5)
    model = Module(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
    make_trainer(callbacks=[PredictionHistory("run", val=False)], max_epochs=2).fit(model, train)
    assert set(read_history("run").to_arrow("train")["index"].to_pylist()) == {7}
    assert not [warning for warning in recwarn if "every sample" in str(warning.message)]


def test_a_column_of_ids_instead_of_positions() -> None:
    model = Module(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
    tracker = FlipTracker(train=True, val=False, index_from=lambda batch: batch[0][:, 0].long(), num_samples=N)
    make_trainer(callbacks=[tracker], max_epochs=EPOCHS).fit(model, loaders(True)[0])
    visits = tracker.statistics["train", 0].visits
    assert set((visits == 0).nonzero()[:, 0].tolist()) == OUT


def tracked(folder: Path, ckpt: str | None, epochs: int) -> tuple[Any, Any]:
    model = Module(some_logits(EPOCHS, N), some_logits(EPOCHS, VAL, 1))
    save = ModelCheckpoint(folder / "saved", filename="{epoch}", save_top_k=-1)
    tracker = FlipTracker(train=True)
    callbacks = [PredictionHistory(folder / "run"), tracker, ZigZag(folder / "run"), save]
    trainer = make_trainer(callbacks=callbacks, max_epochs=epochs)
    trainer.fit(model, *loaders(True, first=False), ckpt_path=ckpt, weights_only=True)
    return tracker, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_resumed_run_is_the_whole_one(tmp_path: Path) -> None:
    whole, expected = tracked(tmp_path / "whole", None, EPOCHS)
    tracked(tmp_path / "parts", None, 2)
    resumed, found = tracked(tmp_path / "parts", str(tmp_path / "parts/saved/epoch=1.ckpt"), EPOCHS)
    assert found == expected
    assert stored_rows(tmp_path / "parts/run") == stored_rows(tmp_path / "whole/run")
    for key, statistics in whole.statistics.items():
        torch.testing.assert_close(resumed.statistics[key].state_dict(), statistics.state_dict(), rtol=0, atol=0)


def on_two_ranks(folder: Path) -> None:
    model = Module(some_logits(EPOCHS, N + 1), some_logits(EPOCHS, VAL, 1))
    callbacks = [PredictionHistory(folder / "run"), FlipTracker(train=True), ZigZag(folder / "run")]
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": True}
    trainer = make_trainer(callbacks=callbacks, max_epochs=EPOCHS, **options)
    train, val = Partly(N + 1, OUT), Partly(VAL, VAL_OUT, seed=1)
    trainer.fit(model, DataLoader(train, batch_size=4, shuffle=True), DataLoader(val, batch_size=5))
    rates = {name: float(value) for name, value in trainer.callback_metrics.items()}
    torch.save((rates, model.seen), folder / f"rank{trainer.global_rank}.pt")


def test_two_ranks_record_the_samples_that_have_a_label(tmp_path: Path) -> None:
    assert run_ranks(2, on_two_ranks, tmp_path) == [0, 0]
    rows = read_history(tmp_path / "run").to_arrow("train")["index"].to_pylist()
    assert sorted(rows) == sorted(EPOCHS * [n for n in range(N + 1) if n not in OUT])
    seen = [row for rank in range(2) for row in torch.load(tmp_path / f"rank{rank}.pt")[1]]
    saw = {tuple(row[:-1]) for row in expected_rows(seen)}
    assert {row[:-1] for row in stored_rows(tmp_path / "run")} <= {(*row[:-1],) for row in saw} | saw
    for rank in range(2):
        rates = torch.load(tmp_path / f"rank{rank}.pt")[0]
        assert rates["train_coverage"] == pytest.approx((N + 1 - len(OUT)) / (N + 1))
        assert rates["val_coverage"] == pytest.approx((VAL - len(VAL_OUT)) / VAL)
    visits = read_zigzag(tmp_path / "run")["visits"].to_pylist()
    assert visits == [0 if n in OUT else EPOCHS for n in range(N + 1)]


def test_the_comparison_sees_a_row_that_should_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_flip.steps.sample_step.SampleStep.index_of_valid", property(lambda step: step.index))
    with pytest.raises((AssertionError, ValueError)):
        test_it_is_as_if_they_were_not_in_the_batches(True, False, tmp_path, monkeypatch)
