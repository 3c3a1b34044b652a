"""Where a term's table lives: in checkpoints under its own key, and nowhere in the module."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from lightning_flip.mixins import FlippingErrorReduction, LearningWithRetrospection
from lightning_flip.models import MLP, Classifier
from lightning_flip.steps import ChangedDataError
from tests.mixins.helpers import (
    EPOCHS,
    LR,
    D,
    FixedBatches,
    H,
    LitNet,
    N,
    Recorder,
    as_torch,
    inputs,
    labels,
    loader,
    quiet,
    shuffled_batches,
    train,
)
from tests.oracles.retrospection import FerOptions, FerTrace, LwrOptions, NumpyNet, fer_loop, lwr_loop

K = 4
EVERY = torch.arange(N)


class Robust(FlippingErrorReduction, LitNet):
    """FER."""


class Retrospective(LearningWithRetrospection, LitNet):
    """LWR."""


def model(kind: Any = Robust, **options: Any) -> Any:
    return kind(as_torch(NumpyNet.random(D, H, K, seed=0)), **options)


def data(epochs: int = EPOCHS) -> Any:
    return loader(inputs(), labels(K), shuffled_batches(epochs))


def oracle(**options: Any) -> FerTrace:
    net = NumpyNet.random(D, H, K, seed=0)
    return fer_loop(net, inputs(), labels(K), shuffled_batches(), FerOptions(total_epochs=EPOCHS, **options), LR)


def tables(module: Any) -> dict[str, Any]:
    result: dict[str, Any] = module._term_loop.tables
    return result


def test_tables_are_no_part_of_the_modules_state() -> None:
    robust, plain = model(), model(LitNet)
    train(robust, data())
    assert tables(robust)["behavior"].pending(EVERY)[1].any()
    assert robust.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in robust.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert list(robust.named_buffers()) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_of_a_module_begin_without_tables_and_can_be_trained(copied: Any) -> None:
    robust = model()
    train(robust, data(), max_epochs=2)
    twin = copied(robust)
    assert tables(twin) == {}
    assert tables(robust).keys() == {"behavior"}
    twin.load_state_dict(model().state_dict())
    assert train(twin, data()).losses == pytest.approx(oracle().step_losses, abs=1e-10)


@pytest.mark.parametrize("kind", [WeightAveraging, EMAWeightAveraging])
def test_weight_averaging_copies_the_module_but_no_table(kind: Any) -> None:
    found: list[Any] = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            found.append((tables(averaging._average_model.module), tables(pl_module)["behavior"].num_samples))

    averaging = kind()
    recorder = Recorder()
    quiet(callbacks=[averaging, Look(), recorder]).fit(model(), data())
    assert found == [({}, N)] * EPOCHS
    assert recorder.losses == pytest.approx(oracle().step_losses, abs=1e-10)


def test_a_second_fit_with_a_fresh_trainer_begins_with_empty_tables() -> None:
    robust = model()
    train(robust, data())
    robust.load_state_dict(model().state_dict())
    assert train(robust, data()).losses == pytest.approx(oracle().step_losses, abs=1e-10)


def test_a_fit_that_goes_on_keeps_them() -> None:
    robust, recorder = model(total_epochs=EPOCHS), Recorder()
    trainer = quiet(callbacks=[recorder], max_epochs=2)
    trainer.fit(robust, data())
    trainer.fit_loop.max_epochs = EPOCHS
    trainer.fit(robust, data())
    assert recorder.losses == pytest.approx(oracle().step_losses, abs=1e-10)


# -- checkpoints -------------------------------------------------------------------------------------------


def saved(path: Path, epochs: int, kind: Any = Robust, **options: Any) -> dict[str, Any]:
    """Train for some epochs, save, and read the file as anybody may."""
    trainer = quiet(max_epochs=epochs)
    trainer.fit(model(kind, total_epochs=EPOCHS, **options), data())
    trainer.save_checkpoint(path)
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def test_a_checkpoint_holds_the_tables_under_their_own_key_and_loads_safely(tmp_path: Path) -> None:
    state = saved(tmp_path / "a.ckpt", 2)["lightning_flip"]
    assert state.keys() == {"version", "tables", "epoch", "total_epochs", "partial", "logits", "data"}
    assert state["logits"] == {
        "place": "",
        "kind": "logits",
        "looks": "logits",
        "classes": K,
        "prefix": False,
        "named": False,
        "ignored": -100,
    }
    assert (state["version"], state["total_epochs"]) == (1, EPOCHS)
    assert state["epoch"] == 1
    assert state["partial"] is False
    table, trace = state["tables"]["behavior"], oracle()
    for rows, seen, epoch in (("rows", "seen", 0), ("pending", "pending_seen", 1)):
        torch.testing.assert_close(table[rows], torch.from_numpy(trace.behaviors[epoch]), rtol=0, atol=1e-10)
        assert table[seen].equal(torch.from_numpy(trace.restricted[epoch]))


def test_a_term_without_tables_writes_nothing(tmp_path: Path) -> None:
    assert "lightning_flip" not in saved(tmp_path / "a.ckpt", 1, term_weight=0.0)


def test_a_run_with_nothing_left_to_do_hands_its_tables_on(tmp_path: Path) -> None:
    """No step is taken, so that no table is made; what was loaded goes into the next checkpoint."""
    epochs = 2
    first = saved(tmp_path / "a.ckpt", epochs)
    idle = Recorder()
    trainer = quiet(callbacks=[idle], max_epochs=epochs)
    trainer.fit(model(total_epochs=EPOCHS), data(), ckpt_path=tmp_path / "a.ckpt")
    assert idle.losses == []
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    second = torch.load(tmp_path / "b.ckpt", weights_only=True)
    assert first["lightning_flip"]["tables"]["behavior"]["pending_seen"].any()
    assert second["lightning_flip"].pop("logits") == first["lightning_flip"].pop("logits")
    assert second["lightning_flip"].pop("data")["facts"] == first["lightning_flip"].pop("data")["facts"]
    torch.testing.assert_close(second["lightning_flip"], first["lightning_flip"], rtol=0, atol=0)
    recorder = Recorder()
    quiet(callbacks=[recorder]).fit(model(total_epochs=EPOCHS), data(), ckpt_path=tmp_path / "b.ckpt")
    assert recorder.losses == pytest.approx(oracle().step_losses[5 * epochs :], abs=1e-10)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_round_goes_on_after_a_resumption(tmp_path: Path, epochs: int) -> None:
    saved(tmp_path / "a.ckpt", epochs, Retrospective, lwr_interval=2)
    net, options = NumpyNet.random(D, H, K, seed=0), LwrOptions(interval=2, total_epochs=EPOCHS)
    trace = lwr_loop(net, inputs(), labels(K), shuffled_batches(), options, LR)
    recorder = Recorder()
    again = model(Retrospective, total_epochs=EPOCHS, lwr_interval=2)
    quiet(callbacks=[recorder]).fit(again, data(), ckpt_path=tmp_path / "a.ckpt")
    assert recorder.losses == pytest.approx(trace.step_losses[5 * epochs :], abs=1e-10)


class Saver(pl.Callback):
    """Saves after one batch of one epoch."""

    def __init__(self, path: Path, epoch: int, batch: int) -> None:
        self.path, self.epoch, self.batch = path, epoch, batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            trainer.save_checkpoint(self.path)


class RestOfEpoch(FixedBatches):
    """Begins inside an epoch, as a stateful loader does."""

    skip = 0

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.epochs[self.epoch][self.skip if self.epoch == 1 else 0 :]:
            yield batch.tolist()


# The sampler does begin where the run stopped; Lightning only believes loaders that have a state.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")
@pytest.mark.parametrize("batch", [3, 4])
def test_a_run_resumed_inside_an_epoch_reads_what_the_epoch_before_left(tmp_path: Path, batch: int) -> None:
    path, options = tmp_path / "a.ckpt", {"restrict": "all"}  # so that samples that come again were written before
    quiet(callbacks=[Saver(path, 1, batch)], max_epochs=2).fit(model(total_epochs=EPOCHS, **options), data())
    state = torch.load(path, weights_only=True)["lightning_flip"]
    assert state["epoch"] == 1
    assert state["tables"]["behavior"]["seen"].equal(torch.from_numpy(oracle(**options).restricted[0]))
    batches, recorder = RestOfEpoch(shuffled_batches()), Recorder()
    batches.skip = batch + 1
    rest = DataLoader(data().dataset, batch_sampler=batches)
    quiet(callbacks=[recorder]).fit(model(total_epochs=EPOCHS, **options), rest, ckpt_path=path)
    assert recorder.losses == pytest.approx(oracle(**options).step_losses[5 + batch + 1 :], abs=1e-10)


def test_a_table_of_other_data_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.ckpt", 1)
    other = loader(inputs(N - 1), labels(K, N - 1), shuffled_batches(n=N - 1))
    with pytest.raises(ChangedDataError, match=r"24 samples before, 23 now"):
        quiet().fit(model(), other, ckpt_path=tmp_path / "a.ckpt")


def test_validation_with_a_checkpoint_leaves_the_tables_alone(tmp_path: Path) -> None:
    class Validated(Robust):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    saved(tmp_path / "a.ckpt", 2)
    fresh = model(Validated)
    quiet().validate(fresh, data(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert tables(fresh) == {}


def test_the_storage_type_goes_into_the_checkpoint(tmp_path: Path) -> None:
    state = saved(tmp_path / "a.ckpt", 2, table_dtype="float16")["lightning_flip"]
    assert state["tables"]["behavior"]["rows"].dtype == torch.float16


# -- hyperparameters ---------------------------------------------------------------------------------------


class RobustClassifier(FlippingErrorReduction, Classifier):
    """FER in front of this package's classifier."""


class LitSaved(LitNet):
    def __init__(self, width: int = D, classes: int = K, lr: float = LR) -> None:
        super().__init__(nn.Linear(width, classes).double(), lr)
        self.save_hyperparameters()


class RobustSaved(FlippingErrorReduction, LitSaved):
    """FER in front of a module that saves its hyperparameters."""


OPTIONS: dict[str, Any] = {"fer_mu": 0.3, "restrict": "all", "average": False, "term_weight": 0.5}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning")  # the classifier has one
def test_loading_a_classifier_keeps_the_options(tmp_path: Path) -> None:
    trainer = quiet(max_epochs=1)
    robust = RobustClassifier(MLP(D, K), num_classes=K, **OPTIONS)
    trainer.fit(robust.double(), data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = RobustClassifier.load_from_checkpoint(tmp_path / "a.ckpt", network=MLP(D, K))
    for name, value in OPTIONS.items():
        assert getattr(loaded.mixin_options, name) == loaded.hparams["mixin_options"][name] == value, name


def test_loading_a_users_module_keeps_the_options(tmp_path: Path) -> None:
    trainer = quiet(max_epochs=1)
    trainer.fit(RobustSaved(lr=0.2, **OPTIONS), data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = RobustSaved.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.lr == 0.2
    for name, value in OPTIONS.items():
        assert getattr(loaded.mixin_options, name) == loaded.hparams["mixin_options"][name] == value, name
