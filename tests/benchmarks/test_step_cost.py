"""What a training step costs in microseconds on top of plain Lightning, beside the aum package and a list by hand.

``make bench`` prints the table. Batches of 128 samples of 100 classes go through one linear layer, so that nearly all
of a step is Lightning's own work. The measure is the processor time of the training thread from the start of an
epoch's first batch to the epoch's end, loading and the reading of blocks included, and files not. Cases take turns,
each round begins with another one, and a figure is the median over rounds of the difference to the plain fit of the
same round.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from aum import AUMCalculator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import FlipTracker, LearningPath, PredictionFilter, PredictionHistory, ZigZag
from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.steps import StepSource, attach

BATCH, CLASSES, STEPS, ROUNDS = 128, 100, 256, 9
_folders = itertools.count()


class Tiny(pl.LightningModule):
    """One linear layer, which keeps its last logits for those who record by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(16, CLASSES)
        self.last: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        self.last[:] = [logits]
        return functional.cross_entropy(logits, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Robust(FlippingErrorReduction, Tiny): ...


class Clock(pl.Callback):
    """Processor time of the second epoch's steps; listed first, it stops before other callbacks write their files."""

    def __init__(self) -> None:
        self.taken = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.taken = time.thread_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            attachment = getattr(callback, "attachment", None)
            if hasattr(attachment, "flush"):
                attachment.flush()  # what is waiting belongs to the steps
        if trainer.current_epoch == 1:
            self.taken = time.thread_time() - self.taken


class Attached(pl.Callback):
    """Is attached and does nothing."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.attachment = attach(trainer, pl_module, self, StepSource())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.attachment.release(self)


class ByHand(pl.Callback):
    """Keeps every step's logits, and does not know whose they are."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.kept.append(pl_module.last[0].detach().clone())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.kept = []


class Aum(pl.Callback):
    """One number per sample, by the aum package; the data are not shuffled, so that positions can be counted."""

    def __init__(self, folder: Path) -> None:
        self.calculator = AUMCalculator(str(folder), compressed=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        samples = list(range(batch_idx * BATCH, (batch_idx + 1) * BATCH))
        self.calculator.update(pl_module.last[0].detach(), batch[1], samples)


CASES: dict[str, Callable[[Path], list[pl.Callback]]] = {
    "plain Lightning": lambda folder: [],
    "attached": lambda folder: [Attached()],
    "PredictionHistory": lambda folder: [PredictionHistory(folder)],
    "FlipTracker(train=True)": lambda folder: [FlipTracker(train=True)],
    "PredictionHistory and FlipTracker": lambda folder: [PredictionHistory(folder), FlipTracker(train=True)],
    "PredictionFilter": lambda folder: [PredictionFilter(dirpath=folder)],
    "ZigZag": lambda folder: [ZigZag(folder)],
    "LearningPath, 100 samples": lambda folder: [LearningPath(range(100), dirpath=folder)],
    "FlippingErrorReduction": lambda folder: [],
    "FER, PredictionHistory and FlipTracker": lambda folder: [PredictionHistory(folder), FlipTracker(train=True)],
    "aum, one number per sample": lambda folder: [Aum(folder)],
    "a list of cloned logits": lambda folder: [ByHand()],
}


def _fit(case: str, folder: Path, steps: int) -> float:
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(BATCH * steps, 16), torch.randint(0, CLASSES, (BATCH * steps,)))
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, *CASES[case](folder / str(next(_folders)))],
    )
    trainer.fit(Robust() if "FER" in case or "Reduction" in case else Tiny(), DataLoader(data, BATCH))
    return clock.taken / steps * 1e6


def _measure(folder: Path, rounds: int, steps: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    names = list(CASES)
    for number in range(rounds):
        for case in names[number % len(names) :] + names[: number % len(names)]:
            taken[case].append(_fit(case, folder, steps))
    return taken


@pytest.mark.benchmark(group="256 steps of one linear layer")
def test_microseconds_of_a_step(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    rounds, steps = (1, 2) if benchmark.disabled else (ROUNDS, STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = benchmark.pedantic(_measure, args=(tmp_path, rounds, steps), rounds=1)
    plain = taken["plain Lightning"]
    for case, times in taken.items():
        more = [time - base for time, base in zip(times, plain, strict=True)]
        low, middle, high = statistics.quantiles(more, n=4) if rounds > 1 else (0.0, more[0], 0.0)
        shown = f"{statistics.median(plain):7.0f} us" if case == "plain Lightning" else f"+{middle:6.0f} us"
        print(f"\n{case:40} {shown}   (quartiles {low:.0f} to {high:.0f})", end="")
    assert all(len(times) == rounds for times in taken.values())
