"""Data that changes under a run's feet, and every callback and loss that follows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_flip.callbacks import (
    FlipTracker,
    LearningPath,
    PredictionFilter,
    PredictionHistory,
    TransitionEstimator,
    ZigZag,
)
from lightning_flip.mixins import FlippingErrorReduction
from tests.callbacks.helpers import CLASSES, Watched, points

COUNT = 16


class Unlisted(Dataset):
    """Samples as those of `points`, whose labels are found by reading them only."""

    def __init__(self, count: int = COUNT, seed: int = 0) -> None:
        self.inputs, self.answers = points(count, seed).tensors

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.answers[index]

    def append(self, count: int, seed: int = 9) -> None:
        """Grow in place."""
        inputs, answers = points(count, seed).tensors
        inputs[:, 0] += len(self)
        self.inputs, self.answers = torch.cat([self.inputs, inputs]), torch.cat([self.answers, answers])

    def shrink(self, count: int) -> None:
        self.inputs, self.answers = self.inputs[:count], self.answers[:count]

    def relabel(self, index: list[int]) -> None:
        """The labels of some samples become the next class."""
        self.answers = self.answers.clone()
        self.answers[index] = (self.answers[index] + 1) % CLASSES


class Listed(Unlisted):
    """The same with a list of labels."""

    @property
    def targets(self) -> list[int]:
        return self.answers.tolist()


class Numbered(Dataset):
    """Sample i of a dataset says i in its first feature, whatever it was before."""

    same_positions = True

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.dataset[index]
        return torch.cat([torch.tensor([float(index)]), x[1:]]), y


KINDS: dict[str, Callable[..., Unlisted]] = {"listed": Listed, "unlisted": Unlisted}
FOLLOWERS = ("history", "tracker", "zigzag", "path", "filter", "transition", "mixin")
ALTERNATING = ("listed", "listed", "unlisted", "listed", "listed", "unlisted", "unlisted")
#: All of them, the two most different ones on both kinds of data.
CASES = [
    ("tracker", "unlisted"),
    ("mixin", "listed"),
    *zip(FOLLOWERS, ("listed", "listed", "unlisted", "listed", "listed", "listed", "unlisted"), strict=True),
]


class Scored(Watched):
    """Logs the score by which a filter finds its best epoch."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val_acc", float(self.trainer.current_epoch), add_dataloader_idx=False, batch_size=1, sync_dist=True)


class RobustScored(FlippingErrorReduction, Scored):
    """The same with a loss that reads a table."""


def follower(name: str, **options: Any) -> tuple[Watched, list[pl.Callback]]:
    """A module and the callbacks of a fit in which one of ours follows the training data."""
    make: dict[str, Callable[[], pl.Callback]] = {
        "history": lambda: PredictionHistory("run", **options),
        "tracker": lambda: FlipTracker(train=True, **options),
        "zigzag": lambda: ZigZag("zigzag", **options),
        "path": lambda: LearningPath([0, 3], dirpath="path", **options),
        "filter": lambda: PredictionFilter(dirpath="filter", **options),
        "transition": lambda: TransitionEstimator("T.npz", warmup_epochs=3, overwrite=True, **options),
    }
    if name == "mixin":
        return RobustScored(**options), []
    return Scored(), [make[name]()]


class Reloading(pl.LightningDataModule):
    """Gives the Trainer a dataset of the epoch."""

    def __init__(self, train: Callable[[int], Any], val: Callable[[int], Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.train, self.val, self.options = train, val or (lambda epoch: points(6, 1)), options

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train(self.trainer.current_epoch), **{"batch_size": 4, "shuffle": True} | self.options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val(self.trainer.current_epoch), batch_size=4)


class After(pl.Callback):
    """Does something to the data when an epoch is over, and counts the training steps."""

    def __init__(self, epoch: int = -1, change: Callable[[], Any] = lambda: None) -> None:
        self.epoch, self.change, self.steps = epoch, change, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps += 1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.change()


def some_of(data: Any, count: int, seed: int) -> Subset:
    """A random subset; another seed gives another one of the same length."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return Subset(data, order[:count].tolist())


def assert_says(error: Any, *words: Any) -> None:
    """Each of some numbers or words stands in a message by itself."""
    text = str(error)
    for word in words:
        assert re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", text), f"no {word!r} in: {text}"
