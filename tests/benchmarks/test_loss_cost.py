"""What a step of a method costs, beside the same method written by hand in plain PyTorch in the same Lightning loop.

The loops by hand follow the papers' formulas and nothing more: a dataset that gives each sample's index, a table, the
loss in the place of cross entropy, and the row written in the step. They check nothing: not whether a sample is the one
that it is said to be, not for NaN, and a sample that comes twice in a batch keeps one of its two rows.

Batches of 128 samples of 100 classes go through one linear layer, beside which nothing is cheap, or through a small
perceptron. The measure is the processor time of the training
thread over stretches of 64 steps, each of which has the reading of one block in it. Cases take turns in every round,
and each round begins with another one. What else a machine does only adds time, so that a figure is the first quartile
over the stretches of all rounds.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import EarlyLearningRegularization, FlippingErrorReduction, LearningWithRetrospection

BATCH, CLASSES, STEPS, ROUNDS, EPOCHS, T, BLOCK = 128, 100, 256, 9, 3, 5.0, 64


class Tiny(pl.LightningModule):
    """Linear layers and mean cross entropy."""

    widths: tuple[int, ...] = (16, CLASSES)

    def __init__(self) -> None:
        super().__init__()
        layers = [part for pair in pairwise(self.widths) for part in (nn.Linear(*pair), nn.ReLU())]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ByHand(Tiny):
    """Two copies of a table of all samples: losses read one, steps write the other."""

    def __init__(self) -> None:
        super().__init__()
        self.read = torch.zeros(BATCH * STEPS, CLASSES)
        self.seen = torch.zeros(BATCH * STEPS, dtype=torch.bool)
        self.written, self.written_seen = self.read.clone(), self.seen.clone()

    def on_train_epoch_start(self) -> None:
        self.read.copy_(self.written)
        self.seen.copy_(self.written_seen)

    def weights(self) -> tuple[float, float]:
        beta = 0.9 * (self.current_epoch + 1) / EPOCHS
        return 1 - beta, beta


class FerByHand(ByHand):
    """FER, Eq. 2-6."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = batch
        z = self(x)
        alpha, beta = self.weights()
        plain = functional.cross_entropy(z, y, reduction="none")
        behaved = -(self.read[index] * (z / T).log_softmax(dim=1)).sum(dim=1)
        loss = torch.where(self.seen[index], alpha * plain + beta * T**2 * behaved, plain).mean()
        with torch.no_grad():
            right = z.argmax(dim=1) == y
            kept = torch.exp(-z.softmax(dim=1).gather(1, y[:, None]))
            before = self.written[index]
            average = kept * before + (1 - kept) * (z / T).softmax(dim=1)
            self.written[index] = torch.where(right[:, None], average, before)
            self.written_seen[index] |= right
        return loss


class LwrByHand(ByHand):
    """LWR in rounds of one epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = batch
        z = self(x)
        alpha, beta = self.weights()
        plain = functional.cross_entropy(z, y, reduction="none")
        target = (self.read[index] / T).softmax(dim=1)
        apart = functional.kl_div((z / T).log_softmax(dim=1), target, reduction="none").sum(dim=1)
        loss = torch.where(self.seen[index], alpha * plain + beta * T**2 * apart, plain).mean()
        self.written[index] = z.detach()
        self.written_seen[index] = True
        return loss


class ElrByHand(ByHand):
    """ELR, beta = 0.7, lambda = 3."""

    def on_train_epoch_start(self) -> None:
        """One copy is enough: losses read what their own step has written."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = batch
        z = self(x)
        p = z.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
        said = p.detach()
        self.written[index] = 0.7 * self.written[index] + 0.3 * said / said.sum(dim=1, keepdim=True)
        drawn = (1 - (self.written[index] * p).sum(dim=1)).log().mean()
        return functional.cross_entropy(z, y) + 3 * drawn


class Indexed(TensorDataset):
    """Samples with their positions, as the papers' code has them."""

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return (*super().__getitem__(index), index)


class Fer(FlippingErrorReduction, Tiny): ...


class Lwr(LearningWithRetrospection, Tiny): ...


class Elr(EarlyLearningRegularization, Tiny): ...


CASES: dict[str, Callable[[], Tiny]] = {
    "plain": Tiny,
    "FER": Fer,
    "FER by hand": FerByHand,
    "LWR": lambda: Lwr(lwr_interval=1),
    "LWR by hand": LwrByHand,
    "ELR": Elr,
    "ELR by hand": ElrByHand,
}


class Clock(pl.Callback):
    """Processor time at the start of every step."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.starts.append(time.thread_time())


def _fit(case: str, steps: int, block: int = BLOCK) -> tuple[list[float], Tiny]:
    torch.manual_seed(0)
    kind = Indexed if "by hand" in case else TensorDataset
    data = kind(torch.rand(BATCH * steps, Tiny.widths[0]), torch.randint(0, CLASSES, (BATCH * steps,)))
    module, clock = CASES[case](), Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(module, DataLoader(data, BATCH, shuffle=True))
    last = clock.starts[-steps:]  # losses read no table in the first epoch
    return [(end - start) / block * 1e6 for start, end in zip(last, last[block:], strict=False)][::8], module


def _measure(rounds: int, steps: int, block: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    names = list(CASES)
    for number in range(rounds):
        for case in names[number % len(names) :] + names[: number % len(names)]:
            taken[case] += _fit(case, steps, block)[0]
    return taken


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("method", ["FER", "LWR", "ELR"])
def test_the_loop_by_hand_is_the_same_method(method: str) -> None:
    mixin, by_hand = (_fit(case, steps=3)[1] for case in (method, f"{method} by hand"))
    for weight, other in zip(mixin.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-5)
    plain = _fit("plain", steps=3)[1]
    assert not torch.allclose(mixin.net[0].weight, plain.net[0].weight, rtol=0, atol=1e-4)


@pytest.mark.benchmark(group="a step of a method, by hand and not")
@pytest.mark.parametrize("widths", [(16, CLASSES), (784, 256, 256, CLASSES)], ids=["linear", "perceptron"])
def test_microseconds_of_a_method(widths: tuple[int, ...], benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "widths", widths)
    rounds, steps, block = (1, 3, 2) if benchmark.disabled else (ROUNDS, STEPS, BLOCK)
    taken = benchmark.pedantic(_measure, args=(rounds, steps, block), rounds=1)
    usual = {case: statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0] for case, times in taken.items()}
    for case, time_of_step in usual.items():
        print(
            f"\n{case:12} {time_of_step:6.0f} us a step, {time_of_step - usual['plain']:+5.0f} us beside plain", end=""
        )
        if f"{case} by hand" in usual:
            print(f", ratio to by hand {time_of_step / usual[f'{case} by hand']:.3f}", end="")
    assert all(times for times in taken.values())
