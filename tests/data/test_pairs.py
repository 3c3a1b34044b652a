"""Partners of the same class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from lightning_flip.data import SameClassPairs

LABELS = torch.tensor([3, 0, 3, 1, 0, 3, 3])


def test_partners_are_of_the_class_and_each_is_as_likely() -> None:
    pairs = SameClassPairs(LABELS)
    positions = torch.arange(7).repeat(3000)
    partners = pairs.of_samples(positions, torch.Generator().manual_seed(0))
    assert LABELS[partners].equal(LABELS[positions])
    drawn = torch.bincount(partners[positions == 2], minlength=7) / 3000
    assert drawn.tolist() == pytest.approx([0.25, 0, 0.25, 0, 0, 0.25, 0.25], abs=0.03)
    assert set(partners[positions == 3].tolist()) == {3}  # alone in its class: itself


def test_a_generator_repeats_itself_and_leaves_the_global_one() -> None:
    pairs, state = SameClassPairs(LABELS), torch.get_rng_state()
    one, other = (pairs.of_samples(torch.arange(7), torch.Generator().manual_seed(4)) for _ in range(2))
    assert one.equal(other)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("missing", [2, 4, -1])
def test_a_class_without_samples_is_an_error(missing: int) -> None:
    with pytest.raises(ValueError, match=f"class {missing} has no samples.* Classes with samples: 0, 1, 3"):
        SameClassPairs(LABELS).of_classes(torch.tensor([0, missing]))


@pytest.mark.parametrize("labels", [[], [0.5], [[0, 1]], [0, -1]])
def test_what_are_no_labels_is_refused(labels: Any) -> None:
    for ignored in (None, -100):
        with pytest.raises(ValueError, match="expected one integer label >= 0 per sample"):
            SameClassPairs(np.array(labels), ignore_index=ignored)


@pytest.mark.parametrize("none", [-100, 255, 1])
def test_a_sample_without_a_label_is_its_own_partner_and_no_others(none: int) -> None:
    labels = torch.tensor([2, none, 2, 0, none, 0])
    pairs = SameClassPairs(labels, ignore_index=none)
    positions = torch.arange(6).repeat(200)
    partners = pairs.of_samples(positions, torch.Generator().manual_seed(0))
    assert labels[partners].equal(labels[positions])
    assert partners[positions == 1].eq(1).all()
    assert partners[positions == 4].eq(4).all()
    assert set(partners[positions == 0].tolist()) == {0, 2}
    assert pairs.counts.tolist() == [2, 0, 2]
    assert SameClassPairs([none, none], ignore_index=none).of_samples(torch.tensor([1, 0])).tolist() == [1, 0]


def test_of_a_dataset() -> None:
    whole = TensorDataset(torch.zeros(7, 2), LABELS)
    assert SameClassPairs.of_dataset(Subset(whole, [1, 2, 4])).labels.tolist() == [0, 3, 0]
