"""The part of a dataset whose labels are among some classes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from lightning_flip.data._wrapped import fetch
from lightning_flip.data.labels import check_label, find_labels, with_label
from lightning_flip.data.origins import ask_dataset, first_attribute

__all__ = ["ClassSubset", "checked_classes"]


class ClassSubset(Subset[Any]):
    """Hands out the samples of a map-style dataset whose label is one of some classes, in the dataset's order.

    With ``relabel`` a sample's label becomes the position of its class in ``classes``, for a network with as many
    outputs; ``class_labels`` maps back. A sample keeps its form, the type of its label, its position in the innermost
    dataset and its ``sample_id``, so that predictions on different subsets of one dataset can be joined.

    What counts is the label that the dataset hands out. Over a :class:`~lightning_flip.data.NoisyLabels` that is the
    noisy one, and the true class may be none of those chosen.

    Args:
        dataset: map-style dataset with integer labels; see :class:`~lightning_flip.data.NoisyLabels` for where they are
            found.
        classes: the labels to keep, in the order of a network's outputs.
        relabel: count the kept classes from 0; False leaves labels as they are.
        scan: read the labels from the samples even if the dataset has an attribute for them.

    Attributes:
        class_labels: the dataset's label for each of the labels handed out: ``classes`` with ``relabel``, else None.
        targets: the labels as handed out, int64 ``[N]``.
        indices: positions of the samples in ``dataset``.

    Raises:
        TypeError: if a class or a sample's label is not an integer.
        ValueError: if a class is named twice or no sample is of any of the classes.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> whole = TensorDataset(torch.arange(6.0), torch.tensor([0, 7, 3, 7, 0, 3]))
        >>> known = ClassSubset(whole, [7, 3])
        >>> [(float(x), int(y)) for x, y in known]
        [(1.0, 0), (2.0, 1), (3.0, 0), (5.0, 1)]
        >>> known.class_labels, [int(y) for _, y in ClassSubset(whole, [7, 3], relabel=False)]
        ((7, 3), [7, 3, 7, 3])
    """

    def __init__(self, dataset: Any, classes: Sequence[int], *, relabel: bool = True, scan: bool = False) -> None:
        chosen = checked_classes(classes)
        labels = find_labels(dataset, scan=scan)
        places = {label: place for place, label in enumerate(chosen)}
        kept = [position for position, label in enumerate(labels.tolist()) if label in places]
        if not kept:
            raise ValueError(
                f"classes={list(chosen)} are the labels of none of the {len(labels)} samples; "
                f"the dataset has {_some(labels)}."
            )
        super().__init__(dataset, kept)
        self.class_labels: tuple[int, ...] | None = chosen if relabel else None
        self._places = places
        self._original = labels[kept]
        self.targets: Tensor = self._original
        if relabel:
            self.targets = torch.tensor([places[label] for label in self._original.tolist()], dtype=torch.int64)

    @property
    def classes(self) -> list[Any]:
        """The names of the classes handed out, as torchvision calls them: the dataset's if it has some, else labels."""
        found = first_attribute(self.dataset, "classes")
        names: Sequence[Any] = found if isinstance(found, (list, tuple)) else ()
        if self.class_labels is None:
            return list(names)
        named = all(0 <= label < len(names) for label in self.class_labels)
        return [names[label] if named else label for label in self.class_labels]

    def true_target(self, index: int) -> int | None:
        """The label before noise, as this subset counts labels; None if unknown or not one of the chosen classes."""
        true = ask_dataset(self.dataset, self.indices[index], "true_target")
        if true is None or self.class_labels is None:
            return None if true is None else int(true)
        return self._places.get(int(true))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (list, tuple)):
            return self.__getitems__(list(index))
        position = operator.index(index)
        return self._relabel(self.dataset[self.indices[position]], position)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        samples = fetch(self.dataset, [self.indices[index] for index in indices])
        return [self._relabel(sample, index) for sample, index in zip(samples, indices, strict=True)]

    def _relabel(self, sample: Any, index: int) -> Any:
        check_label(sample, int(self._original[index]), self.indices[index])
        return sample if self.class_labels is None else with_label(sample, int(self.targets[index]))


def checked_classes(classes: Sequence[int], num_classes: int | None = None) -> tuple[int, ...]:
    """A choice of classes as Python integers: at least one, none twice, in ``[0, num_classes)`` if that is given."""
    if isinstance(classes, (str, bytes)):
        raise TypeError(f"classes must be a list of integer labels, got {classes!r}.")
    try:
        chosen = tuple(operator.index(label) for label in classes)
    except TypeError as error:
        raise TypeError(f"classes must be a list of integer labels, got {classes!r}: {error}.") from None
    if not chosen:
        raise ValueError("classes must name at least one label, got none; leave it out to keep every class.")
    twice = sorted({label for label in chosen if chosen.count(label) > 1})
    if twice:
        raise ValueError(f"classes must name each label once, got {_some(torch.tensor(twice))} more than once.")
    if num_classes is not None and not all(0 <= label < num_classes for label in chosen):
        raise ValueError(f"classes must be labels in [0, {num_classes}), got {list(chosen)}.")
    return chosen


def _some(labels: Tensor) -> str:
    values = sorted(set(labels.tolist()))
    listed = ", ".join(map(str, values[:10])) or "no labels"
    return f"{listed}, ... ({len(values)} labels)" if len(values) > 10 else listed
