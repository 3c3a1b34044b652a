"""What is switched off, or only watches, leaves training as it is to the last bit."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.callbacks import ExactResume, FlipTracker, PredictionHistory
from lightning_flip.mixins import (
    FlippingErrorReduction,
    LabelSmoothing,
    LearningWithRetrospection,
)
from tests.mixins.helpers import LitNet, quiet


class Plain(LitNet):
    """Trains and validates."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


class Fer(FlippingErrorReduction, Plain):
    """FER."""


class All(LabelSmoothing, LearningWithRetrospection, FlippingErrorReduction, Plain):
    """Everything at once."""


class Noise(TensorDataset):
    """Draws from the worker's global generator for every sample, as augmentations do."""

    def __getitem__(self, index: Any) -> Any:
        x, y = (tensor[index] for tensor in self.tensors)
        return x + 0.1 * torch.randn(x.shape), y


def trained(kind: Any, workers: int = 0, callbacks: Any = (), **options: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """Weights after three epochs, and the next numbers that would be drawn."""
    pl.seed_everything(5, workers=True, verbose=False)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    data = Noise(torch.randn(24, 4), torch.randint(3, (24,)))
    settings: dict[str, Any] = {"batch_size": 5, "shuffle": True, "num_workers": workers}
    model = kind(net, lr=0.1, **options)
    validation = DataLoader(TensorDataset(*data.tensors), batch_size=8)
    quiet(max_epochs=3, callbacks=list(callbacks)).fit(model, DataLoader(data, **settings), validation)
    return model.state_dict(), torch.cat([torch.rand(2), torch.tensor([random.random(), np.random.rand()])])  # noqa: NPY002


def identical(one: Any, other: Any) -> bool:
    assert one[0].keys() == other[0].keys()
    return one[1].equal(other[1]) and all(value.equal(other[0][name]) for name, value in one[0].items())


@functools.cache
def plain(workers: int = 0) -> tuple[dict[str, Any], torch.Tensor]:
    """What the module alone is trained to."""
    return trained(Plain, workers)


@pytest.mark.parametrize(("kind", "workers"), [(Fer, 2), (All, 2), (All, 0)])
def test_a_term_of_weight_zero_is_off(kind: Any, workers: int) -> None:
    """tests/sweep has each method without workers."""
    assert identical(trained(kind, workers, term_weight=0.0), plain(workers))


@pytest.mark.filterwarnings("ignore:.* each soften the target")  # all three methods in one class do
def test_three_terms_of_weight_one_are_on_and_draw_no_random_number() -> None:
    """tests/sweep has each method."""
    on, off = trained(All, lwr_interval=1), plain()
    assert any(not value.equal(off[0][name]) for name, value in on[0].items())
    assert on[1].equal(off[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_callbacks_only_watch(workers: int, tmp_path: Path) -> None:
    watchers = [PredictionHistory(tmp_path / "run"), FlipTracker(), ExactResume()]
    assert identical(trained(Plain, workers, watchers), plain(workers))
    assert list((tmp_path / "run").rglob("*.parquet"))


def test_callbacks_leave_a_term_as_it_is(tmp_path: Path) -> None:
    watchers = [PredictionHistory(tmp_path / "run"), FlipTracker(), ExactResume()]
    assert identical(trained(Fer, callbacks=watchers), trained(Fer))
