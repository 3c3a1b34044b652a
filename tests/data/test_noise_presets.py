"""Wrong labels by a preset of the literature."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_flip.data import NoisyLabels
from lightning_flip.functional.noise import cifar10_pairs, cifar100_superclass


def dataset(classes: int, each: int = 200) -> TensorDataset:
    return TensorDataset(torch.zeros(classes * each, 1), torch.arange(classes * each) % classes)


@pytest.mark.parametrize(
    ("preset", "transition"), [("cifar10_pairs", cifar10_pairs(0.4)), ("cifar100_superclass", cifar100_superclass(0.4))]
)
def test_a_preset_is_its_transition(preset, transition):
    data = dataset(len(transition))
    noisy = NoisyLabels(data, preset=preset, rate=0.4, seed=3)
    assert noisy.noisy_targets.equal(NoisyLabels(data, transition=transition, seed=3).noisy_targets)
    for true, label in zip(noisy.true_targets.tolist(), noisy.noisy_targets.tolist(), strict=True):
        assert transition[true, label] > 0
    expected = 0.2 if preset == "cifar10_pairs" else 0.4
    assert float(noisy.is_noisy.float().mean()) == pytest.approx(expected, abs=0.03)


def test_what_a_preset_needs_and_what_it_does_not_take():
    ten = dataset(10, 2)
    with pytest.raises(TypeError, match=r"preset='cifar10_pairs' needs rate=, got file="):
        NoisyLabels(ten, preset="cifar10_pairs", file="labels.txt")
    with pytest.raises(TypeError, match="give exactly one of rate, transition and file"):
        NoisyLabels(ten, preset="cifar10_pairs")
    with pytest.raises(TypeError, match="exact and include_true_class belong to rate=, got preset="):
        NoisyLabels(ten, preset="cifar10_pairs", rate=0.2, exact=True)
    with pytest.raises(ValueError, match="preset must be one of"):
        NoisyLabels(ten, preset="mnist", rate=0.2)
    with pytest.raises(ValueError, match="preset has 100 classes and num_classes is 10"):
        NoisyLabels(ten, preset="cifar100_superclass", rate=0.2, num_classes=10)
    with pytest.raises(ValueError, match="rate is a probability"):
        NoisyLabels(ten, preset="cifar10_pairs", rate=1.2)
    with pytest.raises(ValueError, match=r"target must hold labels in \[0, 10\)"):
        NoisyLabels(dataset(11, 2), preset="cifar10_pairs", rate=0.2)
