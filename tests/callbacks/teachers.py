"""Teachers that note for themselves what they predicted, so that what was filtered can be held against it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_flip.stores import SoftTargetTable, read_soft_targets
from tests.callbacks.helpers import CLASSES
from tests.oracles.filter_kd import filtered

FOLDER = Path("run/soft_targets")


class Teacher(pl.LightningModule):
    """A small network with dropout that notes every training prediction and logs the scores that it was given."""

    def __init__(self, scores: list[float] | None = None, *, noise: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            drop = nn.Dropout(0.5 if noise else 0.0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), drop, nn.Linear(8, CLASSES))
        self.noise = noise
        self.scores = scores
        self.visits: list[tuple[int, list[float]]] = []
        self.passes: list[int] = []  # how many visits there were at each validation pass

    def forward(self, x: Tensor) -> Tensor:
        features = x[:, 1:]
        if self.noise and self.training:  # draws from all three generators
            features = features + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
        return self.net(features)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        rows = logits.detach().float().softmax(dim=1).tolist()
        self.visits += zip(batch[0][:, 0].long().tolist(), rows, strict=True)
        return functional.cross_entropy(logits, batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        right = (self(batch[0]).argmax(dim=1) == batch[1]).float().mean()
        score = right if self.scores is None else torch.tensor([*self.scores, 0.0][len(self.passes)])
        self.log("val_acc", score, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.passes.append(len(self.visits))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["noted"] = [[list(visit) for visit in self.visits], list(self.passes)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        visits, self.passes = checkpoint["noted"]
        self.visits = [(index, row) for index, row in visits]


class LookedUp(Teacher):
    """Gives the logits of a table [epoch, index] in its training steps."""

    def __init__(self, table: Tensor, scores: list[float] | None = None) -> None:
        super().__init__(scores, noise=False)
        self.net = nn.Linear(4, 1)
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table[self.trainer.current_epoch, x[:, 0].long()]
        return rows + 0.0 * self.net(x[:, 1:])


def read(name: str, folder: Path = FOLDER) -> SoftTargetTable:
    """A file of the filter."""
    return read_soft_targets(folder / f"{name}.safetensors")


def assert_filtered(
    table: SoftTargetTable, visits: list[tuple[int, list[float]]], alpha: float, initial: Any = None
) -> None:
    """The file holds what the loop gives."""
    rows, visited = filtered(visits, table.num_samples, CLASSES, alpha, initial)
    assert table.visited.tolist() == visited.tolist()
    np.testing.assert_allclose(table.probs, rows, atol=2e-6, rtol=0)
    assert table.manifest["num_visited"] == int(visited.sum())


def asked(model: Teacher, data: Any) -> np.ndarray:
    """What a model says of all of its data in eval mode."""
    was = model.training
    model.eval()
    with torch.no_grad():
        rows = model(torch.stack([data[i][0] for i in range(len(data))])).softmax(dim=1).numpy()
    model.train(was)
    return rows
