"""What finding the logits costs: in the first step, which is searched, and in every later one.

``make bench`` prints the table. A fit with ``PredictionHistory`` takes turns with one without anything, each round; the
figures are medians over rounds of the difference, in processor time of the training thread: of the first step, and of
the mean and the median of all later ones.
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
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from lightning_flip.callbacks import PredictionHistory

ROUNDS = 5


class OwnForward(pl.LightningModule):
    """Calls itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Network(OwnForward):
    """Calls its network."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])


class Temperature(OwnForward):
    """Has logits that no module gave, so that the losses of every step are looked at."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]) / 0.5, batch[1])


class Clock(pl.Callback):
    """Processor time at the start of every batch."""

    def __init__(self) -> None:
        self.read: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.read.append(time.thread_time())


def tiny() -> nn.Module:
    return nn.Linear(16, 100)


def resnet() -> nn.Module:
    return resnet18(num_classes=100)


CASES = {
    "one linear layer, self(x)": (OwnForward, tiny, (16,), 128, 256),
    "one linear layer, self.net(x)": (Network, tiny, (16,), 128, 256),
    "one linear layer, self.net(x) / t": (Temperature, tiny, (16,), 128, 256),
    "ResNet-18, self(x)": (OwnForward, resnet, (3, 32, 32), 32, 24),
    "ResNet-18, self.net(x) / t": (Temperature, resnet, (3, 32, 32), 32, 24),
}


def _times(case: str, callbacks: list[pl.Callback], steps: int, batch: int) -> tuple[float, float, float]:
    """Microseconds of the first step, and the mean and the median of the others."""
    module, network, shape, *_ = CASES[case]
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(batch * (steps + 1), *shape), torch.randint(0, 100, (batch * (steps + 1),)))
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, *callbacks],
    )
    trainer.fit(module(network()), DataLoader(data, batch))
    each = [1e6 * (later - now) for now, later in itertools.pairwise(clock.read)]
    return each[0], statistics.mean(each[1:]), statistics.median(each[1:])


def _measure(case: str, folder: Path, rounds: int, steps: int, batch: int) -> list[tuple[Any, Any]]:
    _times(case, [], steps, batch)  # what is loaded at first use
    return [
        (_times(case, [], steps, batch), _times(case, [PredictionHistory(folder / str(number))], steps, batch))
        for number in range(rounds)
    ]


@pytest.mark.benchmark(group="finding the logits")
@pytest.mark.parametrize("case", CASES)
def test_microseconds_of_the_search(case: str, benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    *_, batch, steps = CASES[case]
    rounds, steps, batch = (1, 3, 2) if benchmark.disabled else (ROUNDS, steps, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = benchmark.pedantic(_measure, args=(case, tmp_path, rounds, steps, batch), rounds=1)
    first, mean, median = (statistics.median(after[k] - before[k] for before, after in pairs) for k in range(3))
    step = statistics.median(before[2] for before, _ in pairs)
    print(
        f"\n{case:36} {step:8.0f} us; first step +{first:.0f} us; later ones +{mean:.0f} us in the mean "
        f"({100 * mean / step:.1f}%), +{median:.0f} us in the median",
        end="",
    )
    assert len(pairs) == rounds
