"""Transitions of the class-conditional label noise that papers use on CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["NoisePreset", "cifar10_pairs", "cifar100_superclass", "pair_transition", "preset_transition"]

NoisePreset = Literal["cifar10_pairs", "cifar100_superclass"]

#: airplane 0, automobile 1, bird 2, cat 3, deer 4, dog 5, frog 6, horse 7, ship 8, truck 9
CIFAR10_PAIRS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

#: The superclass (0 to 19) of each of the 100 classes, both in the alphabetical order of their names.
# fmt: off
CIFAR100_SUPERCLASSES = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11,
    6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5,
    5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17,
    10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13,
    16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)
# fmt: on


def pair_transition(num_classes: int, pairs: Mapping[int, int], rate: float) -> Float[Tensor, "K K"]:
    """T of noise between similar classes: each class becomes its partner with probability r.

    Args:
        num_classes: K.
        pairs: by a true class, the class that it is mistaken for; classes that are not named keep their labels.
        rate: r in [0, 1].

    Returns:
        Row-stochastic, float64 ``[K, K]``.

    Raises:
        ValueError: if the rate is out of range, or a class is outside ``[0, K)`` or its own partner.

    Example:
        >>> pair_transition(3, {0: 2}, 0.25)
        tensor([[0.7500, 0.0000, 0.2500],
                [0.0000, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a probability: expected a number in [0, 1], got {rate}; 40% noise is rate=0.4.")
    transition = torch.eye(num_classes, dtype=torch.float64)
    for true, noisy in pairs.items():
        if not (0 <= true < num_classes and 0 <= noisy < num_classes) or true == noisy:
            raise ValueError(f"pairs must join two different classes in [0, {num_classes}); got {true}: {noisy}.")
        transition[true, true], transition[true, noisy] = 1 - rate, rate
    return transition


def cifar10_pairs(rate: float) -> Float[Tensor, "K K"]:
    """T of CIFAR-10's similar pairs: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.

    The other five classes keep their labels, so that a share of r / 2 of all labels is wrong.

    Args:
        rate: r in [0, 1].

    Returns:
        Row-stochastic, float64 ``[10, 10]``.

    Raises:
        ValueError: if the rate is out of range.

    Example:
        >>> [round(float(p), 1) for p in cifar10_pairs(0.4)[9]]
        [0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6]
    """
    return pair_transition(10, CIFAR10_PAIRS, rate)


def cifar100_superclass(rate: float) -> Float[Tensor, "K K"]:
    """T of CIFAR-100's superclasses: each class becomes the next one of its superclass, the last one the first.

    "Next" is by number, which is the alphabetical order of the names.

    Args:
        rate: r in [0, 1].

    Returns:
        Row-stochastic, float64 ``[100, 100]``.

    Raises:
        ValueError: if the rate is out of range.

    Example:
        >>> T = cifar100_superclass(1.0)  # beaver, dolphin, otter, seal and whale are aquatic mammals
        >>> [int(T[mammal].argmax()) for mammal in (4, 30, 55, 72, 95)]
        [30, 55, 72, 95, 4]
    """
    pairs: dict[int, int] = {}
    for superclass in range(max(CIFAR100_SUPERCLASSES) + 1):
        members = [fine for fine, coarse in enumerate(CIFAR100_SUPERCLASSES) if coarse == superclass]
        pairs |= dict(zip(members, members[1:] + members[:1], strict=True))
    return pair_transition(100, pairs, rate)


def preset_transition(name: str, rate: float) -> Float[Tensor, "K K"]:
    """T of a preset by its name.

    Args:
        name: "cifar10_pairs" or "cifar100_superclass".
        rate: r in [0, 1].

    Returns:
        Row-stochastic, float64 ``[K, K]``.

    Raises:
        ValueError: for another name, or a rate out of range.

    Example:
        >>> preset_transition("cifar10_pairs", 0.4).shape
        torch.Size([10, 10])
    """
    presets = {"cifar10_pairs": cifar10_pairs, "cifar100_superclass": cifar100_superclass}
    if name not in presets:
        raise ValueError(f"preset must be one of {', '.join(map(repr, presets))}; got {name!r}.")
    return presets[name](rate)
