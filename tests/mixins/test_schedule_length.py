"""M of a schedule, the cycles of snapshots and the plan of a recording: the number of epochs that there will be."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_flip.callbacks.paths._budget import PathPlan
from lightning_flip.mixins import FlippingErrorReduction, LearningWithRetrospection, SnapshotDistillation
from lightning_flip.mixins import flipping_error_reduction as fer
from lightning_flip.mixins import learning_with_retrospection as lwr
from lightning_flip.mixins import snapshot_distillation as snapshots
from lightning_flip.steps.length import training_length
from tests.callbacks.helpers import run_ranks
from tests.mixins.helpers import LitNet, N, network, quiet
from tests.mixins.pairing import points
from tests.mixins.test_tables import Saver
from tests.oracles.training_length import trained

Factors = dict[int, int]


def factor(factors: Factors) -> Any:
    """The number of accumulated batches in an epoch."""
    return lambda epoch: factors[max(first for first in factors if first <= epoch)]


def batches(count: int) -> DataLoader[Any]:
    return DataLoader(points(), batch_size=-(-N // count))


class Reduced(FlippingErrorReduction, LitNet):
    """FER."""


class Retrospective(LearningWithRetrospection, LitNet):
    """LWR."""


class Snapshots(SnapshotDistillation, LitNet):
    """SD."""


METHODS = [Reduced, Retrospective, Snapshots]


class Watch(Callback):
    """The k and M that each batch's schedule was asked for, and the plan of a recording."""

    def __init__(self) -> None:
        self.schedules: list[tuple[int, int]] = []
        self.begun = 0
        self.plan: PathPlan | None = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun += 1
        self.plan = PathPlan.of(trainer, every_n_steps=1, every_n_epochs=None, evaluated=True)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.schedules.append(pl_module._term_loop.schedule())


# -- the count ---------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(
    count=st.integers(1, 9),
    factors=st.dictionaries(st.integers(1, 6), st.integers(1, 5), max_size=3),
    first=st.integers(1, 5),
    max_epochs=st.none() | st.integers(1, 9),
    max_steps=st.none() | st.integers(1, 40),
    optimizers=st.integers(1, 2),
)
def test_a_training_is_as_long_as_it_will_be(
    count: int, factors: Factors, first: int, max_epochs: int | None, max_steps: int | None, optimizers: int
) -> None:
    if max_epochs is None and max_steps is None:
        max_epochs = 3
    factors = {0: first, **factors}
    scheduled = [GradientAccumulationScheduler(dict(factors))] if len(factors) > 1 else []
    trainer: Any = SimpleNamespace(
        num_training_batches=count,
        accumulate_grad_batches=first,
        max_epochs=-1 if max_epochs is None else max_epochs,
        max_steps=-1 if max_steps is None else max_steps,
        callbacks=scheduled,
        optimizers=[None] * optimizers,
    )
    epochs, steps = trained(count, factor(factors), max_epochs, max_steps, optimizers)
    found = training_length(trainer)
    assert found[0] == epochs
    assert found[1] == (steps if max_steps is None else min(steps, max_steps))


@pytest.mark.parametrize(
    ("count", "max_epochs", "max_steps", "expected"),
    [
        (math.inf, 3, -1, (3, math.inf)),
        (math.inf, 3, 10, (3, 10)),  # at most
        (math.inf, -1, 10, (math.inf, 10)),
        (4, -1, -1, (math.inf, math.inf)),
        (0, 3, -1, (3, 0)),
        (0, -1, 10, (math.inf, 0)),
    ],
)
def test_what_is_not_known_is_infinite(count: float, max_epochs: int, max_steps: int, expected: Any) -> None:
    trainer: Any = SimpleNamespace(
        num_training_batches=count,
        accumulate_grad_batches=1,
        max_epochs=max_epochs,
        max_steps=max_steps,
        callbacks=[],
        optimizers=[None],
    )
    assert training_length(trainer) == expected


# -- real runs ---------------------------------------------------------------------------------------------

RUNS: dict[str, tuple[dict[str, Any], int, int]] = {
    "accumulated": ({"accumulate_grad_batches": 4, "max_epochs": -1, "max_steps": 10}, 5, 5),
    "accumulated, fewer epochs": ({"accumulate_grad_batches": 4, "max_epochs": 3, "max_steps": 10}, 5, 3),
    "accumulated, fewer steps": ({"accumulate_grad_batches": 4, "max_epochs": 9, "max_steps": 7}, 5, 4),
    "accumulated beyond an epoch": ({"accumulate_grad_batches": 9, "max_epochs": -1, "max_steps": 3}, 5, 3),
    "a share of the batches": ({"limit_train_batches": 0.5, "max_epochs": -1, "max_steps": 9}, 6, 3),
    "some batches": ({"limit_train_batches": 4, "max_epochs": -1, "max_steps": 9}, 6, 3),
    "the same few": ({"overfit_batches": 2, "max_epochs": -1, "max_steps": 5}, 6, 3),
    "epochs alone": ({"accumulate_grad_batches": 3, "max_epochs": 4}, 5, 4),
}


@pytest.mark.filterwarnings("ignore:You requested to overfit", "ignore:.*sampler has shuffling enabled")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("run", RUNS)
def test_m_is_the_number_of_epochs_that_begin(method: Any, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, count, epochs = RUNS[run]
    asked: list[tuple[int, int]] = []

    def weighted(epoch: int, total: int, **ends: Any) -> tuple[float, float]:
        asked.append((epoch, total))
        return 0.5, 0.5

    def cycle(epoch: int, total: int, cycles: int) -> int:
        asked.append((epoch + 1, total))
        return 0

    monkeypatch.setattr(fer, "restriction_weights", weighted)
    monkeypatch.setattr(lwr, "restriction_weights", weighted)
    monkeypatch.setattr(snapshots, "cycle_of", cycle)
    watch, trainer = Watch(), quiet(**options)
    trainer.callbacks.append(watch)
    extra = {"lwr_interval": 1} if method is Retrospective else {}
    trainer.fit(method(network(), **extra), batches(count))
    assert watch.begun == epochs
    assert {total for _, total in asked} == {epochs}
    assert watch.schedules[-1] == (epochs, epochs)
    assert asked[-1][0] == epochs
    assert watch.plan is not None
    assert (watch.plan.epochs, watch.plan.steps) == (epochs, trainer.global_step)


def test_a_number_of_accumulated_batches_that_changes_is_followed() -> None:
    watch = Watch()
    options: dict[str, Any] = {"max_epochs": -1, "max_steps": 12}
    trainer = quiet(callbacks=[GradientAccumulationScheduler({0: 4, 2: 2, 3: 1}), watch], **options)
    trainer.fit(Reduced(network()), batches(4))
    assert watch.begun == 5  # steps 1, 1, 2, 4, 4
    assert {total for _, total in watch.schedules} == {5}


def test_the_other_package_counts_the_same() -> None:
    class Theirs(pytorch_lightning.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    class Both(FlippingErrorReduction, Theirs):  # type: ignore[misc]
        """FER."""

    seen = []

    class Seen(pytorch_lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen.append(pl_module._term_loop.schedule())

    quietly = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    scheduled = pytorch_lightning.callbacks.GradientAccumulationScheduler({0: 4, 1: 2})
    trainer = pytorch_lightning.Trainer(
        max_epochs=-1, max_steps=5, enable_model_summary=False, callbacks=[scheduled, Seen()], **quietly
    )
    trainer.fit(Both(network()), batches(4))
    assert {total for _, total in seen} == {3}  # steps 1, 2, 2


class Manual(LitNet):
    """Steps two optimizers on each batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([weight], 0.1) for weight in list(self.parameters())[:2]]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.regularized(F.cross_entropy(self(batch[0]), batch[1]))
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("method", [FlippingErrorReduction, LearningWithRetrospection, SnapshotDistillation])
def test_several_optimizers_count_their_steps_together(method: Any) -> None:
    kind = type("Twofold", (method, Manual), {})
    watch = Watch()
    trainer = quiet(max_epochs=3, callbacks=[watch])
    trainer.fit(kind(network()), batches(3))  # epochs are epochs, however many optimizers there are
    assert {total for _, total in watch.schedules} == {3}
    assert watch.plan is not None
    assert (watch.plan.epochs, watch.plan.steps) == (3, trainer.global_step) == (3, 18)
    for max_epochs in (-1, 3):
        with pytest.raises(ValueError, match=r"counts the steps of 2 optimizers together\. Pass total_epochs="):
            quiet(max_epochs=max_epochs, max_steps=8).fit(kind(network()), batches(3))
    watch = Watch()
    quiet(max_epochs=-1, max_steps=8, callbacks=[watch]).fit(kind(network(), total_epochs=2), batches(3))
    assert {total for _, total in watch.schedules} == {2}


class Stream(IterableDataset[Any]):
    """Samples with their numbers, of which nobody says how many there are."""

    def __iter__(self) -> Any:
        for number, sample in enumerate(points()):  # type: ignore[arg-type]
            yield *sample, number


class Carried(LitNet):
    """Ignores the samples' numbers."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1])


class Streamed(FlippingErrorReduction, Carried):
    """FER on data that carry their own index."""


def streamed(**options: Any) -> Any:
    return Streamed(network(), index_from=2, num_samples=N, **options)


@pytest.mark.parametrize("max_epochs", [-1, 50])
def test_steps_are_no_epochs_where_nobody_knows_how_many_batches_there_are(max_epochs: int) -> None:
    stream = DataLoader(Stream(), batch_size=8)
    with pytest.raises(
        ValueError, match=r"max_steps=7.*number of batches in an epoch is not known.*Pass total_epochs="
    ):
        quiet(max_epochs=max_epochs, max_steps=7).fit(streamed(), stream)
    for options, trainer, total in (
        ({"total_epochs": 3}, {"max_epochs": max_epochs, "max_steps": 7}, 3),
        ({}, {"max_epochs": 2}, 2),
        ({}, {"max_epochs": max_epochs, "max_steps": 7, "limit_train_batches": 3}, 3),
    ):
        watch = Watch()
        quiet(callbacks=[watch], **trainer).fit(streamed(**options), stream)
        assert {found for _, found in watch.schedules} == {total}


# -- resumption, ranks ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")
def test_a_resumed_run_keeps_the_m_that_its_steps_gave(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"

    def totals(resume: Any = None, **options: Any) -> set[int]:
        watch = Watch()
        trainer = quiet(max_epochs=-1, callbacks=[watch, Saver(path, 1, 1)], **options)
        trainer.fit(Reduced(network()), batches(4), ckpt_path=resume)
        return {total for _, total in watch.schedules}

    assert totals(max_steps=10, accumulate_grad_batches=4) == {10}
    assert totals(path, max_steps=10, accumulate_grad_batches=4) == {10}
    with pytest.warns(UserWarning, match=r"began with a schedule of M = 10 .* trains for 5\. Pass total_epochs="):
        assert totals(path, max_steps=10, accumulate_grad_batches=2) == {10}


class Writes(Callback):
    """Writes what each rank's schedule was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = [
            pl_module._term_loop.schedule(),
            trainer.num_training_batches,
            trainer.current_epoch,
            trainer.global_step,
        ]
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")


def _fit(folder: Path) -> None:
    torch.set_num_threads(1)
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "max_epochs": -1, "max_steps": 10}
    trainer = quiet(devices=2, strategy="ddp", callbacks=[Writes(folder)], **options)
    trainer.fit(Reduced(network()), DataLoader(points(), batch_size=4))


def test_each_of_two_ranks_has_half_of_the_batches(tmp_path: Path) -> None:
    assert run_ranks(2, _fit, tmp_path) == [0, 0]
    for rank in range(2):
        (_, total), count, _, steps = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (total, count, steps) == (5, 3, 10)  # of 24 samples, 3 batches and 2 steps an epoch
