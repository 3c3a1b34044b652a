"""Blocks under what Trainers and users do: each of these once recorded wrong rows, lost some, or hung."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from lightning_flip.callbacks import FlipTracker, PredictionFilter, PredictionHistory, ZigZag
from lightning_flip.callbacks.watcher import StepWatcher
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.steps import ChangedDataError, SampleStep
from tests.callbacks.helpers import Watched, assert_same, expected_rows, make_trainer, points, run_ranks, stored_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:PredictionFilter. no validation ran"),
]


class Keeps(StepWatcher):
    """Keeps each sample's logits."""

    def __init__(self, *, every_step: bool) -> None:
        source: dict[str, Any] = {"logits_from": "", "target_from": None, "index_from": None, "loader": None}
        super().__init__(train=True, val=False, name=str(every_step), **source)
        self.single = every_step
        self.kept: dict[int, list[float]] = {}

    @property
    def every_step(self) -> bool:
        return self.single

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        self.kept |= dict(zip(step.index.tolist(), step.logits.tolist(), strict=True))


def data(count: int = 20) -> DataLoader[Any]:
    return DataLoader(points(count), batch_size=4)


@pytest.mark.parametrize("kind", [Watched, type("Robust", (FlippingErrorReduction, Watched), {})])
@pytest.mark.parametrize("late", [False, True])
def test_a_read_within_a_step_changes_nothing(kind: type[Watched], late: bool) -> None:
    """Before the forward and after it."""
    tracker = FlipTracker(train=True)

    class Looks(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not late:
                _ = tracker.statistics
            loss = super().training_step(batch, batch_idx)
            if late:
                _ = tracker.statistics
            return loss

    found = []
    for number, module in enumerate((kind, Looks)):
        model, history = module(), PredictionHistory(f"run-{number}")
        make_trainer(max_epochs=2, callbacks=[history, tracker]).fit(model, data())
        assert stored_rows(f"run-{number}") == expected_rows(model.seen)
        found.append({str(key): statistics.state_dict() for key, statistics in tracker.statistics.items()})
    assert_same(found[1], found[0])


class Searching(Watched):
    """Evaluates its closure four times, and keeps what the first evaluation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[int, list[float]] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        for index, row in zip(batch[0][:, 0].long().tolist(), logits.detach().tolist(), strict=True):
            self.first.setdefault(index, row)
        return functional.cross_entropy(logits, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), max_iter=4)


def test_reads_between_the_evaluations_of_a_closure_change_nothing() -> None:
    single, block, model = Keeps(every_step=True), Keeps(every_step=False), Searching()
    look = pl.callbacks.LambdaCallback(on_before_backward=lambda *args: block.flush())
    make_trainer(max_epochs=1, callbacks=[single, block, look]).fit(model, data())
    assert single.kept == model.first
    assert block.kept == model.first


def validate_one_sample(kind: str) -> None:
    callback = FlipTracker() if kind == "tracker" else PredictionHistory("run", train=False)
    trainer = make_trainer(devices=2, strategy="ddp", max_epochs=2, num_sanity_val_steps=0, callbacks=[callback])
    trainer.fit(Watched(), data(8), DataLoader(points(1, 1), batch_size=4))


@pytest.mark.parametrize("kind", ["tracker", "history"])
def test_a_rank_that_has_padding_alone_takes_part(kind: str) -> None:
    assert run_ranks(2, validate_one_sample, kind, seconds=60) == [0, 0]


@pytest.mark.parametrize("in_place", [False, True])
def test_callbacks_that_come_back_are_read_to_again(in_place: bool) -> None:
    first, second = FlipTracker(train=True, prefix="first_"), FlipTracker(train=True, prefix="second_")

    class Swap(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                if in_place:
                    trainer.callbacks.remove(first)
                else:
                    trainer.callbacks = [callback for callback in trainer.callbacks if callback is not first]
            if batch_idx == 3:
                trainer.callbacks = [first, *trainer.callbacks]

    make_trainer(max_epochs=1, callbacks=[first, second, Swap()]).fit(Watched(), data())
    assert second.statistics["train", 0].visits.tolist() == [1] * 20
    assert first.statistics["train", 0].visits.tolist() == [1] * 8 + [0] * 8 + [1] * 4


def test_a_copy_has_the_rows_that_wait() -> None:
    tracker, copies = FlipTracker(train=True), []
    look = pl.callbacks.LambdaCallback(on_train_batch_end=lambda *args: copies.append(copy.deepcopy(tracker)))
    make_trainer(max_epochs=1, callbacks=[tracker, look]).fit(Watched(), data())
    assert [int(each.statistics["train", 0].visits.sum()) for each in copies] == [4, 8, 12, 16, 20]


class Growing(Dataset[Any]):
    def __init__(self) -> None:
        self.rows, self.size = points(16), 8

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def test_a_dataset_that_grows_is_followed() -> None:
    grown = Growing()

    class Grows(Watched):
        def train_dataloader(self) -> Any:
            grown.size = 8 + 4 * self.trainer.current_epoch
            return DataLoader(grown, batch_size=4)

    tracker, zigzag, averages = FlipTracker(train=True), ZigZag(), PredictionFilter()
    callbacks = [tracker, zigzag, averages]
    make_trainer(max_epochs=3, callbacks=callbacks, reload_dataloaders_every_n_epochs=1).fit(Grows())
    expected = [3] * 8 + [2] * 4 + [1] * 4
    assert tracker.statistics["train", 0].visits.tolist() == expected
    assert zigzag.sums is not None
    assert zigzag.sums.visits.tolist() == expected
    assert averages.tables is not None
    assert averages.tables.average.latest()[1].tolist() == [True] * 16
    assert averages.tables.labels().min() >= 0


@pytest.mark.parametrize("make", [lambda: FlipTracker(train=True), ZigZag, PredictionFilter, PredictionHistory])
def test_a_dataset_that_shrinks_is_refused_in_words(make: Any) -> None:
    shrunk = Growing()

    class Shrinks(Watched):
        def train_dataloader(self) -> Any:
            shrunk.size = 16 - 4 * self.trainer.current_epoch
            return DataLoader(shrunk, batch_size=4)

    trainer = make_trainer(max_epochs=2, callbacks=[make()], reload_dataloaders_every_n_epochs=1)
    with pytest.raises(ChangedDataError, match="16 samples before, 12 now"):
        trainer.fit(Shrinks())


def test_a_subclass_may_leave_out_super_in_on_train_start() -> None:
    class Mine(PredictionHistory):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pass

    model = Watched()
    make_trainer(max_epochs=1, callbacks=[Mine("run")]).fit(model, data())
    assert stored_rows("run") == expected_rows(model.seen)


def test_a_callback_may_lead_one_of_ours() -> None:
    """It forwards every hook, and the Trainer does not know the other one."""
    inner = FlipTracker(train=True)

    class Leads(pl.Callback):
        def setup(self, *args: Any, **kwargs: Any) -> None:
            inner.setup(*args, **kwargs)

        def on_train_batch_start(self, *args: Any) -> None:
            inner.on_train_batch_start(*args)

        def on_train_start(self, *args: Any) -> None:
            inner.on_train_start(*args)

        def on_train_epoch_end(self, *args: Any) -> None:
            inner.on_train_epoch_end(*args)

        def teardown(self, *args: Any, **kwargs: Any) -> None:
            inner.teardown(*args, **kwargs)

    make_trainer(max_epochs=2, callbacks=[Leads()]).fit(Watched(), data())
    assert inner.statistics["train", 0].visits.tolist() == [2] * 20


def test_validation_with_gradient_is_recorded_as_the_network_gave_it() -> None:
    class Edits(Watched):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            with torch.enable_grad():
                logits = self(batch[0])
            if not self.trainer.sanity_checking:
                self.note("val", 0, 0, *batch, logits)
            with torch.no_grad():
                logits.mul_(0)

    model = Edits()
    trainer = make_trainer(max_epochs=1, inference_mode=False, callbacks=[PredictionHistory("run", train=False)])
    trainer.fit(model, data(), DataLoader(points(8, 1), batch_size=4))
    assert stored_rows("run", "val") == expected_rows(model.seen, "val")


def test_a_second_reader_that_fails_is_not_hidden() -> None:
    class Fails(Keeps):
        def watch(self, *args: Any) -> None:
            raise ArithmeticError(f"reader {self.name}")

    first, second = Fails(every_step=False), Fails(every_step=False)
    first.name, second.name = "one", "two"
    with pytest.raises(ArithmeticError, match="reader one") as caught:
        make_trainer(max_epochs=1, callbacks=[first, second]).fit(Watched(), data())
    assert "ArithmeticError: reader two" in caught.value.__notes__[0]
