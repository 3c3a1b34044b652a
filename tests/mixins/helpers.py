"""A small network in float64, fixed batches, a quiet Trainer, and the comparison of a run with the numpy oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.oracles.retrospection import Batches, FerTrace, Floats, Ints, LwrTrace, NumpyNet, Trace

N, D, H, K, LR, EPOCHS = 24, 5, 7, 4, 0.5, 4
TOLERANCE = 1e-10


def quiet(**options: Any) -> pl.Trainer:
    """A Trainer that writes and says nothing."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "max_epochs": EPOCHS,
    }
    return pl.Trainer(**(settings | options))


class FixedBatches:
    """A batch sampler with the batches of every epoch written down; it also shows the sampler whose epoch is set."""

    def __init__(self, epochs: Batches) -> None:
        self.epochs = epochs
        self.epoch = 0
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        # Lazily: when a run is resumed, Lightning asks for the iterator before it sets the epoch.
        for batch in self.epochs[self.epoch]:
            yield batch.tolist()

    def __len__(self) -> int:
        return len(self.epochs[0])


def shuffled_batches(epochs: int = EPOCHS, seed: int = 3, n: int = N) -> Batches:
    """Five batches an epoch, one of them of a single sample.

    Every epoch leaves a few samples out, has one sample three times in its first batch, and one of the first batch
    again in its fourth.
    """
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(epochs):
        order = rng.permutation(n)[: n - 4]
        first = np.concatenate([order[:5], order[:1], order[1:2], order[:1]])
        fourth = np.concatenate([order[11:15], order[2:3]])
        result.append([first, order[5:6], order[6:11], fourth, order[15:]])
    return result


def inputs(n: int = N, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, D))


def labels(classes: int, n: int = N, seed: int = 2) -> Ints:
    return np.random.default_rng(seed).integers(0, classes, size=n)


def as_torch(net: NumpyNet) -> nn.Sequential:
    """The same network with the same weights, in float64."""
    state = net.to_torch_state()
    (hidden, width), (classes, _) = state["0.weight"].shape, state["2.weight"].shape
    network = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()
    network.load_state_dict({name: torch.from_numpy(weight) for name, weight in state.items()})
    return network


def network(classes: int = K) -> nn.Sequential:
    """The network of seed 0."""
    return as_torch(NumpyNet.random(D, H, classes, seed=0))


class LitNet(pl.LightningModule):
    """A user's module: mean cross entropy, plain SGD."""

    def __init__(self, net: nn.Module, lr: float = LR) -> None:
        super().__init__()
        self.net = net
        self.lr = lr

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Recorder(pl.Callback):
    """Notes the loss of every step and, for one table, what the step read and what the epoch left."""

    def __init__(self, table: str | None = None, n: int = N) -> None:
        self.table = table
        self.every = torch.arange(n)
        self.losses: list[float] = []
        self.read: list[tuple[Floats, Floats]] = []
        self.left: list[tuple[Floats, Floats]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if outputs:
            self.losses.append(float(outputs["loss"]))
        if self.table is not None:
            table = pl_module._term_loop.tables[self.table]
            self.read.append((table.rows(self.every).numpy(), table.seen(self.every).numpy()))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.table is not None:
            rows, seen = pl_module._term_loop.tables[self.table].pending(self.every)
            self.left.append((rows.numpy(), seen.numpy()))


def loader(x: Floats, y: Ints, batches: Batches) -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
        batch_sampler=FixedBatches(batches),
    )


def data(classes: int = K, epochs: int = EPOCHS) -> DataLoader[Any]:
    """The fixed points in the shuffled batches."""
    return loader(inputs(), labels(classes), shuffled_batches(epochs))


def train(model: pl.LightningModule, data: Any, table: str | None = None, **options: Any) -> Recorder:
    """Fit, and return what was noted."""
    recorder = Recorder(table)
    quiet(callbacks=[recorder], **options).fit(model, data)
    return recorder


def weights(model: nn.Module) -> dict[str, Floats]:
    """Weights by the oracle's names."""
    return {name.removeprefix("net."): value.detach().numpy() for name, value in model.state_dict().items()}


def differences(model: nn.Module, recorder: Recorder, trace: Trace) -> list[str]:
    """Everything in which a run is not the oracle's, by name."""
    steps = len(trace.step_losses) // max(1, len(_tables(trace)))
    wrong = []
    if not _close(recorder.losses, trace.step_losses):
        wrong.append("step losses")
    for epoch, (rows, mask) in enumerate(_tables(trace)):
        # What an epoch leaves is read in each step of the next one; in LWR a round may hold it back.
        if isinstance(trace, FerTrace) and not _same_table(recorder.left[epoch], rows, mask):
            wrong.append(f"rows that epoch {epoch + 1} left")
        following = recorder.read[(epoch + 1) * steps : (epoch + 2) * steps]
        wrong += [f"rows read in epoch {epoch + 2}" for read in following if not _same_table(read, rows, mask)]
    if recorder.read and any(mask.any() for _, mask in recorder.read[:steps]):
        wrong.append("rows read in the first epoch")
    got = weights(model)
    assert got.keys() == trace.weights.keys()
    return wrong + [name for name, weight in trace.weights.items() if not _close(got[name], weight)]


def _tables(trace: Trace) -> list[tuple[Floats, Any]]:
    if isinstance(trace, FerTrace):
        return list(zip(trace.behaviors, trace.restricted, strict=True))
    if isinstance(trace, LwrTrace):
        return list(zip(trace.readable_logits, trace.readable, strict=True))
    return []


def _same_table(got: tuple[Floats, Floats], rows: Floats, mask: Any) -> bool:
    return bool((got[1] == mask).all()) and _close(got[0], rows)


def _close(got: Any, expected: Any) -> bool:
    got, expected = np.asarray(got), np.asarray(expected)
    return got.shape == expected.shape and bool(np.allclose(got, expected, rtol=0, atol=TOLERANCE))
