"""Update scenarios: shares of every class, nested draws, and two evaluation sets that hold the same samples."""

from itertools import pairwise

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from lightning_flip.data import (
    NoisyLabels,
    more_classes,
    more_samples,
    more_samples_and_classes,
    same_data,
    stratified_fraction,
)
from lightning_flip.data.labels import find_labels
from lightning_flip.data.origins import resolve_source

SIZES = [40, 7, 1, 25]
LABELS = torch.tensor([k for k, size in enumerate(SIZES) for _ in range(size)])


@pytest.fixture
def whole():
    order = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(5))
    return TensorDataset(torch.arange(len(LABELS)), LABELS[order])


def contents(dataset):
    """Position in the innermost dataset -> label handed out."""
    return {resolve_source(dataset, i)[2]: int(dataset[i][1]) for i in range(len(dataset))}


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9, 1.0])
def test_every_class_gives_its_share_and_at_least_one(whole, fraction):
    drawn = stratified_fraction(whole, fraction, seed=3)
    counts = torch.bincount(find_labels(drawn), minlength=4).tolist()
    assert counts == [max(1, round(fraction * size)) for size in SIZES]
    assert list(drawn.indices) == sorted(set(drawn.indices))


def test_smaller_shares_are_part_of_larger_ones(whole):
    for seed in range(5):
        parts = [set(stratified_fraction(whole, step / 20, seed=seed).indices) for step in range(1, 21)]
        assert all(small <= large for small, large in pairwise(parts))


def test_the_seed_decides_and_nothing_global_moves(whole):
    before = torch.get_rng_state()
    drawn = [list(stratified_fraction(whole, 0.5, seed=seed).indices) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_impossible_shares_are_refused(whole, fraction):
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        stratified_fraction(whole, fraction)


SCENARIOS = {
    "same data": same_data,
    "samples": lambda train, test: more_samples(train, test, 0.5, seed=1),
    "classes": lambda train, test: more_classes(train, test, [3, 0]),
    "both": lambda train, test: more_samples_and_classes(train, test, 0.5, [3, 0], seed=1),
}


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_old_model_learns_from_a_part_and_both_are_asked_the_same(whole, name, noise):
    train, test = Subset(whole, range(0, len(LABELS), 2)), Subset(whole, range(1, len(LABELS), 2))
    train = NoisyLabels(train, rate=noise, seed=0) if noise else train
    scenario = SCENARIOS[name](train, test)
    lead = scenario.old_classes or range(4)
    assert scenario.new_train is train
    assert {i: lead[label] for i, label in contents(scenario.old_train).items()}.items() <= contents(train).items()
    old, new = contents(scenario.old_evaluation), contents(scenario.new_evaluation)
    assert list(old) == list(new)
    assert [lead[label] for label in old.values()] == list(new.values())
    assert set(new.items()) == {(i, y) for i, y in contents(test).items() if y in lead}
    assert len(scenario.old_train) < len(train) or name == "same data"


def test_both_changes_are_the_two_at_once(whole):
    half = set(stratified_fraction(whole, 0.5, seed=2).indices)
    known = contents(more_classes(whole, whole, [0, 1]).old_train)
    both = contents(more_samples_and_classes(whole, whole, 0.5, [0, 1], seed=2).old_train)
    assert set(both) == half & set(known)
    assert both.items() <= known.items()


@pytest.mark.parametrize(
    ("classes", "message"), [([0, 9], r"\[9\], of which no sample"), ([1, 1], "once"), ([], "at least one")]
)
def test_classes_without_samples_are_refused(whole, classes, message):
    with pytest.raises(ValueError, match=message):
        more_classes(whole, whole, classes)
