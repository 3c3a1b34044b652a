"""What changes between an old model and a new one, as data: which samples and classes each is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from lightning_flip.data.class_subset import ClassSubset, checked_classes
from lightning_flip.data.labels import find_labels

__all__ = [
    "UpdateScenario",
    "more_classes",
    "more_samples",
    "more_samples_and_classes",
    "same_data",
    "stratified_fraction",
]


@dataclass(frozen=True)
class UpdateScenario:
    """The data of one update; the functions of this file make it.

    The new model counts classes as the dataset does. The old one counts the classes that it knows from 0. The
    two sets to evaluate on hold the same samples in the same order, those of the classes that both know, each with
    the labels of its model. They have the same sample ids, so that files of predictions on them can be joined.

    Attributes:
        old_train: what the old model is trained on.
        new_train: what the new model is trained on; every sample of ``old_train`` is in it, with the same label.
        old_evaluation: samples to evaluate the old model on.
        new_evaluation: the same samples for the new model.
        old_classes: the new model's class for each of the old model's outputs, for ``old_classes=`` of the loss terms
            and ``class_labels=`` of a prediction writer; None if both models know the same classes.
    """

    old_train: Dataset[Any]
    new_train: Dataset[Any]
    old_evaluation: Dataset[Any]
    new_evaluation: Dataset[Any]
    old_classes: tuple[int, ...] | None = None


def same_data(train: Dataset[Any], evaluation: Dataset[Any]) -> UpdateScenario:
    """Another seed, another network, or fine-tuning: both models are trained on the same map-style data.

    Example:
        >>> scenario = same_data(["a", "b"], ["c"])
        >>> scenario.old_train is scenario.new_train, scenario.old_classes
        (True, None)
    """
    return UpdateScenario(train, train, evaluation, evaluation)


def more_samples(
    train: Dataset[Any], evaluation: Dataset[Any], fraction: float = 0.5, *, seed: int = 0
) -> UpdateScenario:
    """The old model is trained on a share of each class, the new one on everything; see :func:`stratified_fraction`.

    Example:
        >>> train = [(x, x % 2) for x in range(10)]
        >>> scenario = more_samples(train, [(10, 0), (11, 1)], 0.4)
        >>> len(scenario.old_train), len(scenario.new_train)
        (4, 10)
    """
    return UpdateScenario(stratified_fraction(train, fraction, seed=seed), train, evaluation, evaluation)


def more_classes(train: Dataset[Any], evaluation: Dataset[Any], classes: Sequence[int]) -> UpdateScenario:
    """The old model knows some of the classes, the new one all of them; see :func:`more_samples_and_classes`.

    Example:
        >>> train = [(x, x % 3) for x in range(9)]
        >>> scenario = more_classes(train, [(9, 0), (10, 1), (11, 2)], [2, 0])
        >>> list(scenario.old_evaluation), list(scenario.new_evaluation)
        ([(9, 1), (11, 0)], [(9, 0), (11, 2)])
        >>> len(scenario.old_train), len(scenario.new_train), scenario.old_classes
        (6, 9, (2, 0))
    """
    return more_samples_and_classes(train, evaluation, 1.0, classes)


def more_samples_and_classes(
    train: Dataset[Any], evaluation: Dataset[Any], fraction: float, classes: Sequence[int], *, seed: int = 0
) -> UpdateScenario:
    """The old model is trained on a share of some classes, the new one on everything.

    Args:
        train: map-style training data with integer labels that count from 0.
        evaluation: map-style data that neither model is trained on.
        fraction: the old model's share of the samples of each of its classes, in ``(0, 1]``.
        classes: the classes that the old model knows, in the order of its outputs.
        seed: seed of the draw.

    Returns:
        The scenario, which evaluates on samples of ``classes`` alone.

    Raises:
        ValueError: if ``fraction`` is outside its range, or a class is named twice or has no sample to train on.

    Example:
        >>> train = [(x, x % 3) for x in range(30)]
        >>> scenario = more_samples_and_classes(train, train, 0.5, [0, 1])
        >>> len(scenario.old_train), len(scenario.new_train), len(scenario.old_evaluation)
        (10, 30, 20)
    """
    chosen = checked_classes(classes)
    present = set(find_labels(train).tolist())
    absent = [label for label in chosen if label not in present]
    if absent:
        raise ValueError(f"classes={list(chosen)} has {absent}, of which no sample is there to train on.")
    known = ClassSubset(train if fraction == 1 else stratified_fraction(train, fraction, seed=seed), chosen)
    return UpdateScenario(
        old_train=known,
        new_train=train,
        old_evaluation=ClassSubset(evaluation, chosen),
        new_evaluation=ClassSubset(evaluation, chosen, relabel=False),
        old_classes=chosen,
    )


def stratified_fraction(dataset: Dataset[Any], fraction: float, *, seed: int = 0) -> Subset[Any]:
    """Draw the same share of every class, in the dataset's order.

    For one dataset and one seed a smaller share is part of every larger one. Of ``n`` samples of a class
    ``round(fraction * n)`` are drawn, at least one.

    Args:
        dataset: map-style dataset with integer labels.
        fraction: share in ``(0, 1]``.
        seed: seed of the draw; the global random state is not touched.

    Raises:
        ValueError: if ``fraction`` is outside its range.
        TypeError: if a sample has no integer label.

    Example:
        >>> data = [(x, int(x < 4)) for x in range(20)]
        >>> half, quarter = stratified_fraction(data, 0.5), stratified_fraction(data, 0.25)
        >>> [label for _, label in half].count(1), [label for _, label in quarter].count(1), len(half), len(quarter)
        (2, 1, 10, 5)
        >>> set(quarter.indices) <= set(half.indices)
        True
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}; half of the samples is fraction=0.5.")
    labels = find_labels(dataset)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn: list[int] = []
    for label in sorted(set(labels.tolist())):
        of_class = order[labels[order] == label].tolist()
        drawn.extend(of_class[: max(1, round(fraction * len(of_class)))])
    return Subset(dataset, sorted(drawn))
