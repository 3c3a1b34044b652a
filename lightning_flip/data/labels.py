"""Where datasets and samples keep their labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from lightning_flip.data.origins import first_attribute, subset_indices

__all__ = [
    "TARGET_KEYS",
    "check_label",
    "class_names",
    "find_labels",
    "kept_labels",
    "label_of",
    "with_label",
    "with_target",
]

TARGET_KEYS = ("target", "label", "labels", "y")


def label_of(sample: Any) -> int:
    """The label of one sample.

    Example:
        >>> label_of(("pixels", 3)), label_of({"x": "pixels", "label": torch.tensor(2)})
        (3, 2)
    """
    value = sample[_place(sample)]
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iub":
        raise TypeError(
            f"expected one integer label per sample, got {type(value).__name__} of shape {array.shape} and dtype "
            f"{array.dtype}. Soft and one-hot labels have no label noise of this kind; wrap the dataset before them."
        )
    return int(array.reshape(()))


def class_names(dataset: Any) -> list[str] | None:
    """The names of a dataset's classes, through wrappers; None if it has none.

    They are the attribute ``classes`` of torchvision's datasets, or the names of the label in Hugging Face's
    ``features``.

    Example:
        >>> from torchvision.datasets import FakeData
        >>> named = FakeData(4)
        >>> named.classes = ["cat", "dog"]
        >>> class_names(Subset(named, [1, 2])), class_names(FakeData(4))
        (['cat', 'dog'], None)
    """
    if not len(dataset):
        return None
    names = first_attribute(dataset, "classes")
    if names is None:
        features = first_attribute(dataset, "features")
        fields = features if isinstance(features, Mapping) else {}
        names = next((getattr(fields[key], "names", None) for key in TARGET_KEYS if key in fields), None)
    return [str(name) for name in names] if isinstance(names, (list, tuple)) and names else None


def check_label(sample: Any, listed: int, position: int) -> None:
    """Refuse a sample whose label is not the listed one."""
    found = label_of(sample)
    if found != listed:
        raise ValueError(
            f"sample {position} has the label {found}, and the dataset's list of labels says {listed}. "
            "Pass scan=True to read the labels from the samples; the labels must not change between accesses."
        )


def with_label(sample: Any, label: int) -> Any:
    """A copy of a sample with another label of the same type.

    Example:
        >>> with_label(("pixels", 3), 5), with_label({"x": "pixels", "y": 3}, 5)
        (('pixels', 5), {'x': 'pixels', 'y': 5})
    """
    old = sample[_place(sample)]
    new: Any = label
    if isinstance(old, Tensor):
        new = torch.full_like(old, label)
    elif isinstance(old, np.ndarray):
        new = np.full_like(old, label)
    elif isinstance(old, np.generic):
        new = type(old)(label)
    return with_target(sample, new)


def with_target(sample: Any, target: Any) -> Any:
    """A copy of a sample with ``target`` of any type instead of its label."""
    place = _place(sample)
    if isinstance(sample, tuple):
        parts = [*sample[:place], target, *sample[place + 1 :]]
        return type(sample)._make(parts) if hasattr(sample, "_make") else tuple(parts)
    changed = copy.copy(sample)
    changed[place] = target
    return changed


def _place(sample: Any) -> Any:
    names = list(sample) if isinstance(sample, Mapping) else getattr(sample, "_fields", ())
    key = next((key for key in TARGET_KEYS if key in names), None)
    if key is not None:
        return key if isinstance(sample, Mapping) else names.index(key)
    if isinstance(sample, (tuple, list)) and len(sample) >= 2:
        return 1
    raise TypeError(
        f"found no label in a sample of type {type(sample).__name__}"
        + (f" with the keys {', '.join(map(str, names))}" if names else "")
        + f"; expected (input, label, ...) or one of the keys {', '.join(TARGET_KEYS)}."
    )


def find_labels(dataset: Any, *, scan: bool = False) -> Tensor:
    """The label of every sample, int64 ``[N]``; from an attribute, or without one, or with ``scan``, from samples.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> whole = TensorDataset(torch.zeros(4, 2), torch.tensor([3, 1, 2, 0]))
        >>> find_labels(Subset(whole, [2, 0])), find_labels([("a", 1), ("b", 0)])
        (tensor([2, 3]), tensor([1, 0]))
    """
    labels = None if scan else kept_labels(dataset)
    if labels is not None:
        return torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):  # random transforms must not move the run's random state
        return torch.tensor([label_of(dataset[index]) for index in range(len(dataset))], dtype=torch.int64)


def kept_labels(dataset: Any) -> npt.NDArray[np.int64] | None:
    """A copy of the labels ``[N]`` that an attribute of the dataset holds; None if samples would have to be read."""
    try:
        return _listed(dataset)
    except Exception:  # an attribute of that name that raises, or holds something else: no list
        return None


def _listed(dataset: Any) -> npt.NDArray[np.int64] | None:
    if isinstance(dataset, Subset) and not isinstance(getattr(dataset, "targets", None), Tensor):
        labels = kept_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(subset_indices(dataset), np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [kept_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if getattr(dataset, "target_transform", None) is not None:
        return None  # the attribute holds what the transform has not seen
    kept = getattr(dataset, "targets", None)
    kept = getattr(dataset, "labels", None) if kept is None else kept
    if kept is None:
        tensors: Sequence[Any] = getattr(dataset, "tensors", ())
        kept = tensors[1] if len(tensors) > 1 else None
    shape = getattr(kept, "shape", None)
    if kept is None or callable(kept) or (shape is not None and tuple(shape) != (len(dataset),)):
        return None  # decided by the shape if there is one, so that labels in a file are not read
    if isinstance(kept, (list, tuple)) and kept and isinstance(kept[0], Tensor):
        kept = torch.stack(list(kept))
    array = kept.detach().cpu().numpy() if isinstance(kept, Tensor) else np.asarray(kept)
    if array.shape != (len(dataset),) or array.dtype.kind not in "iub":
        return None
    return array.astype(np.int64)
