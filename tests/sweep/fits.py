"""Small fits of any swept method: what it needs, the fixed batches, and what a run left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.mixins import methods
from tests.mixins.baselines import Shares
from tests.mixins.helpers import LR, K, LitNet, N, Recorder, inputs, labels, quiet
from tests.oracles.retrospection import Batches
from tests.sweep.settings import Setting

EPOCHS = 2


def kind(setting: Setting, module: Any = LitNet) -> Any:
    """The method in front of a module."""
    return methods.before(setting.method, module)


def made(setting: Setting, module: Any = LitNet, net: Any = None, lr: float = LR, **options: Any) -> Any:
    """A model of the method with the setting's options."""
    return methods.made(kind(setting, module), lr, net, **(setting.options | options))


def batches(size: int = 8, epochs: int = EPOCHS) -> Batches:
    """All samples in batches of one size, in another order in each epoch."""
    rng = np.random.default_rng(5)
    return [np.split(rng.permutation(N), N // size) for _ in range(epochs)]


def points(classes: int = K, dtype: torch.dtype = torch.float64) -> TensorDataset:
    return TensorDataset(torch.from_numpy(inputs()).to(dtype), torch.from_numpy(labels(classes)))


def data(size: int = 8, dataset: Any = None, world: int = 1) -> DataLoader[Any]:
    """The fixed batches; of several ranks, each has its share of every batch."""
    return DataLoader(points() if dataset is None else dataset, batch_sampler=Shares(batches(size), world))


def fit(setting: Setting | None, model: Any, loader: Any = None, *more: Any, **options: Any) -> Recorder:
    """Train, and return what was noted; without a setting, no callbacks of a method."""
    recorder = Recorder()
    callbacks = [recorder, *more, *(setting.callbacks() if setting is not None else [])]
    settings = {"max_epochs": EPOCHS, **options}
    quiet(callbacks=callbacks, **settings).fit(model, data() if loader is None else loader)
    return recorder


def numbers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether the same weights are the same to the last bit."""
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


class Named(TensorDataset):
    """Samples that are dicts."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return {"image": x, "label": y}


class LitNamed(LitNet):
    """A module whose batches are dicts."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["image"]), batch["label"])
