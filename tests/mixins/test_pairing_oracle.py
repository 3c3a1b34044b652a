"""Runs with mixed and paired batches, on one rank and on two, held against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.callbacks.helpers import run_ranks
from tests.mixins.helpers import network, quiet
from tests.mixins.pairing import (
    ClassWiseGradient,
    Consistent,
    Keep,
    Mixed,
    MixupGradient,
    Paired,
    PlsGradient,
    points,
    replay,
    same_weights,
    shuffled,
    start_of,
)

PLS = [
    {},
    {"smoothing_weight": 0.9},
    {"smoothing_weight": 0.2, "smoothing_distribution": "uniform"},
    {"smoothing_distribution": "none"},
    {"smoothing_weight": 0.0},
    {"alternate": False},
]


@pytest.mark.parametrize("mixed_targets", ["distributions", "labels"])
@pytest.mark.parametrize("options", PLS, ids=str)
def test_pairwise_label_smoothing_is_the_oracles(options: dict[str, Any], mixed_targets: Any) -> None:
    model = Paired(network(), mixed_targets=mixed_targets, **options)
    net = start_of(model)
    distribution = options.get("smoothing_distribution", "learned") if options.get("smoothing_weight", 1) else "none"
    assert ("smoothing_head.weight" in net.weights) == (distribution == "learned")
    gradient = PlsGradient(options.get("smoothing_weight", 0.5), distribution, options.get("alternate", True))
    quiet().fit(model, shuffled())
    replay(net, [model.given], gradient)
    same_weights(model, net)
    assert len(gradient.partners) == (10 if gradient.alternate else 20)
    assert len({tuple(partner) for partner in gradient.partners}) > 5  # drawn anew for every batch


@pytest.mark.parametrize("mixed_targets", ["distributions", "labels"])
def test_mixup_is_the_oracles(mixed_targets: Any) -> None:
    model = Mixed(network(), mixed_targets=mixed_targets)
    net, gradient = start_of(model), MixupGradient()
    quiet(max_epochs=12).fit(model, shuffled())
    replay(net, [model.given], gradient)
    same_weights(model, net)
    assert len(set(gradient.shares)) == 60
    assert min(gradient.shares) < 0.1
    assert max(gradient.shares) > 0.9
    assert np.mean(gradient.shares) == pytest.approx(0.5, abs=0.15)


def test_mixup_alpha_is_that_of_the_beta_distribution() -> None:
    shares = []
    for alpha in (0.05, 200.0):
        model, gradient = Mixed(network(), mixup_alpha=alpha), MixupGradient()
        net = start_of(model)
        quiet().fit(model, shuffled())
        replay(net, [model.given], gradient)
        shares.append(np.abs(np.array(gradient.shares) - 0.5))
    assert np.median(shares[0]) > 0.4
    assert shares[1].max() < 0.15


@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 1.0), (1.5, 3.0)])
def test_class_wise_self_distillation_is_the_oracles(temperature: float, weight: float) -> None:
    model = Consistent(network(), class_wise_temperature=temperature, class_wise_weight=weight)
    net, gradient = start_of(model), ClassWiseGradient(temperature, weight)
    quiet().fit(model, shuffled())
    replay(net, [model.given], gradient)
    same_weights(model, net)
    assert len(set(gradient.positions)) > 20


KINDS: list[Any] = [
    (Paired, PlsGradient),
    (Mixed, MixupGradient),
    (Consistent, ClassWiseGradient),
]


def _fit(kind: Any, folder: Path) -> None:
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(points(), batch_size=5)
    quiet(devices=2, strategy="ddp", max_epochs=3, callbacks=[Keep(folder)]).fit(kind(network()), loader)


@pytest.mark.parametrize(("kind", "gradient"), KINDS)
def test_each_rank_mixes_and_pairs_its_own_batches(kind: Any, gradient: Any, tmp_path: Path) -> None:
    net, made = start_of(kind(network())), gradient()
    assert run_ranks(2, _fit, kind, tmp_path) == [0, 0]
    notes, weights = zip(
        *(torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)), strict=True
    )
    assert [len(steps) for steps in notes] == [9, 9]
    replay(net, list(notes), made)
    same_weights(weights[0], net)
    same_weights(weights[1], net)
    assert not np.array_equal(notes[0][0]["original"][0], notes[1][0]["original"][0])
    if kind is Paired:  # ranks draw apart
        assert any(one != other for one, other in zip(made.partners[::2], made.partners[1::2], strict=True))
    if kind is Mixed:
        assert all(one != other for one, other in zip(made.shares[::2], made.shares[1::2], strict=True))
