"""Modules that note for themselves what they saw, so that what the package recorded can be held against it."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import FlippingErrorReduction
from lightning_flip.stores import read_history
from tests.ports import free_port

CLASSES = 3
MEASURES = ("prob_label", "best_other", "logit_margin", "cross_entropy")
ROW = ("split", "loader", "epoch", "pass", "global_step", "index", "pred", *MEASURES, "visit", "target")


def points(count: int, seed: int = 0) -> TensorDataset:
    """Samples (index, four features) with a label that the features half tell."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 4, generator=generator)
    labels = (features[:, :CLASSES] + torch.randn(count, CLASSES, generator=generator)).argmax(dim=1)
    return TensorDataset(torch.cat([torch.arange(count)[:, None].float(), features], dim=1), labels)


def some_logits(rounds: int, count: int, seed: int = 0) -> Tensor:
    """Logits [rounds, count, CLASSES] in which predictions often change."""
    return torch.randn(rounds, count, CLASSES, generator=torch.Generator().manual_seed(100 + seed))


class Watched(pl.LightningModule):
    """A small network that keeps a row for every prediction it makes, in checkpoints as well."""

    def __init__(self, *, noise: bool = False, seen_dir: str | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5 * noise), nn.Linear(8, CLASSES))
        self.noise = noise
        self.seen_dir = seen_dir
        self.seen: list[list[Any]] = []
        self.val_passes: Counter[int] = Counter()

    def forward(self, x: Tensor) -> Tensor:
        features = x[:, 1:]
        if self.noise and self.training:  # draws from all three generators
            features = features + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
        return self.net(features)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        self.note("train", 0, 0, x, y, logits)
        return functional.cross_entropy(logits, y)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        logits = self(x)
        if not self.trainer.sanity_checking:
            self.note("val", dataloader_idx, self.val_passes[self.trainer.current_epoch], x, y, logits)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.val_passes[self.trainer.current_epoch] += 1

    def note(self, split: str, loader: int, number: int, x: Tensor, y: Tensor, logits: Tensor) -> None:
        log_p = logits.detach().log_softmax(dim=1)
        for row, (index, label) in enumerate(zip(x[:, 0].long().tolist(), y.tolist(), strict=True)):
            z = logits.detach()[row]
            other = max((k for k in range(len(z)) if k != label), key=lambda k, z=z: float(z[k]))
            facts = (int(z.argmax()), float(log_p[row, label].exp()), other, float(z[label] - z[other]))
            moment = (split, loader, self.trainer.current_epoch, number, self.trainer.global_step, index)
            self.seen.append([*moment, *facts, -float(log_p[row, label]), label])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seen"] = [list(row) for row in self.seen]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seen = [list(row) for row in checkpoint["seen"]]

    def on_fit_end(self) -> None:
        if self.seen_dir is not None:  # a forked rank tells its parent
            torch.save(self.seen, Path(self.seen_dir, f"seen-{self.global_rank}.pt"))


class Lookup(Watched):
    """Gives the logits of a table: row (epoch or validation pass, index)."""

    def __init__(self, train: Tensor, *val: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.tables = {("train", 0): train, **{("val", loader): table for loader, table in enumerate(val)}}
        self.net = nn.Linear(1, 1)
        self.place = ("train", 0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.place, self.round = ("train", 0), self.trainer.current_epoch
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.place, self.round = ("val", dataloader_idx), sum(self.val_passes.values())
        super().validation_step(batch, batch_idx, dataloader_idx)

    def forward(self, x: Tensor) -> Tensor:
        return self.tables[self.place][self.round, x[:, 0].long()] + 0.0 * self.net(x[:, :1])


class Robust(FlippingErrorReduction, Watched):
    """A network whose loss reads a table."""


class RobustLookup(FlippingErrorReduction, Lookup):
    """Looked-up logits with a loss that keeps a table."""


class Memory(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[dict[str, float]] = []

    name = version = "memory"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append(dict(metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def values(self, name: str) -> list[float]:
        """Every logged value of a name, in order."""
        return [metrics[name] for metrics in self.logged if name in metrics]


def make_trainer(**options: Any) -> pl.Trainer:
    """A silent Trainer of one process."""
    quiet: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 3, "logger": False}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callbacks = options.get("callbacks") or []
    if any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks):
        quiet["enable_checkpointing"] = True
    return pl.Trainer(**(quiet | {"log_every_n_steps": 1} | options))


def loader(count: int, batch_size: int = 4, *, seed: int = 0, **options: Any) -> DataLoader[Any]:
    return DataLoader(points(count, seed), batch_size=batch_size, **options)


def expected_rows(seen: list[list[Any]], split: str | None = None) -> list[tuple[Any, ...]]:
    """What the store must hold, from a module's own notes (rank after rank, in the order of time)."""
    visits: Counter[tuple[Any, ...]] = Counter()
    rows = []
    for *row, label in seen:
        key = (*row[:4], row[5])
        row[7:11] = [float(np.float32(value)) for value in row[7:11]]
        rows.append((*row, visits[key], label))
        visits[key] += 1
    return sorted(row for row in rows if split in (None, row[0]))


def stored_rows(folder: Any, split: str | None = None) -> list[tuple[Any, ...]]:
    """What the store holds, sorted, floats as they are."""
    table: pa.Table = read_history(folder).to_arrow(split)
    assert set(table.column_names) == {*ROW, "prob_pred"}  # the last follows from the others
    floats = {"prob_label", "prob_pred", "logit_margin", "cross_entropy"}
    assert all(table.schema.field(name).type == pa.float32() for name in floats)
    return sorted(zip(*(table[name].to_pylist() for name in ROW), strict=True))


def assert_same(left: Any, right: Any, path: str = "") -> None:
    """Bit by bit, through dicts, lists and tensors."""
    if isinstance(left, dict):
        assert sorted(map(str, left)) == sorted(map(str, right)), path
        for key in left:
            assert_same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for place, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}/{place}")
    elif isinstance(left, Tensor):
        assert left.dtype == right.dtype, path
        assert torch.equal(left, right), path
    else:
        assert left == right, path


def silence() -> None:
    """For forked children: their warnings are nobody's test."""
    warnings.simplefilter("ignore")


def run_ranks(world: int, target: Any, *args: Any, seconds: float = 120.0) -> list[int | None]:
    """Call target(*args) in one process a rank, as a cluster does, which also sees the ranks' exceptions through.

    Args:
        world: number of ranks.
        target: makes a Trainer with strategy "ddp" and fits.
        args: passed on.
        seconds: processes that are still alive then are killed.

    Returns:
        Exit code of every rank; None for one that had to be killed.
    """
    port = free_port()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_as_rank, args=(rank, port, target, args)) for rank in range(world)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    codes = []
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        codes.append(process.exitcode)
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return codes


def _as_rank(rank: int, port: int, target: Any, args: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")  # the parent's test is about something else
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    target(*args)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
