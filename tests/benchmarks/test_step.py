"""What following every sample costs: two epochs of a plain module, with callbacks, with diagnostics, and with FER.

``make bench`` prints the medians; docs/performance.md holds the ratios.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import FlipTracker, LogitGaps, NoiseAccuracy, PredictionHistory
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.models import Classifier, SmallCNN

STEPS = 200
CASES = ["plain step", "+ history and tracker", "+ history, tracker and FER", "+ noise accuracy and logit gaps"]
_folders = itertools.count()


class Known(TensorDataset):
    """Knows its true labels."""

    def true_target(self, index: int) -> int:
        return int(self.tensors[1][index])


class Robust(FlippingErrorReduction, Classifier): ...


def _fit(case: str, folder: Path, count: int) -> int:
    torch.manual_seed(0)
    x, y = torch.rand(64 * count, 1, 8, 8), torch.randint(0, 10, (64 * count,))
    network = SmallCNN()
    module = (Robust if "FER" in case else Classifier)(network=network, num_classes=10)
    callbacks: list[pl.Callback] = []
    if "noise" in case:
        place: dict[str, Any] = {"dirpath": folder / str(next(_folders))}
        callbacks = [NoiseAccuracy(**place), LogitGaps(figures=False, **place)]
    elif case != "plain step":
        callbacks = [PredictionHistory(folder / str(next(_folders))), FlipTracker(train=True)]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=callbacks,
    )
    trainer.fit(module, DataLoader(Known(x, y), 64, shuffle=True))
    return trainer.global_step


@pytest.mark.benchmark(group="400 steps of the digits network")
@pytest.mark.parametrize("case", CASES)
def test_two_epochs_of_the_digits_network(benchmark, case, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    count = 2 if benchmark.disabled else STEPS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = benchmark.pedantic(_fit, args=(case, tmp_path, count), rounds=7, warmup_rounds=1)
    assert steps == 2 * count
