"""What our callbacks do while an exception is in flight: they never hide it, nor keep others from their turn."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from lightning_flip.callbacks import (
    Diagnostic,
    ExactResume,
    Finding,
    FlipTracker,
    LearningPath,
    NegativeFlipMonitor,
    PredictionFilter,
    PredictionHistory,
    TransitionEstimator,
    ZigZag,
)
from lightning_flip.models import MLP
from lightning_flip.stores import read_history, read_samples
from tests.callbacks.helpers import CLASSES, Robust, Watched, loader, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
]
COUNT, HELD_OUT, BATCH = 12, 6, 4
STEPS = COUNT // BATCH


class Trouble(Exception):  # noqa: N818 - the user's own, whatever it is called
    """The exception that a user has to see."""


class Fail(pl.Callback):
    """Raises before a batch of the second epoch, once, and calls for what goes wrong from then on."""

    def __init__(self, begin=lambda: None, step=STEPS + 2):
        self.begin, self.step = begin, step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.step = -1
            self.begin()
            raise Trouble("the case under test")


class Heard(pl.Callback):
    """Somebody else's callback."""

    def __init__(self):
        self.exceptions = []

    def on_exception(self, trainer, pl_module, exception):
        self.exceptions.append(exception)


class Rated(Watched):
    """Logs what a PredictionFilter chooses its best pass by."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_acc", 0.5, batch_size=len(batch[1]))


class RobustRated(Robust, Rated):
    """With a loss that keeps a table."""


class Largest(Diagnostic):
    title = "largest"

    def columns(self, step):
        return {"largest": step.logits.amax(dim=1)}

    def describe(self, trainer, split, rows):
        return Finding({"largest": [float(rows["largest"].max())]}, None)


OURS = {
    "history": lambda: PredictionHistory("run"),
    "tracker": lambda: FlipTracker(train=True),
    "zigzag": lambda: ZigZag("run"),
    "filter": lambda: PredictionFilter(0.3, dirpath="run"),
    "path": lambda: LearningPath([0, 3, 7], dirpath="run"),
    "path of the best": lambda: LearningPath(k=3, dirpath="run"),
    "estimator": lambda: TransitionEstimator("run/transition.npz", warmup_epochs=2),
    "monitor": lambda: NegativeFlipMonitor(MLP(5, CLASSES), train=True),
    "diagnostic": lambda: Largest(train=True, every_n_epochs=1, figures=False, dirpath="run"),
    "exact resume": ExactResume,
    "loop": lambda: None,  # a mixin's own, which its module brings along
}
WRITES_IN_EXCEPTIONS = ("history", "path")


class Faults:
    """What does not work while `on`; `met` says that somebody came across it."""

    def __init__(self):
        self.on, self.met = False, 0

    def begin(self):
        self.on = True

    def full_disk(self, monkeypatch):
        """No space left under ``run``, however a file gets there; checkpoints lie elsewhere."""

        def refuse(owner, name, place):
            original = getattr(owner, name)

            def guarded(*args, **kwargs):
                where = Path(os.fspath(args[place])).absolute()
                if self.on and Path("run").absolute() in where.parents:
                    self.met += 1
                    raise OSError(errno.ENOSPC, "No space left on device", str(where))
                return original(*args, **kwargs)

            monkeypatch.setattr(owner, name, guarded)

        refuse(os, "replace", 1)
        refuse(pq, "write_table", 1)

    def lost_device(self, monkeypatch):
        """As after an error on a GPU: nothing that lies on it can be read any more. It concerns our own reads alone."""

        def refuse(name):
            original = getattr(torch.Tensor, name)

            def guarded(tensor, *args, **kwargs):
                if self.on and sys._getframe(1).f_globals.get("__name__", "").startswith("lightning_flip."):
                    self.met += 1
                    raise RuntimeError("CUDA error: device-side assert triggered")
                return original(tensor, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, guarded)

        for name in ("cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__"):
            refuse(name)


@pytest.fixture
def faults():
    return Faults()


def fit(trainer, model, ckpt=None):
    trainer.fit(model, loader(COUNT, BATCH), loader(HELD_OUT, BATCH, seed=1), ckpt_path=ckpt)


def crash(faults, callbacks, model=None, first=False):
    """Train until the failure.

    Returns:
        Trainer, module, warnings of the exception's hooks, and what a callback listed last has heard.
    """
    Path("last").mkdir()
    model, heard = model or Rated(), Heard()
    saver = OnExceptionCheckpoint("last")
    callbacks = [Fail(faults.begin), *([saver] if first else []), *callbacks, *([] if first else [saver]), heard]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, log_every_n_steps=50)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit(trainer, model)
        except BaseException as error:
            seen = error
        else:
            pytest.fail("nothing was raised")
        finally:
            faults.on = False
    assert type(seen) is Trouble, f"the user sees {type(seen).__name__}: {seen}"
    assert heard.exceptions == [seen]
    return trainer, model, [str(warning.message) for warning in caught]


def assert_detached(trainer, model):
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert not {"training_step", "validation_step", "process_dataloader"} & set(vars(trainer.strategy))
    assert "convert_input" not in vars(trainer.precision_plugin)
    assert type(trainer.train_dataloader.dataset).__name__ == "TensorDataset"


def assert_a_checkpoint_lies(folder="last"):
    """It is whole: weights and loops as they were."""
    checkpoint = torch.load(Path(folder, "on_exception.ckpt"), weights_only=True)
    assert checkpoint["global_step"] == STEPS + 2
    assert set(checkpoint["state_dict"]) == set(Watched().state_dict())


@pytest.mark.parametrize("first", [False, True], ids=["saved after ours", "saved before ours"])
@pytest.mark.parametrize("fault", ["full_disk", "lost_device"])
@pytest.mark.parametrize("name", OURS)
def test_the_users_exception_is_what_the_user_sees(name, fault, first, faults, monkeypatch):
    """And every later callback has its turn, whichever way ours fails."""
    getattr(faults, fault)(monkeypatch)
    callback = OURS[name]()
    model = RobustRated() if name == "loop" else Rated()
    trainer, model, _ = crash(faults, [callback] if callback else [], model, first=first)
    assert_a_checkpoint_lies()
    assert_detached(trainer, model)
    if fault == "full_disk" and name in WRITES_IN_EXCEPTIONS:
        assert faults.met


@pytest.mark.parametrize("fault", ["full_disk", "lost_device"])
def test_all_of_ours_together(fault, faults, monkeypatch):
    getattr(faults, fault)(monkeypatch)
    callbacks = [make() for name, make in OURS.items() if name not in ("loop", "path of the best")]
    trainer, model, said = crash(faults, callbacks, RobustRated())
    assert faults.met
    assert_a_checkpoint_lies()
    assert_detached(trainer, model)
    words = "No space left" if fault == "full_disk" else "device-side assert"
    assert any(words in text for text in said)  # it is not hidden, either


@pytest.mark.parametrize("name", OURS)
def test_the_trainer_can_be_used_again(name, faults, monkeypatch):
    """The disk has room again, and the same Trainer goes on."""
    faults.full_disk(monkeypatch)
    callback = OURS[name]()
    model = RobustRated() if name == "loop" else Rated()
    trainer, model, _ = crash(faults, [callback] if callback else [], model)
    before = trainer.global_step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.validate(model, loader(HELD_OUT, BATCH, seed=1), verbose=False)
        fit(trainer, model)
    assert trainer.global_step > before
    assert_detached(trainer, model)


def test_logits_that_are_not_finite_do_not_hide_the_exception(faults):
    """Nobody has looked at them yet when something else goes wrong; the NaN may well be its cause."""

    class Diverging(Rated):
        def forward(self, x):
            logits = super().forward(x)
            return logits * torch.nan if self.training and self.trainer.global_step == STEPS + 1 else logits

        def training_step(self, batch, batch_idx):
            x, y = batch
            return torch.nn.functional.cross_entropy(self(x), y)

    trainer, model, said = crash(faults, [LearningPath(range(COUNT), dirpath="run")], Diverging())
    assert any("NaN" in text or "not finite" in text for text in said)
    assert_a_checkpoint_lies()
    assert_detached(trainer, model)


# -- names of samples -------------------------------------------------------------------------------------------------


class Once:
    """The n-th write of ``samples.parquet`` fails, one time."""

    def __init__(self, monkeypatch, number):
        self.writes = 0
        original = os.replace

        def replace(source, target, **options):
            if Path(os.fspath(target)).name == "samples.parquet":
                self.writes += 1
                if self.writes == number:
                    raise OSError(errno.ENOSPC, "No space left on device", "samples.parquet")
            return original(source, target, **options)

        monkeypatch.setattr(os, "replace", replace)


def assert_all_are_named():
    table = read_samples("run")
    named = sorted(zip(table["split"].to_pylist(), table["index"].to_pylist(), strict=True))
    assert named == [("train", index) for index in range(COUNT)] + [("val", index) for index in range(HELD_OUT)]
    rows = read_history("run").to_arrow()  # refuses rows of samples without a name
    for split, count in (("train", COUNT), ("val", HELD_OUT)):
        found = zip(rows["split"].to_pylist(), rows["epoch"].to_pylist(), rows["index"].to_pylist(), strict=True)
        visits = sorted(visit[1:] for visit in found if visit[0] == split and visit[1] > 0)
        assert visits == [(epoch, index) for epoch in (1, 2) for index in range(count)]


@pytest.mark.parametrize("number", [1, 2], ids=["validation", "training"])
@pytest.mark.parametrize("again", ["resumed", "same Trainer", "same callback"])
def test_samples_count_as_named_when_they_are_written(again, number, monkeypatch):
    """The first epoch ends on a full disk: the samples' rows are still to be written when there is room again."""
    once = Once(monkeypatch, number)
    callback = PredictionHistory("run")

    def saver():
        return ModelCheckpoint("saved", filename="{step}", save_top_k=-1, every_n_train_steps=1)

    trainer, model = make_trainer(callbacks=[callback, saver()]), Watched()
    with pytest.raises(OSError, match="No space left"):
        fit(trainer, model)
    assert once.writes >= number
    if again == "same Trainer":
        fit(trainer, model.train())  # a validation that fails leaves the module in eval mode
    else:
        callback = callback if again == "same callback" else PredictionHistory("run")
        fit(make_trainer(callbacks=[callback, saver()]), Watched(), ckpt=f"saved/step={STEPS}.ckpt")
    assert_all_are_named()
