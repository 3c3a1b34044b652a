"""Wrong labels on purpose: symmetric and class-conditional noise, and the transitions that papers use on CIFAR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_flip.functional.transitions import check_rate, check_transition

__all__ = [
    "NoisePreset",
    "cifar10_pairs",
    "cifar100_superclass",
    "class_conditional_noise",
    "pair_transition",
    "preset_transition",
    "symmetric_noise",
]


def symmetric_noise(
    target: Int[Tensor, N],
    rate: float,
    num_classes: int,
    *,
    include_true_class: bool = False,
    exact: bool = False,
    generator: torch.Generator,
) -> Int[Tensor, N]:
    """Replace labels by uniformly drawn ones, each with probability ``rate``.

    With probability :math:`r` the label becomes one of the other :math:`K - 1` classes (the label smoothing and the
    Filter-KD papers). With ``include_true_class`` it is redrawn over all :math:`K` classes (the FER paper), so
    that only :math:`r (1 - 1/K)` of the labels end up wrong.

    The random numbers that choose the samples do not depend on the rate: with the same seed, what is replaced
    at a low rate is replaced by the same class at every higher rate. That, and ``exact``, are our own choices.

    Args:
        target: true labels in ``[0, K)``.
        rate: r in ``[0, 1]``.
        num_classes: K.
        include_true_class: redraw over all classes instead of the other ones.
        exact: replace exactly ``round(rate * N)`` labels, instead of each one independently.
        generator: source of the random numbers; it is advanced.

    Returns:
        New labels, of the dtype and on the device of ``target``, which is left as it is.

    Raises:
        ValueError: if the rate or a label is out of range, or there is no other class to change to.

    Example:
        >>> target = torch.zeros(1000, dtype=torch.int64)
        >>> noisy = symmetric_noise(target, 0.4, 10, exact=True, generator=torch.Generator().manual_seed(0))
        >>> int((noisy != target).sum())
        400
    """
    check_rate(rate)
    if num_classes < 2 and not include_true_class:
        raise ValueError(f"num_classes must be at least 2, so that there is another class to draw, got {num_classes}.")
    _check_labels(target, num_classes)
    score = torch.rand(target.shape, dtype=torch.float64, device=generator.device, generator=generator)
    low = 0 if include_true_class else 1
    shift = torch.randint(low, num_classes, target.shape, device=generator.device, generator=generator)
    chosen = score.argsort().argsort() < round(rate * target.numel()) if exact else score < rate
    chosen, shift = chosen.to(target.device), shift.to(target.device)
    # A uniform shift modulo K is a uniform class, and a shift of at least 1 never comes back to the same one.
    replaced = (target.to(torch.int64) + shift) % num_classes
    return torch.where(chosen, replaced.to(target.dtype), target)


def class_conditional_noise(
    target: Int[Tensor, N], transition: Float[Tensor, "K K"], *, generator: torch.Generator
) -> Int[Tensor, N]:
    """Redraw every label from the row of a transition matrix that belongs to its class.

    Args:
        target: true labels in ``[0, K)``.
        transition: row-stochastic: ``transition[true, noisy]`` is the probability that a sample of class ``true`` is
            labeled ``noisy``.
        generator: source of the random numbers; it is advanced.

    Returns:
        New labels, of the dtype and on the device of ``target``, which is left as it is.

    Raises:
        ValueError: if the matrix is not row-stochastic (within 1e-6), or a label is out of range.

    Example:
        >>> always_the_other = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> class_conditional_noise(torch.tensor([0, 1, 1]), always_the_other, generator=torch.Generator())
        tensor([1, 0, 0])
    """
    transition = transition.to(generator.device, torch.float64)
    check_transition(transition)
    _check_labels(target, len(transition))
    cumulative = transition.cumsum(1)
    # Dividing makes the last class with a probability end at exactly 1, so that rounding never draws one without.
    cumulative = cumulative / cumulative[:, -1:]
    labels = target.to(generator.device, torch.int64)
    uniform = torch.rand(labels.shape, dtype=torch.float64, device=generator.device, generator=generator)
    noisy = labels.clone()
    for label in torch.unique(labels).tolist():  # class by class: [N, K] at once is gigabytes for a thousand classes
        rows = labels == label
        noisy[rows] = torch.searchsorted(cumulative[label], uniform[rows], right=True)
    return noisy.to(target.device, target.dtype)


def _check_labels(target: Tensor, num_classes: int) -> None:
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < num_classes:
        raise ValueError(
            f"target must hold labels in [0, {num_classes}), got labels from {int(target.min())} to "
            f"{int(target.max())}. Count classes from 0, or give the right number of classes."
        )


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
        >>> pair_transition(3, {0: 2}, 0.25)[0]
        tensor([0.7500, 0.0000, 0.2500], dtype=torch.float64)
    """
    check_rate(rate)
    transition = torch.eye(num_classes, dtype=torch.float64)
    for true, noisy in pairs.items():
        if not (0 <= true < num_classes and 0 <= noisy < num_classes) or true == noisy:
            raise ValueError(f"pairs must join two different classes in [0, {num_classes}); got {true}: {noisy}.")
        transition[true, true], transition[true, noisy] = 1 - rate, rate
    return transition


def cifar10_pairs(rate: float) -> Float[Tensor, "K K"]:
    """T of CIFAR-10's similar pairs: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.

    The other five classes keep their labels, so that a share of r / 2 of all labels is wrong.

    Example:
        >>> [round(float(p), 1) for p in cifar10_pairs(0.4)[9]]
        [0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6]
    """
    return pair_transition(10, CIFAR10_PAIRS, rate)


def cifar100_superclass(rate: float) -> Float[Tensor, "K K"]:
    """T of CIFAR-100's superclasses: each class becomes the next one of its superclass, the last one the first.

    "Next" is by number, which is the alphabetical order of the names.

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
    """T of noise that papers use, by its name.

    Args:
        name: "cifar10_pairs" (truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog) or
            "cifar100_superclass" (each class becomes the next one of its superclass).
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
