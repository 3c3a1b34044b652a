"""Filtering and distilling on a device: no step makes the host wait, and the tables are those of the CPU's loop."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import PredictionFilter
from lightning_flip.mixins import SoftTargets
from lightning_flip.stores import read_soft_targets
from tests.gpu.test_no_synchronization import Plain, SyncIsAnError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Student(SoftTargets, Plain): ...


class Scored(Plain):
    def validation_step(self, batch):
        self.log("val_acc", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())


def fit(module, data, *callbacks):
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
        callbacks=[guard, *callbacks],
    )
    train = DataLoader(data, 16, shuffle=True, pin_memory=True)
    trainer.fit(module, train, DataLoader(data, 16, pin_memory=True))
    assert guard.checked == 2 * 2 * 15


@pytest.mark.filterwarnings("ignore:.*You called .self.log.*")
def test_no_step_of_teacher_or_student_waits_for_the_device():
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(256, 8, generator=generator), torch.randint(0, 5, (256,), generator=generator))
    fit(Scored(), data, PredictionFilter(0.1, dirpath="run", initial_pass=True, also=("eval_last", "eval_best")))
    table = read_soft_targets("run/soft_targets/filtered_best.safetensors")
    assert table.num_visited == 256
    assert table.target.tolist() == data.tensors[1].tolist()
    for name in ("filtered_best", "eval_last"):
        for treated in ({}, {"kd_smoothing": 0.3}, {"kd_correction_alpha": 0.3}):
            targets = f"run/soft_targets/{name}.safetensors"
            fit(Student(targets=targets, kd_weight=0.5, kd_temperature=2.0, **treated), data)
