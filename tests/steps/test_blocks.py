"""Rows that wait in blocks: how many steps a block holds makes no difference, and none is lost or doubled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, WeightedRandomSampler

from lightning_flip.callbacks import FlipTracker, LearningPath, PredictionFilter, PredictionHistory, ZigZag
from lightning_flip.callbacks.watcher import StepWatcher
from lightning_flip.mixins import FlippingErrorReduction, LearningWithRetrospection
from lightning_flip.steps import SampleStep, StepSource, _block, sample_step
from lightning_flip.steps._block import Block, Moment
from lightning_flip.steps.identity import LoaderData
from lightning_flip.stores import read_history, read_paths, read_soft_targets, read_zigzag
from tests.callbacks.helpers import Watched, assert_same, expected_rows, make_trainer, points, stored_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:PredictionFilter. no validation ran"),
]

N, EPOCHS = 29, 3
OF_IDS = LoaderData("train", 0, None, StepSource(), None)  # batches that carry ids, without a dataset


class Robust(FlippingErrorReduction, Watched): ...


class Retrospective(LearningWithRetrospection, Watched): ...


# -- one block -----------------------------------------------------------------------------------------------


def filled(*rows: int, K: int = 3) -> tuple[Block, list[Tensor], list[Tensor]]:
    """A block of steps with so many rows each, and what was put in."""
    logits = [torch.randn(count, K) for count in rows]
    target = [torch.randint(K, (count,)) for count in rows]
    block, start = Block(logits[0], target[0], OF_IDS, epoch=2), 0
    for number, (given, labels) in enumerate(zip(logits, target, strict=True)):
        view = block.view(given)
        assert view is not None
        view.copy_(given)
        samples = list(range(start, start + len(given)))
        block.add(labels, samples, Moment(len(samples), number, 10 + number, number))
        start += len(given)
    return block, logits, target


@pytest.mark.parametrize("rows", [(4,), (4, 4, 4), (4, 2, 4, 1), (5, 5, 3)])
def test_a_block_gives_back_what_was_put_in(rows: tuple[int, ...]) -> None:
    block, logits, target = filled(*rows)
    drained = block.drain(keep_last=False)
    assert drained is not None
    step, moments, _ = drained
    assert step.logits.equal(torch.cat(logits))
    assert step.target.equal(torch.cat(target))
    assert step.samples == list(range(sum(rows))) == step.index.tolist()
    assert step.global_step is not None
    assert step.global_step.tolist() == np.repeat(np.arange(len(rows)) + 10, rows).tolist()
    assert step.epoch == 2
    assert [moment.rows for moment in moments] == list(rows)
    assert block.drain(keep_last=False) is None  # nothing is read twice


def test_the_last_step_may_be_kept_back() -> None:
    block, logits, target = filled(4, 4, 3)
    drained = block.drain(keep_last=True)
    assert drained is not None
    assert drained[0].logits.equal(torch.cat(logits[:2]))
    assert block.drain(keep_last=True) is None  # that step alone is there, and it is kept
    drained = block.drain(keep_last=False)
    assert drained is not None
    assert drained[0].logits.equal(logits[2])
    assert drained[0].target.equal(target[2])
    assert drained[0].samples == [8, 9, 10]


def test_a_block_holds_64_steps_or_32_megabytes() -> None:
    small = Block(torch.zeros(128, 100), torch.zeros(128, dtype=torch.int64), OF_IDS, 0)
    assert small.capacity == 64
    assert small.nbytes == 64 * 128 * (100 * 4 + 8)
    large = Block(torch.zeros(1024, 2_000), torch.zeros(1024, dtype=torch.int64), OF_IDS, 0)
    assert large.capacity == 4
    imagenet = Block(torch.zeros(1024, 21_841), torch.zeros(1024, dtype=torch.int64), OF_IDS, 0)
    assert imagenet.capacity == 1
    assert imagenet.nbytes == 1024 * (21_841 * 4 + 8)


@pytest.mark.parametrize(
    "other",
    [torch.zeros(4, 5), torch.zeros(6, 3), torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3).bfloat16()],
)
def test_logits_of_another_kind_do_not_fit(other: Tensor) -> None:
    block, _, _ = filled(4)
    assert block.view(other) is None
    assert block.view(torch.zeros(4, 3)) is not None


def test_targets_data_and_epochs_of_another_kind_do_not_fit() -> None:
    block, _, target = filled(4)
    assert block.fits(target[0], OF_IDS, 2)
    assert not block.fits(target[0].int(), OF_IDS, 2)
    assert not block.fits(target[0], LoaderData("train", 0, None, StepSource(), None), 2)
    assert not block.fits(target[0], OF_IDS, 3)
    block.drain(keep_last=False)
    assert not block.fits(target[0], OF_IDS, 3)  # the data may have grown since


def test_facts_are_the_same_however_the_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = torch.randn(50, 7), torch.randint(7, (50,))
    whole = SampleStep(torch.arange(50), logits, target)
    monkeypatch.setattr(sample_step, "_PIECE_BYTES", 3 * 7 * 4)
    cut = SampleStep(torch.arange(50), logits, target)
    assert_same(tuple(cut.predictions), tuple(whole.predictions))
    assert [len(piece.index) for piece in cut.pieces()] == [3] * 16 + [2]
    for piece in cut.pieces():  # facts that were computed once are cut, not computed anew
        assert_same(tuple(piece.predictions), tuple(fact[piece.index] for fact in whole.predictions))


# -- how large a block is makes no difference ------------------------------------------------------------------


def everything(folder: str, module: type[Watched], **options: Any) -> dict[str, Any]:
    """What all callbacks make of a fit in which samples come twice in a block, and in a batch."""
    torch.manual_seed(3)
    drawn = WeightedRandomSampler(torch.linspace(1, 9, N), 2 * N, generator=torch.Generator().manual_seed(1))
    data = DataLoader(points(N), batch_size=4, sampler=drawn)
    tracker = FlipTracker(train=True)
    callbacks = [PredictionHistory(folder), tracker, ZigZag(folder), PredictionFilter(0.3, dirpath=folder)]
    callbacks.append(LearningPath([3, 7, 20], dirpath=folder))
    model = module(**options)
    trainer = make_trainer(callbacks=callbacks, max_epochs=EPOCHS)
    trainer.fit(model, data)
    assert stored_rows(folder) == expected_rows(model.seen)
    found = {
        "history": stored_rows(folder),
        "tracker": {str(key): statistics.state_dict() for key, statistics in tracker.statistics.items()},
        "zigzag": read_zigzag(folder).to_pydict(),
        "filter": read_soft_targets(Path(folder, "soft_targets/filtered_last.safetensors")).probs.tolist(),
        "paths": np.nan_to_num(read_paths(Path(folder, "paths")).path).tolist(),
        "weights": model.state_dict(),
    }
    loop = getattr(model, "_loop", None)
    tables = {} if loop is None else loop.tables
    return found | {"tables": {name: table.state_dict() for name, table in tables.items()}}


@pytest.mark.parametrize(("module", "options"), [(Watched, {}), (Robust, {"restrict": "all"}), (Retrospective, {})])
def test_the_size_of_a_block_makes_no_difference(
    module: type[Watched], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of one step is what 0.1 did: every step read by itself."""
    results = []
    for number, (steps, size) in enumerate([(1, 1 << 25), (3, 1 << 25), (64, 1 << 25), (64, 100), (64, 1)]):
        monkeypatch.setattr(_block, "STEPS", steps)
        monkeypatch.setattr(_block, "BYTES", size)
        results.append(everything(f"run-{number}", module, **options))
    for other in results[1:]:
        assert_same(other, results[0])


# -- when blocks are read --------------------------------------------------------------------------------------


class Reads(StepWatcher):
    """Notes what it is given."""

    def __init__(self, *, train: bool = True, val: bool = False, name: str = "", fails: bool = False) -> None:
        source: dict[str, Any] = {"logits_from": None, "target_from": None, "index_from": None, "loader": None}
        super().__init__(train=train, val=val, name=name, **source)
        self.given: list[tuple[str, int, list[int]]] = []
        self.fails = fails

    def watch(self, trainer: pl.Trainer, split: str, loader: int, step: SampleStep) -> None:
        self.flush()  # somebody who reads asks for all rows, again and again
        assert not step.logits.is_inference()
        assert not step.logits.requires_grad
        self.given.append((split, step.epoch, step.index.tolist()))
        if self.fails:
            raise ArithmeticError("a reader that fails")

    @property
    def rows(self) -> list[int]:
        return [index for _, _, rows in self.given for index in rows]


class At(pl.Callback):
    """Does something in a hook, once."""

    def __init__(self, hook: str, action: Any, batch: int = 2) -> None:
        def call(trainer: pl.Trainer, *args: Any) -> None:
            if trainer.fit_loop.epoch_loop.batch_progress.current.ready > batch and not self.done:
                self.done = True
                action(trainer)

        self.done = False
        setattr(self, hook, call)


def fit(*callbacks: pl.Callback, model: pl.LightningModule | None = None, **options: Any) -> pl.Trainer:
    trainer = make_trainer(callbacks=list(callbacks), max_epochs=1, **options)
    trainer.fit(model or Watched(), DataLoader(points(20), batch_size=4), DataLoader(points(8, 1), batch_size=4))
    return trainer


def test_an_epoch_is_read_at_its_end_and_validation_by_itself() -> None:
    reads = Reads(val=True)
    fit(reads)
    assert reads.given == [("train", 0, list(range(20))), ("val", 0, list(range(8)))]


@pytest.mark.parametrize(
    ("hook", "complete"),
    [("on_train_batch_start", 2), ("on_after_backward", 2), ("on_before_optimizer_step", 2), ("on_train_batch_end", 3)],
)
def test_a_public_read_gives_all_batches_that_training_is_through_with(hook: str, complete: int) -> None:
    reads = Reads()
    seen: list[int] = []
    fit(reads, At(hook, lambda trainer: (reads.flush(), seen.extend(reads.rows), reads.flush())))
    assert seen == list(range(4 * complete))
    assert reads.rows == list(range(20))  # what was kept back comes later, once


def test_validation_in_mid_epoch_finds_all_rows_read() -> None:
    reads, seen = Reads(), []
    look = pl.callbacks.LambdaCallback(on_validation_batch_end=lambda *args: seen.append(len(reads.rows)))
    fit(reads, look, val_check_interval=3, num_sanity_val_steps=0)
    assert seen[:2] == [12, 12]


def test_statistics_of_a_tracker_are_complete_whenever_they_are_read() -> None:
    tracker = FlipTracker(train=True)
    visits: list[int] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            visits.append(int(tracker.statistics["train", 0].visits.sum()))

    fit(tracker, Look())
    assert visits == [4, 8, 12, 16, 20]


def test_a_reader_that_fails_keeps_no_rows_from_the_others() -> None:
    first, last = Reads(fails=True), Reads(name="last")
    with pytest.raises(ArithmeticError, match="a reader that fails"):
        fit(first, last)
    assert first.rows == last.rows == list(range(20))


class Bad(Watched):
    """Has bad logits or labels for one sample."""

    def __init__(self, sample: int, *, label: int | None = None) -> None:
        super().__init__()
        self.sample, self.label = sample, label

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        return functional.cross_entropy(logits.nan_to_num(), y.clamp(max=2))

    def forward(self, x: Tensor) -> Tensor:
        bad = (x[:, 0] == self.sample)[:, None] & torch.tensor(self.label is None)
        return torch.where(bad & torch.tensor(self.training), torch.nan, super().forward(x))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.label is None or not self.training:
            return batch
        return batch[0], torch.where(batch[0][:, 0] == self.sample, self.label, batch[1])


@pytest.mark.parametrize(("label", "problem"), [(None, "logits are not finite"), (7, r"labels are outside \[0, 3\)")])
def test_the_first_bad_row_is_named_and_the_rows_before_it_are_read(label: int | None, problem: str) -> None:
    reads, history = Reads(), PredictionHistory("run")
    where = rf"{problem} .*first for sample 9 in batch 2 of epoch 0, after 2 optimizer steps"
    with pytest.raises(ValueError, match=where):
        fit(reads, history, model=Bad(9, label=label))
    assert reads.rows == list(range(9))
    assert read_history("run").to_arrow("train")["index"].to_pylist() == list(range(9))


def test_rows_of_an_interrupted_batch_are_those_of_nobody() -> None:
    """A run that is resumed here trains that batch again."""

    def fail(trainer: pl.Trainer) -> None:
        raise InterruptedError

    reads = Reads()
    with pytest.raises(InterruptedError):
        fit(reads, At("on_before_optimizer_step", fail))
    assert reads.rows == list(range(8))


def test_a_callback_that_is_taken_off_the_trainer_reads_no_more() -> None:
    """As tuning does with all of them."""
    reads, other = Reads(), Reads(name="other")
    fit(reads, other, At("on_train_batch_end", lambda trainer: setattr(trainer, "callbacks", [other])))
    assert reads.rows == list(range(12))
    assert other.rows == list(range(20))


def test_the_size_of_the_buffer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    fit(Reads())
    assert "predictions of train steps are read 64 steps at a time, from a buffer of 0.0 MB" in caplog.text


class ReadsEveryStep(Reads):
    @property
    def every_step(self) -> bool:
        return True


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_step_that_is_read_by_itself_waits_for_its_batch_too(interrupted: bool) -> None:
    def fail(trainer: pl.Trainer) -> None:
        raise InterruptedError

    reads = ReadsEveryStep(val=True)
    if interrupted:
        with pytest.raises(InterruptedError):
            fit(reads, At("on_before_optimizer_step", fail))
    else:
        fit(reads)
    steps = [(split, rows) for split, _, rows in reads.given]
    trained = [("train", list(range(start, start + 4))) for start in range(0, 8 if interrupted else 20, 4)]
    assert steps == trained + ([] if interrupted else [("val", [0, 1, 2, 3]), ("val", [4, 5, 6, 7])])


class Ordered(Reads):
    takes_distributions = True


class Both(Watched):
    """Every other batch has distributions as targets."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        mixed = self.training and self.trainer.fit_loop.epoch_loop.batch_idx % 2
        return (batch[0], functional.one_hot(batch[1], 3).float()) if mixed else batch

    def note(self, *args: Any) -> None:
        pass


def test_who_reads_labels_and_distributions_is_given_them_in_their_order() -> None:
    reads, labels = Ordered(), Reads(name="labels")
    with pytest.warns(UserWarning, match="have no single right class"):
        fit(reads, labels, model=Both())
    assert reads.rows == list(range(20))
    given = [index for index in range(20) if index // 4 % 2 == reads.given[0][2][0] // 4 % 2]
    assert sorted(labels.rows) == labels.rows
    assert labels.rows in (given, [index for index in range(20) if index not in given])
