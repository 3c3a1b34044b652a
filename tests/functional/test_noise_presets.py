"""Class-conditional noise as papers have it on CIFAR."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lightning_flip.functional import pair_transition, preset_transition
from lightning_flip.functional.noise import CIFAR100_SUPERCLASSES, cifar10_pairs, cifar100_superclass
from lightning_flip.functional.transitions import check_transition

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# By superclass, in the data set's order; a class's number is its place in the alphabetical list of all names.
SUPERCLASSES = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""
CIFAR100 = sorted(SUPERCLASSES.split())


def test_cifar10_is_mistaken_in_five_directions():
    changes = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    T = cifar10_pairs(0.3)
    check_transition(T)
    for place, name in enumerate(CIFAR10):
        expected = {name: 1.0} if name not in changes else {name: 0.7, changes[name]: 0.3}
        got = {CIFAR10[j]: float(p) for j, p in enumerate(T[place]) if p > 0}
        assert got == pytest.approx(expected)


def test_every_superclass_of_cifar100_has_five_classes_in_a_ring():
    assert Counter(CIFAR100_SUPERCLASSES) == dict.fromkeys(range(20), 5)
    T = cifar100_superclass(1.0)
    check_transition(T)
    successor = T.argmax(dim=1).tolist()
    assert sorted(successor) == list(range(100))
    for fine in range(100):
        ring = [fine]
        while successor[ring[-1]] != fine:
            ring.append(successor[ring[-1]])
        assert len(ring) == 5
        assert len({CIFAR100_SUPERCLASSES[member] for member in ring}) == 1
        assert sum(a > b for a, b in zip(ring, ring[1:] + ring[:1], strict=True)) == 1  # in order, and once around
    for coarse, line in enumerate(SUPERCLASSES.split("\n")[1:-1]):
        members = [CIFAR100.index(name) for name in line.split()]
        assert [CIFAR100_SUPERCLASSES[member] for member in members] == [coarse] * 5
        assert [successor[member] for member in members] == members[1:] + members[:1]


@pytest.mark.parametrize("name", ["cifar10_pairs", "cifar100_superclass"])
def test_presets_by_name(name):
    assert preset_transition(name, 0.0).equal(torch.eye(10 if name == "cifar10_pairs" else 100, dtype=torch.float64))
    check_transition(preset_transition(name, 0.4))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="preset must be one of 'cifar10_pairs', 'cifar100_superclass'"):
        preset_transition("mnist", 0.1)
    for pairs in ({0: 3}, {-1: 0}, {1: 1}):
        with pytest.raises(ValueError, match="two different classes in"):
            pair_transition(3, pairs, 0.1)
    with pytest.raises(ValueError, match="rate is a probability"):
        cifar10_pairs(1.5)
