"""What following learning paths costs in a step: visits, scores of all samples, and a clean pass after every step.

``make bench`` prints the ratios. A step is the processor time of the training thread between two batches of an epoch,
loading included, so that other programs do not count; the files that an epoch's end writes are not in it. Cases take
turns, each round begins with another one, and a ratio is that of the medians over all steps of all rounds.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import LearningPath, ZigZag
from lightning_flip.models import Classifier, SmallCNN

STEPS, EPOCHS, ROUNDS = 22, 6, 15  # as many samples as the digits have
CHOSEN = range(0, 1400, 14)
_folders = itertools.count()


def _callbacks(case: str, folder: Path) -> list[pl.Callback]:
    if case == "+ visits of 100 samples":
        return [LearningPath(CHOSEN, dirpath=folder)]
    if case == "+ zig-zag of all samples":
        return [ZigZag(folder)]
    if case == "+ a clean pass over 100 samples every epoch":
        return [LearningPath(CHOSEN, passes="eval", dirpath=folder)]
    if case == "+ a clean pass over 100 samples every step":
        return [LearningPath(CHOSEN, passes="eval", every_n_steps=1, dirpath=folder)]
    return []


CASES = [
    "plain step",
    "+ visits of 100 samples",
    "+ zig-zag of all samples",
    "+ a clean pass over 100 samples every epoch",
    "+ a clean pass over 100 samples every step",
]


class Clock(pl.Callback):
    """Processor time from the start of a batch to that of the next one."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self._begun = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = time.thread_time()
        if batch_idx:
            self.taken.append(now - self._begun)
        self._begun = now


def _fit(case: str, folder: Path, epochs: int) -> list[float]:
    torch.manual_seed(0)
    x, y = torch.rand(64 * STEPS, 1, 8, 8), torch.randint(0, 10, (64 * STEPS,))
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[clock, *_callbacks(case, folder / str(next(_folders)))],
    )
    trainer.fit(Classifier(network=SmallCNN(), num_classes=10), DataLoader(TensorDataset(x, y), 64, shuffle=True))
    assert trainer.global_step == STEPS * epochs
    return clock.taken


def _measure(folder: Path, rounds: int, epochs: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    for number in range(rounds):
        first = number % len(CASES)
        for case in CASES[first:] + CASES[:first]:
            taken[case] += _fit(case, folder, epochs)
    plain = statistics.median(taken[CASES[0]])
    return {case: statistics.median(steps) / plain for case, steps in taken.items()}


@pytest.mark.benchmark(group="132 steps of the digits network")
def test_following_paths_of_the_digits_network(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rounds, epochs = (1, 1) if benchmark.disabled else (ROUNDS, EPOCHS)
        ratios = benchmark.pedantic(_measure, args=(tmp_path, rounds, epochs), rounds=1)
    for case, ratio in ratios.items():
        print(f"\n{case}: {ratio:.3f}", end="")
    assert ratios["plain step"] == 1
