"""Versions of the states in checkpoints, and the schedule that a resumed run keeps."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lightning_flip.callbacks import (
    ExactResume,
    FlipTracker,
    LearningPath,
    NegativeFlipMonitor,
    PredictionFilter,
    PredictionHistory,
    TemperatureScaling,
    TransitionEstimator,
    ZigZag,
)
from lightning_flip.mixins import FlippingErrorReduction
from tests.callbacks.helpers import CLASSES, Watched, loader, make_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:.* parts newer than the checkpoint were set aside"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
]

OLD = nn.Linear(5, CLASSES)  # of what a batch has, index included


class Scored(FlippingErrorReduction, Watched):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_acc", 0.5)


def callbacks() -> dict[str, pl.Callback]:
    return {
        "FlipTracker": FlipTracker(train=True),
        "PredictionHistory": PredictionHistory("run"),
        "PredictionFilter": PredictionFilter(dirpath="run"),
        "ZigZag": ZigZag("run"),
        "LearningPath": LearningPath([3], dirpath="run"),
        "TransitionEstimator": TransitionEstimator("transition.npz"),
        "NegativeFlipMonitor": NegativeFlipMonitor(OLD, train=True),
        "TemperatureScaling": TemperatureScaling(figures=False, dirpath="run"),
        "ExactResume": ExactResume(),
    }


def fit(ckpt: str | None = None, **options: Any) -> pl.Trainer:
    ours = callbacks()
    trainer = make_trainer(callbacks=list(ours.values()), **({"max_epochs": 2} | options))
    trainer.fit(Scored(), loader(12), loader(8, seed=1), ckpt_path=ckpt, weights_only=True)
    return trainer


def checkpoint_without(change: Any) -> str:
    """A checkpoint of the first epoch, with its states changed."""
    fit(max_epochs=1).save_checkpoint("saved.ckpt")
    checkpoint = torch.load("saved.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, "changed.ckpt")
    return "changed.ckpt"


def states(checkpoint: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The states of this package by class."""
    found = {key.partition("{")[0]: state for key, state in checkpoint["callbacks"].items()}
    return {**{name: found[name] for name in callbacks()}, "LossTerm": checkpoint["lightning_flip"]}


def test_every_state_has_a_version() -> None:
    fit(max_epochs=1).save_checkpoint("saved.ckpt")
    found = states(torch.load("saved.ckpt", weights_only=True))
    assert {name: state["version"] for name, state in found.items()} == dict.fromkeys(found, 1)


@pytest.mark.parametrize("name", [*callbacks(), "LossTerm"])
@pytest.mark.filterwarnings("ignore:this run began with a schedule")
def test_an_unknown_version_is_an_error_that_names_both(name: str) -> None:
    def newer(checkpoint: dict[str, Any]) -> None:
        states(checkpoint)[name]["version"] = 7

    with pytest.raises(ValueError, match=rf"state of {name} has version 7; this lightning-flip reads version 1\."):
        fit(checkpoint_without(newer))


def test_states_without_a_version_load_with_one_warning() -> None:
    def older(checkpoint: dict[str, Any]) -> None:
        for state in states(checkpoint).values():
            del state["version"]
        del checkpoint["lightning_flip"]["total_epochs"]

    path = checkpoint_without(older)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(path)
    said = [str(warning.message) for warning in caught if "written by version 0.1" in str(warning.message)]
    assert len(said) == 1
    tracker = next(callback for callback in trainer.callbacks if isinstance(callback, FlipTracker))  # type: ignore[attr-defined]
    assert tracker.statistics["train", 0].visits.tolist() == [2] * 12


# -- the schedule ----------------------------------------------------------------------------------------------


class Weights(pl.Callback):
    """The k and M that each epoch's loss was weighted with."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.seen.append(pl_module._term_loop.schedule())


def schedule(ckpt: str | None, max_epochs: int, **options: Any) -> list[tuple[int, int]]:
    weights = Weights()
    trainer = make_trainer(callbacks=[weights], max_epochs=max_epochs)
    trainer.fit(Scored(**options), loader(12), ckpt_path=ckpt, weights_only=True)
    trainer.save_checkpoint(f"{max_epochs}.ckpt")
    return weights.seen


def test_a_resumed_run_keeps_the_m_it_began_with() -> None:
    assert schedule(None, 2) == [(1, 2), (2, 2)]
    with pytest.warns(UserWarning, match=r"began with a schedule of M = 2 .* trains for 4\. Pass total_epochs="):
        assert schedule("2.ckpt", 4) == [(3, 2), (4, 2)]
    assert torch.load("4.ckpt", weights_only=True)["lightning_flip"]["total_epochs"] == 2


def test_total_epochs_changes_it() -> None:
    schedule(None, 2)
    assert schedule("2.ckpt", 4, total_epochs=4) == [(3, 4), (4, 4)]
    assert schedule("4.ckpt", 5, total_epochs=8) == [(5, 8)]


def test_a_new_run_of_the_same_module_begins_anew() -> None:
    model = Scored()
    for epochs in (2, 3):
        weights = Weights()
        make_trainer(callbacks=[weights], max_epochs=epochs).fit(model, loader(12))
        assert weights.seen == [(k, epochs) for k in range(1, epochs + 1)]


def test_the_fixtures_of_0_1_have_no_version() -> None:
    """What the resumption tests in tests/fixtures rest on."""
    checkpoint = torch.load(Path(__file__).parents[1] / "fixtures/v0_1/callbacks/stopped.ckpt", weights_only=True)
    assert not any("version" in state for state in checkpoint["callbacks"].values())
