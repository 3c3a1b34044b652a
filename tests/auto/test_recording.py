"""A script that knows nothing of the recording trains to the same bits, whatever happens to it."""

from __future__ import annotations

import importlib
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_flip.auto import callbacks
from lightning_flip.auto._recording import Recording
from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.stores import read_history
from tests.auto.helpers import ADVICE, PACKAGES, Stream, assert_same, loaders, net_of, points, write_entry_points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]


def fit(flow, model, **options):
    trainer = flow.trainer(**options)
    trainer.fit(model, *loaders())
    return trainer


def passes(folder, split):
    return read_history(folder).passes(split)


# -- what is recorded -------------------------------------------------------------------------------------------------


def test_everything_a_trainer_does(flow):
    def everything(flow, model):
        trainer = flow.trainer()
        train, val = loaders()
        trainer.fit(model, train, val)
        validated = trainer.validate(model, val, verbose=False)
        tested = trainer.test(model, val, verbose=False)
        return trainer.callback_metrics, validated, tested, trainer.predict(model, val)

    off, on = flow.both(everything)
    assert_same(off.given, on.given)
    assert on.told == []
    assert flow.versions == ["version_0"]
    history = read_history(flow.root / "version_0")
    assert {split: len(history.passes(split)) for split in history.splits} == {
        "train": 3,
        "val": 3,
        "validate": 1,
        "test": 1,
    }
    assert len(history.samples("train")) == 30
    assert history.to_arrow("train").num_rows == 90
    assert history.samples("val")["target"].to_pylist() == points(14, 1).tensors[1].tolist()
    validated, tested = (history.to_arrow(split)["cross_entropy"] for split in ("validate", "test"))
    assert validated == tested
    assert history.run.info == {
        "recorded_by": "LIGHTNING_FLIP",
        "module": type(flow.net()).__qualname__,
        "world_size": 1,
        "max_epochs": 3,
        "num_classes": 3,
    }


def test_the_rows_are_those_of_a_callback(unnamed_flow):
    flow = unnamed_flow
    own = flow.folder / "own"
    flow.run(True, lambda flow, model: fit(flow, model, callbacks=[PredictionHistory(own)]))
    ours = read_history(flow.root / "version_0")
    assert ours.to_arrow() == read_history(own).to_arrow()


def test_a_validation_alone(flow):
    def validate(flow, model):
        return flow.trainer().validate(model, loaders()[1], verbose=False)

    off, on = flow.both(validate)
    assert off.given == on.given
    history = read_history(flow.root / "version_0")
    assert (history.splits, history.to_arrow().num_rows) == (["validate"], 14)
    loss = history.to_arrow()["cross_entropy"].to_numpy().mean()
    assert on.given[0]["val_loss"] == pytest.approx(loss, abs=1e-5)


def test_what_leaves_nothing(flow):
    flow.both(lambda flow, model: fit(flow, model, fast_dev_run=True))
    flow.run(True, lambda flow, model: flow.trainer() and None)
    flow.run(True, lambda flow, model: flow.trainer().predict(model, loaders()[1]))
    assert flow.versions == []


def test_checkpoints_are_the_same(flow):
    def save(flow, model):
        name = f"saved-{len(list(flow.folder.glob('saved-*')))}"
        checkpoint = importlib.import_module(f"{flow.package}.callbacks").ModelCheckpoint
        folder = flow.folder / "same"
        for old in folder.glob("*.ckpt"):
            old.unlink()
        fit(flow, model, enable_checkpointing=True, callbacks=[checkpoint(folder, monitor="val_loss", save_last=True)])
        path = flow.folder / name
        path.write_bytes((folder / "last.ckpt").read_bytes())
        return torch.load(path, weights_only=True)

    off, on = flow.both(save)
    assert_same(off.given, on.given)
    assert not [key for key in on.given["callbacks"] if "Recording" in key]


def test_a_resumed_run_is_another_one(flow):
    def resume(flow, model):
        path = flow.folder / "two.ckpt"
        fit(flow, flow.net(), max_epochs=2).save_checkpoint(path)
        return flow.trainer(max_epochs=4).fit(model, *loaders(), ckpt_path=path)

    flow.both(resume)
    assert flow.versions == ["version_0", "version_1"]
    assert passes(flow.root / "version_0", "train") == [(0, 0), (1, 0)]
    assert passes(flow.root / "version_1", "train") == [(2, 0), (3, 0)]
    assert read_history(flow.root / "version_1").run.info["resumed_from_epoch"] == 2
    assert "resumed_from_epoch" not in read_history(flow.root / "version_0").run.info


def test_fits_that_go_on_with_a_trainer(unnamed_flow):
    def twice(flow, model):
        trainer = flow.trainer(max_epochs=2)
        trainer.validate(model, loaders()[1], verbose=False)
        trainer.fit(model, *loaders())
        trainer.fit_loop.max_epochs = 3
        trainer.fit(model, *loaders())

    unnamed_flow.both(twice)
    assert unnamed_flow.versions == ["version_0"]
    assert passes(unnamed_flow.root / "version_0", "train") == [(0, 0), (1, 0), (2, 0)]
    assert passes(unnamed_flow.root / "version_0", "validate") == [(0, 0)]


@pytest.mark.filterwarnings("ignore:.*The number of training batches")
def test_tuning_records_nothing(flow):
    tuner = importlib.import_module(f"{flow.package}.tuner").Tuner

    def tune(flow, model):
        trainer = flow.trainer()
        found = tuner(trainer).lr_find(model, *loaders(), num_training=8, update_attr=False)
        return found.suggestion(skip_begin=1, skip_end=1), found.results

    off, on = flow.both(tune)
    assert_same(off.given, on.given)
    assert flow.versions == []


def test_tuning_inside_of_a_fit(flow):
    finder = importlib.import_module(f"{flow.package}.callbacks").LearningRateFinder
    flow.both(lambda flow, model: fit(flow, model, callbacks=[finder(num_training_steps=8)]))
    history = read_history(flow.root / "version_0")
    assert [history.to_arrow(split).num_rows for split in ("train", "val")] == [90, 42]


# -- several ------------------------------------------------------------------------------------------------------


def test_trainers_that_share_a_list(flow):
    def share(flow, model):
        shared = [flow.pl.Callback()]  # Lightning puts another list into the place of an empty one
        first, second = flow.trainer(callbacks=shared), flow.trainer(callbacks=shared)
        second.fit(model, *loaders())
        first.fit(flow.net(), *loaders())
        return [callback for callback in second.callbacks if isinstance(callback, Recording)]

    _, on = flow.both(share)
    assert flow.versions == ["version_0", "version_1"]
    assert all(passes(flow.root / version, "train") == [(0, 0), (1, 0), (2, 0)] for version in flow.versions)
    assert len(on.given) == 2
    assert len({callback.state_key for callback in on.given}) == 2


def test_one_that_does_not_act_has_no_hooks(unnamed_flow):
    flow, seen = unnamed_flow, []

    class Look(flow.pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            idle = next(callback for callback in trainer.callbacks if isinstance(callback, Recording))
            hooks = ("on_train_batch_start", "on_train_batch_end", "on_validation_batch_end", "on_train_epoch_end")
            seen.append([hook for hook in hooks if callable(getattr(idle, hook))])

    def share(flow, model):
        shared = [Look()]
        flow.trainer(callbacks=shared)
        flow.trainer(callbacks=shared).fit(model, *loaders())

    flow.run(True, share)
    assert seen
    assert not any("validation" in hook or "epoch" in hook for hooks in seen for hook in hooks)


def test_registered_twice(unnamed_flow, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(write_entry_points(tmp_path / "again", "lightning_flip_again")))
    trainer = unnamed_flow.run(True, fit).given
    assert sum(isinstance(callback, Recording) for callback in trainer.callbacks) == 2
    assert unnamed_flow.versions == ["version_0"]
    assert len(passes(unnamed_flow.root / "version_0", "train")) == 3


def test_a_trainer_inside_of_another(unnamed_flow):
    flow = unnamed_flow

    def nest(flow, model):
        shared = []

        class Probe(flow.pl.Callback):
            def on_train_epoch_start(self, trainer, module):
                if trainer is outer and trainer.current_epoch == 1:
                    inner.fit(flow.net(), *loaders())

        shared.append(Probe())
        outer, inner = flow.trainer(callbacks=shared), flow.trainer(callbacks=shared, max_epochs=1)
        outer.fit(model, *loaders())

    flow.both(nest)
    counts = sorted(len(passes(flow.root / version, "train")) for version in flow.versions)
    assert counts == [1, 3]


# -- beside the user's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trains", [False, True])
def test_own_callbacks_and_mixins_have_the_same_numbers(flow, trains):
    net = flow.net
    robust = type("Robust", (FlippingErrorReduction, net), {})
    path = flow.folder / "own.ckpt"

    def own(flow, model):
        robust_model = robust()
        tracker = FlipTracker(train=trains)
        trainer = fit(flow, robust_model, callbacks=[tracker])
        trainer.save_checkpoint(path)
        model.load_state_dict(robust_model.state_dict())
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return metrics, torch.load(path, weights_only=True)

    off, on = flow.both(own)
    assert_same(off.given, on.given)
    assert "val_flipping_error" in on.given[0]
    assert len(passes(flow.root / "version_0", "train")) == 3


def test_a_tracker_alone_saves_the_same(unnamed_flow):
    path = unnamed_flow.folder / "own.ckpt"

    def own(flow, model):
        fit(flow, model, callbacks=[FlipTracker()]).save_checkpoint(path)
        return torch.load(path, weights_only=True)

    off, on = unnamed_flow.both(own)
    assert_same(off.given, on.given)


def test_the_errors_of_others_are_raised(flow):
    def own(flow, model):
        with pytest.raises(TypeError, match="no index") as raised:
            flow.trainer(callbacks=[FlipTracker(train=True)]).fit(model, DataLoader(Stream(), 6))
        return str(raised.value)

    off, on = flow.both(own)
    assert off.given == on.given
    assert len(on.told) <= 1


def test_others_keep_their_rows_when_recording_fails(flow, monkeypatch):
    def own(flow, model):
        return {k: float(v) for k, v in fit(flow, model, callbacks=[FlipTracker(train=True)]).callback_metrics.items()}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_flip.callbacks.prediction_history.write_part", fail)
    off, on = flow.both(own)
    assert off.given == on.given
    assert len(on.told) == 1
    assert "No space left on device" in on.told[0]


# -- what cannot be recorded ------------------------------------------------------------------------------------------


def test_data_without_an_index(flow):
    def stream(flow, model):
        flow.trainer().fit(model, DataLoader(Stream(), 6), loaders()[1])

    _, on = flow.both(stream)
    assert len(on.told) == 1
    assert "no index" in on.told[0]
    assert read_history(flow.root / "version_0").splits == ["val"]


def test_nothing_has_an_index(flow):
    _, on = flow.both(lambda flow, model: flow.trainer().fit(model, DataLoader(Stream(), 6), DataLoader(Stream(), 6)))
    assert len(on.told) == 1
    assert flow.versions == []


def test_strict_raises(flow):
    with pytest.raises(TypeError, match="no index"):
        flow.run(True, lambda flow, model: flow.trainer().fit(model, DataLoader(Stream(), 6)), strict=True)
    assert flow.versions == []


def test_a_root_that_cannot_be_written(flow):
    blocked = flow.folder / "file"
    blocked.write_text("not a folder")
    _, on = flow.both(fit, root=blocked / "root")
    assert len(on.told) == 1
    assert "nothing can be recorded under" in on.told[0]
    with pytest.raises(OSError, match="nothing can be recorded under"):
        flow.run(True, fit, root=blocked / "root", strict=True)


def test_no_logits(flow):
    class Regression(flow.net):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(5, 1)

        def training_step(self, batch, batch_idx):
            return self(batch[0]).square().mean()

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self(batch[0]).square().mean())

    def regress(flow, model):
        regression = Regression()
        fit(flow, regression)
        return regression.state_dict()

    off, on = flow.both(regress)
    assert_same(off.given, on.given)
    assert len(on.told) == 1
    assert "no logits" in on.told[0]
    assert flow.versions == []


def test_training_that_diverges(flow):
    class Diverges(flow.net):
        def training_step(self, batch, batch_idx):
            x, y = batch
            scale = float("nan") if self.global_step == 6 else 1.0
            return nn.functional.cross_entropy(self(x) * scale, y)

    def diverge(flow, model):
        other = Diverges()
        fit(flow, other)
        model.load_state_dict(other.state_dict())

    _, on = flow.both(diverge)
    assert all(value.isnan().all() for value in on.weights.values())
    assert len(on.told) == 1
    assert "not finite" in on.told[0]


def test_warnings_that_are_errors(unnamed_flow, monkeypatch, caplog):
    def stream(flow, model):
        import warnings

        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*LIGHTNING_FLIP")
            flow.trainer().fit(model, DataLoader(Stream(), 6))

    unnamed_flow.both(stream)
    assert ADVICE in caplog.text


class Manual(net_of(PACKAGES[0])):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


class Mixes(net_of(PACKAGES[0])):
    def training_step(self, batch, batch_idx):
        (x, y), other = batch, torch.randperm(len(batch[0]))
        logits = self(0.7 * x + 0.3 * x[other])
        return 0.7 * nn.functional.cross_entropy(logits, y) + 0.3 * nn.functional.cross_entropy(logits, y[other])


class DrawsTwice(net_of(PACKAGES[0])):
    def training_step(self, batch, batch_idx):
        return sum(nn.functional.cross_entropy(self(x), y) for x, y in batch)


@pytest.mark.parametrize(
    ("kind", "train", "options", "told"),
    [
        (Manual, {}, {}, 0),
        (None, {}, {"accumulate_grad_batches": 2, "val_check_interval": 0.5}, 0),
        (None, {}, {"max_steps": 7, "max_epochs": -1, "precision": "bf16-mixed"}, 0),
        (None, {"num_workers": 1, "persistent_workers": True}, {}, 0),
        (Mixes, {}, {}, 1),
        (DrawsTwice, None, {}, 1),
    ],
)
def test_other_ways_to_train(unnamed_flow, kind, train, options, told):
    def other(flow, model):
        if kind is not None:
            model = kind()
        loader = [DataLoader(points(), 7)] * 2 if train is None else DataLoader(points(), 7, shuffle=True, **train)
        flow.trainer(**options).fit(model, loader, loaders()[1])
        return model.state_dict()

    off, on = unnamed_flow.both(other)
    assert_same(off.given, on.given)
    assert len(on.told) == told


def test_a_loader_that_changes_batches(unnamed_flow):
    class Doubling(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                assert type(batch) is list
                yield [torch.cat([part, part]) for part in batch]

    def double(flow, model):
        flow.trainer().fit(model, Doubling(points(), 7), loaders()[1])

    _, on = unnamed_flow.both(double)
    assert len(on.told) == 1
    assert read_history(unnamed_flow.root / "version_0").splits == ["val"]


def test_a_script_that_looks_into_its_loaders(flow):
    class Look(flow.pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            x, y = trainer.train_dataloader.dataset[3]
            seen.append((x.tolist(), int(y), [len(y) for _, y in trainer.val_dataloaders]))

    seen = []
    flow.both(lambda flow, model: fit(flow, model, callbacks=[Look()]))
    assert seen[:3] == seen[3:]


def test_values_that_are_checked_later(unnamed_flow, monkeypatch):
    """As on a device, where the flags of steps are read every now and then."""
    from lightning_flip.steps.checks import ValueChecks

    look = ValueChecks.look

    def later(self, *args, **options):
        return look(self, *args, **options | {"deferred": True})

    monkeypatch.setattr(ValueChecks, "look", later)
    flow = unnamed_flow

    class Diverges(flow.net):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.cross_entropy(self(x) * (float("nan") if self.global_step == 6 else 1.0), y)

    def diverge(flow, model):
        other = Diverges()
        fit(flow, other)
        model.load_state_dict(other.state_dict())

    _, on = flow.both(diverge)
    assert len(on.told) == 1
    assert "not finite" in on.told[0]
    assert passes(flow.root / "version_0", "train") == [(0, 0)]

    def own(flow, model):
        with pytest.raises(ValueError, match="not finite"):
            fit(flow, Diverges(), callbacks=[FlipTracker(train=True)])

    flow.both(own)


def test_an_error_in_a_hook(unnamed_flow, monkeypatch):
    """Wherever ours fails, training does not."""
    flow = unnamed_flow

    def fail(*args, **kwargs):
        raise RuntimeError("planted")

    for place in (
        "lightning_flip.callbacks.watcher.attach",
        "lightning_flip.callbacks.prediction_history.Visits.add_visits",
        "lightning_flip.callbacks.prediction_history.write_samples",
        "lightning_flip.callbacks.prediction_history.write_part",
        "lightning_flip.auto._recording.claim",
        "lightning_flip.steps.identity.describe_data",
        "lightning_flip.steps.identity.KnownLabels.compare",
        "lightning_flip.auto._recording.discard_empty_run",
        "lightning_flip.steps.logits._step_capture.StepCapture.find",
        "lightning_flip.steps.logits._step_capture.StepCapture.arm",
        "lightning_flip.steps.logits._step_capture.Search.watching",
        "lightning_flip.steps.logits._search.Search._note",
        "lightning_flip.steps.logits._search.Search._maker",
        "lightning_flip.steps.logits.loss_calls._loss_call",
        "lightning_flip.steps._recorder._Feed.catch",
        "lightning_flip.steps._block.Block.view",
        "lightning_flip.steps._block.Block.drain",
        "lightning_flip.steps._recorder.steps_left_out",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            _, on = flow.both(fit)
        assert len(on.told) == (place.rpartition(".")[2] != "discard_empty_run"), place
        assert all("planted" in text for text in on.told), place


# -- exceptions -----------------------------------------------------------------------------------------------------


def test_the_users_exception_is_the_users(flow):
    class Fails(flow.net):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 2 and batch_idx == 2:
                raise ZeroDivisionError("mine")
            return super().training_step(batch, batch_idx)

    def failing(flow, model):
        with pytest.raises(ZeroDivisionError, match=r"^mine$") as raised:
            fit(flow, Fails())
        return raised.value.__notes__ if hasattr(raised.value, "__notes__") else []

    off, on = flow.both(failing)
    assert off.given == on.given
    history = read_history(flow.root / "version_0")
    assert history.passes("train")[:2] == [(0, 0), (1, 0)]
    assert history.passes("val") == [(0, 0), (1, 0)]


def test_an_exception_before_any_row(unnamed_flow):
    class Fails(unnamed_flow.net):
        def training_step(self, batch, batch_idx):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError):
        unnamed_flow.run(True, lambda flow, model: fit(flow, Fails()))
    assert unnamed_flow.versions == []


# -- the factory ------------------------------------------------------------------------------------------------------


def test_the_factory(monkeypatch, tmp_path):
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("LIGHTNING_FLIP", raising=False)
        else:
            monkeypatch.setenv("LIGHTNING_FLIP", value)
        assert callbacks() == []
    monkeypatch.setenv("LIGHTNING_FLIP", "runs")
    (first,), (second,) = callbacks(), callbacks()
    monkeypatch.chdir("/")
    assert first.root == tmp_path / "runs"
    assert not first.strict
    assert first.state_key != second.state_key
    assert first.state_dict() == {}
    copied = pickle.loads(pickle.dumps(first))  # as to ranks that are spawned
    assert (copied.state_key, copied.root) == (first.state_key, first.root)
    monkeypatch.setenv("LIGHTNING_FLIP_STRICT", "0")
    assert not callbacks()[0].strict
    monkeypatch.setenv("LIGHTNING_FLIP_STRICT", "1")
    assert callbacks()[0].strict
    assert not (tmp_path / "runs").exists()


def test_a_factory_that_fails(monkeypatch, caplog):
    monkeypatch.setenv("LIGHTNING_FLIP", "runs")
    monkeypatch.setitem(__import__("sys").modules, "lightning_flip.auto._recording", None)
    assert callbacks() == []
    assert ADVICE in caplog.text
    monkeypatch.setenv("LIGHTNING_FLIP_STRICT", "1")
    with pytest.raises(ImportError):
        callbacks()
