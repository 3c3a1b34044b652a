"""Nothing on the per-step path makes the host wait for the device."""

from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from lightning_flip.callbacks import (
    FlipTracker,
    LogitGaps,
    NegativeFlipMonitor,
    NoiseAccuracy,
    PredictionHistory,
    PredictionWriter,
    TemperatureScaling,
    TrainingTargets,
    WinningScores,
)
from lightning_flip.mixins import (
    BackwardCompatible,
    FlippingErrorReduction,
    FocalDistillation,
    LabelSmoothing,
    NaivePositiveCongruent,
    PairwiseLabelSmoothing,
)
from lightning_flip.stores import read_predictions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SAMPLES, CLASSES = 256, 5


def network(classes=CLASSES):
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, classes))


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch):
        self(batch[0])

    def test_step(self, batch):
        self(batch[0])

    def predict_step(self, batch):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Robust(FlippingErrorReduction, LabelSmoothing, Plain): ...


class Focal(FocalDistillation, Plain): ...


class Update(FocalDistillation, NaivePositiveCongruent, BackwardCompatible, Plain): ...


class SyncIsAnError(pl.Callback):
    """From the second batch on: the first one allocates tables and compares the loss."""

    def __init__(self) -> None:
        self.checked = 0

    def begin(self, batch_idx):
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("error")
        self.checked += batch_idx >= 1

    def end(self, batch_idx, batches):
        if batch_idx == batches - 2:
            torch.cuda.set_sync_debug_mode("default")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.begin(batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.end(batch_idx, trainer.num_training_batches)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.begin(batch_idx)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.end(batch_idx, trainer.num_val_batches[0])

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.begin(batch_idx)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.end(batch_idx, trainer.num_test_batches[0])

    def on_exception(self, trainer, pl_module, exception):
        torch.cuda.set_sync_debug_mode("default")


def trainer_with(*callbacks, **options):
    settings = {
        "accelerator": "gpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1000,
    }
    return pl.Trainer(callbacks=list(callbacks), **(settings | options))


def some_data(classes=CLASSES):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 8, generator=generator)
    return TensorDataset(x, torch.randint(0, classes, (SAMPLES,), generator=generator))


def loaders(*, repeats=False):
    # With repeats, a sample is drawn several times into one batch.
    data = some_data()
    sampler = WeightedRandomSampler(torch.arange(float(SAMPLES)), SAMPLES) if repeats else RandomSampler(data)
    return DataLoader(data, 16, sampler=sampler, pin_memory=True), DataLoader(data, 16, pin_memory=True)


class Known(TensorDataset):
    """Knows its true labels."""

    def true_target(self, index):
        return (int(self.tensors[1][index]) + (index % 3 == 0)) % CLASSES


class Smoothed(LabelSmoothing, Plain): ...


class Paired(PairwiseLabelSmoothing, Plain): ...


@pytest.mark.filterwarnings("ignore:TemperatureScaling. T = ")
@pytest.mark.parametrize("model", [Plain, Smoothed, Paired])
def test_diagnostics_never_wait_for_the_device(tmp_path, model):
    guard, place = SyncIsAnError(), {"dirpath": tmp_path, "figures": False, "every_n_epochs": 1}
    watchers = [TrainingTargets(**place), WinningScores(**place), TemperatureScaling(**place)]
    if model is not Paired:  # mixtures have no label
        watchers += [NoiseAccuracy(**place), LogitGaps(**place)]
    train, val = loaders()
    known = DataLoader(Known(*train.dataset.tensors), 16, shuffle=True, pin_memory=True)
    trainer_with(guard, *watchers).fit(model(), known, val)
    assert guard.checked == 2 * 2 * 15
    assert len(list((tmp_path / "diagnostics").glob("*.csv"))) == len(watchers)


@pytest.mark.filterwarnings("ignore:.* each soften the target")
@pytest.mark.parametrize("repeats", [False, True])
def test_a_step_never_waits_for_the_device(tmp_path, repeats):
    guard = SyncIsAnError()
    trainer = trainer_with(guard, PredictionHistory(tmp_path / "run"), FlipTracker(train=True))
    trainer.fit(Robust(), *loaders(repeats=repeats))
    assert guard.checked == 2 * 2 * 15


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("options", [{}, {"old_classes": [4, 0, 2]}])
def test_an_update_never_waits_for_the_device(precision, options):
    old = network(len(options.get("old_classes", range(CLASSES))))
    guard, monitor = SyncIsAnError(), NegativeFlipMonitor(old, train=True, **options)
    model = Update(reference=old, **options)
    trainer_with(guard, monitor, precision=precision).fit(model, *loaders())
    assert guard.checked == 2 * 2 * 15


@pytest.mark.parametrize("distance", ["kl", "logits"])
def test_cached_logits_and_predictions_are_looked_up_on_the_device(tmp_path, distance):
    np.save(tmp_path / "old.npy", np.zeros((SAMPLES, CLASSES), np.float32))
    writer = PredictionWriter(tmp_path / "old.parquet")
    train, val = loaders()
    trainer_with(writer).test(Plain(), val, verbose=False)
    guard = SyncIsAnError()
    trainer = trainer_with(guard, NegativeFlipMonitor(tmp_path / "old.parquet"))
    trainer.fit(Focal(reference=tmp_path / "old.npy", focal_distance=distance), train, val)
    assert guard.checked == 2 * 2 * 15


@pytest.mark.parametrize("logits", [False, True])
def test_writing_predictions_waits_when_the_pass_is_over_and_not_before(tmp_path, logits):
    guard, writer = SyncIsAnError(), PredictionWriter(tmp_path / "new.parquet", logits=logits)
    model = Plain()
    trainer_with(guard, writer).test(model, loaders()[1], verbose=False)
    assert guard.checked == 15
    with torch.no_grad():
        expected = model.cpu()(some_data().tensors[0]).argmax(dim=1)
    assert read_predictions(tmp_path / "new.parquet").rows["pred"].to_pylist() == expected.tolist()
