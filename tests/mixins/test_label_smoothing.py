"""Label smoothing through a real Trainer against the numpy loop, torch's own, and on distributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import LabelSmoothing
from tests.mixins.helpers import (
    LR,
    D,
    H,
    LitNet,
    differences,
    inputs,
    labels,
    loader,
    network,
    quiet,
    shuffled_batches,
    train,
    weights,
)
from tests.oracles.retrospection import NumpyNet, label_smoothing_loop


class Smoothed(LabelSmoothing, LitNet):
    """The mixin in front of a user's module."""


class SmoothedByTorch(LitNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=0.3)


@pytest.mark.parametrize("smoothing", [0.0, 0.6])
def test_a_run_is_the_numpy_loop(smoothing: float) -> None:
    """tests/sweep has the default, a tenth."""
    net = NumpyNet.random(D, H, 4, seed=0)
    trace = label_smoothing_loop(net, inputs(), labels(4), shuffled_batches(), LR, smoothing)
    model = Smoothed(network(), smoothing=smoothing)
    recorder = train(model, loader(inputs(), labels(4), shuffled_batches()))
    assert differences(model, recorder, trace) == []
    assert model._term_loop.tables == {}


def test_a_run_is_torchs_own_smoothing() -> None:
    ours, torchs = Smoothed(network(), smoothing=0.3), SmoothedByTorch(network())
    for model in (ours, torchs):
        train(model, loader(inputs(), labels(4), shuffled_batches()))
    for name, value in weights(torchs).items():
        assert weights(ours)[name] == pytest.approx(value, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.* softens the target, and the batches bring distributions")
def test_mixed_targets_are_smoothed_further() -> None:
    q = torch.rand(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    x = torch.from_numpy(inputs())
    net = network()
    logits = net(x)
    recorder = train(Smoothed(net, smoothing=0.2), DataLoader(TensorDataset(x, q), batch_size=24), max_epochs=1)
    target = 0.8 * q + 0.2 / 4
    by_hand = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert recorder.losses == pytest.approx([by_hand.item()], abs=1e-12)


def test_needs_no_end_of_training() -> None:
    trainer = quiet(max_epochs=-1, max_steps=3, limit_train_batches=2)
    trainer.fit(Smoothed(network()), loader(inputs(), labels(4), shuffled_batches()))
    assert trainer.global_step == 3


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0, float("nan")])
def test_a_smoothing_out_of_range_is_named(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\).*got"):
        Smoothed(network(), smoothing=smoothing)
