"""Nothing on the per-step path makes the host wait for the device."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.mixins import FlippingErrorReduction, LabelSmoothing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Robust(FlippingErrorReduction, LabelSmoothing, Plain): ...


class SyncIsAnError(pl.Callback):
    """From the second batch on: the first one allocates tables and compares the loss."""

    def __init__(self) -> None:
        self.checked = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("error")
        self.checked += batch_idx >= 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == trainer.num_training_batches - 2:
            torch.cuda.set_sync_debug_mode("default")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("error")
        self.checked += batch_idx >= 1

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == trainer.num_val_batches[0] - 2:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer, pl_module, exception):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:.* each soften the target")
@pytest.mark.parametrize("repeats", [False, True])
def test_a_step_never_waits_for_the_device(tmp_path, repeats):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 8, generator=generator), torch.randint(0, 5, (256,), generator=generator)
    guard = SyncIsAnError()
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1000,
        callbacks=[guard, PredictionHistory(tmp_path / "run"), FlipTracker(train=True)],
    )
    data = TensorDataset(x, y)
    # With repeats, a sample is drawn several times into one batch.
    sampler = WeightedRandomSampler(torch.arange(256.0), 256) if repeats else RandomSampler(data)
    train = DataLoader(data, 16, sampler=sampler, pin_memory=True)
    trainer.fit(Robust(), train, DataLoader(data, 16, pin_memory=True))
    assert guard.checked == 2 * 2 * 15
