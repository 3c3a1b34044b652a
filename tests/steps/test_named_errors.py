"""What is wrong with logits or labels names sample, batch and epoch, wherever it comes up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_flip.callbacks import (
    FlipTracker,
    LearningPath,
    NegativeFlipMonitor,
    NoiseAccuracy,
    PredictionFilter,
    PredictionHistory,
    PredictionWriter,
    TrainingTargets,
)
from lightning_flip.mixins import (
    Distillation,
    EarlyLearningRegularization,
    FlippingErrorReduction,
    FocalDistillation,
    LabelSmoothing,
    NaivePositiveCongruent,
)
from lightning_flip.steps.checks import ValueChecks
from tests.callbacks.helpers import CLASSES, Watched, make_trainer, points
from tests.callbacks.noisy import noisy_points

N, BATCH, SAMPLE = 20, 4, 9  # in batch 2

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no"),
    pytest.mark.filterwarnings("ignore:PredictionFilter. no validation ran"),
]


class Module(Watched):
    """Has NaN for one sample in one epoch, in one kind of step; its own loss does not show it."""

    bad_in, epoch = "train", 1

    def _spoil(self, x: Tensor, logits: Tensor, kind: str) -> Tensor:
        if kind != self.bad_in or self.trainer.current_epoch != self.epoch:
            return logits
        return torch.where((x[:, 0] == SAMPLE)[:, None], torch.nan, logits)

    def forward(self, x: Tensor) -> Tensor:
        kind = "train" if self.training else "val"
        return self._spoil(x, super().forward(x), kind)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]).nan_to_num(), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0])

    def test_step(self, batch: Any) -> None:
        self(batch[0])

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])


class Short(Module):
    """Steps that take the batch alone."""

    def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
        return super().training_step(batch, 0)

    def validation_step(self, batch: Any) -> None:  # type: ignore[override]
        self(batch[0])


def data(dataset: Any = None) -> DataLoader[Any]:
    return DataLoader(points(N) if dataset is None else dataset, batch_size=BATCH)


def fails(match: str, model: Any, *callbacks: Any, val: bool = False, dataset: Any = None, **options: Any) -> None:
    trainer = make_trainer(callbacks=list(callbacks), max_epochs=2, **options)
    with pytest.raises(ValueError, match=match):
        trainer.fit(model, data(dataset), data() if val else None)


TRAIN = r"logits are not finite .* in training_step, first for sample 9 in batch 2 of epoch 1, after 7 optimizer steps"


@pytest.mark.parametrize("module", [Module, Short])
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(
    "watcher",
    [
        lambda: FlipTracker(train=True, val=False),
        lambda: PredictionHistory("run"),
        lambda: PredictionFilter(),
        lambda: LearningPath([SAMPLE]),
        lambda: NegativeFlipMonitor(nn.Linear(5, CLASSES), train=True, val=False),
        lambda: TrainingTargets(),
    ],
)
def test_callbacks(module: Any, deferred: bool, watcher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if deferred:
        look = ValueChecks.look
        deferring = lambda self, *args, **options: look(self, *args, **options | {"deferred": True})  # noqa: E731
        monkeypatch.setattr(ValueChecks, "look", deferring)
    fails(TRAIN, module(), watcher())


class Robust(FlippingErrorReduction, Module): ...


class Smoothed(LabelSmoothing, Module): ...


class Early(EarlyLearningRegularization, Module): ...


class Manual(FlippingErrorReduction, Module):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.regularized(functional.cross_entropy(self(batch[0]).nan_to_num(), batch[1]))
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


@pytest.mark.parametrize("kind", [Robust, Smoothed, Early, Manual])
@pytest.mark.parametrize("epoch", [0, 1])
def test_mixins(kind: Any, epoch: int) -> None:
    model = kind(base_loss="any")
    model.epoch = epoch
    fails(rf"logits are not finite .* sample 9 in batch 2 of epoch {epoch}\b", model)


class AtOnce(Module):
    """Has NaN in its first step, and in its loss."""

    def _spoil(self, x: Tensor, logits: Tensor, kind: str) -> Tensor:
        return torch.where(x[:, :1] == 2, torch.nan, logits)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize("method", [FlippingErrorReduction, LabelSmoothing, EarlyLearningRegularization])
def test_mixins_in_their_first_step(method: Any) -> None:
    model = type("Model", (method, AtOnce), {})()
    fails(r"logits are not finite .* sample 2 in batch 0 of epoch 0, after 0 optimizer steps", model)


@pytest.mark.parametrize("module", [Module, Short])
def test_validation(module: Any) -> None:
    model = type("Model", (module,), {"bad_in": "val"})
    where = r"in validation_step, first for sample 9 in batch 2 of epoch 1"
    fails(where, model(), FlipTracker(), val=True)
    fails(where, model(), NegativeFlipMonitor(nn.Linear(5, CLASSES)), val=True)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_files_of_predictions(stage: str) -> None:
    model = Module()
    model.bad_in, model.epoch = "val", 0
    trainer = make_trainer(callbacks=[PredictionWriter("new.parquet")])
    options = {} if stage == "predict" else {"verbose": False}
    with pytest.raises(ValueError, match=rf"not finite .* in {stage[:4]}\w*_step, first for sample 9 in batch 2 of"):
        getattr(trainer, stage)(model, data(), **options)


def test_a_clean_pass() -> None:
    model = Module()
    model.bad_in = "val"
    fails(
        r"in a clean evaluation pass, first for sample 9 in batch 2 of epoch 1",
        model,
        NoiseAccuracy(passes="eval", dirpath="run"),
        dataset=noisy_points(N),
    )


# -- the old model -------------------------------------------------------------------------------------------------


class Old(nn.Module):
    """An old model that has no answer to one sample."""

    value = float("nan")

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x[:, 0] == SAMPLE)[:, None], self.value, self.net(x))


class Sound(Module):
    bad_in = "nowhere"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", [NaivePositiveCongruent, FocalDistillation, Distillation])
def test_an_old_model_without_an_answer_stops_a_mixin(method: Any, value: float) -> None:
    old = Old()
    old.value = value
    where = (
        r"the reference Old gave logits with NaN .* first for sample 9 in batch 2 of epoch 0, after 2 optimizer steps"
    )
    fails(where, type("Model", (method, Sound), {})(reference=old))


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_old_model_without_an_answer_stops_a_monitor(split: str) -> None:
    monitor = NegativeFlipMonitor(Old(), train=split == "train", val=split == "val")
    where = r"the reference Old gave logits with NaN .* first for sample 9 in batch 2 of epoch 0"
    fails(where, Sound(), monitor, val=split == "val")


class Partly(nn.Module):
    """An old model that rules a class out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).masked_fill(torch.arange(CLASSES) == 1, -torch.inf)


def test_an_old_model_may_rule_classes_out() -> None:
    trainer = make_trainer(callbacks=[NegativeFlipMonitor(Partly(), train=True)], max_epochs=1)
    trainer.fit(type("Model", (Distillation, Sound), {})(reference=Partly()), data(), data())
    assert "val_negative_flip_rate" in trainer.callback_metrics


class Labelled(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1].clamp(max=CLASSES - 1))


def test_labels_name_the_same_and_themselves() -> None:
    dataset = points(N)
    dataset.tensors[1][SAMPLE] = 7
    model = Labelled()
    model.bad_in = "nowhere"
    where = r"labels are outside \[0, 3\) .* sample 9 in batch 2 of epoch 0, after 2 optimizer steps\. Its label is 7\."
    fails(where, model, FlipTracker(train=True, val=False), dataset=dataset)
    fails(
        where,
        type("Model", (FlippingErrorReduction, Labelled), {"bad_in": "nowhere"})(base_loss="any"),
        dataset=dataset,
    )
