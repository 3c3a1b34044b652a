"""Where datasets, samples and files keep their labels."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from lightning_flip.data.origins import subset_indices

__all__ = ["TARGET_KEYS", "find_labels", "label_of", "labels_at_hand", "read_labels", "with_label", "with_target"]

TARGET_KEYS = ("target", "label", "labels", "y")
_FILE_NAMES = ("noisy_targets", "noisy_labels", "noisy_label", "targets", "target", "labels", "label", "y")


def label_of(sample: Any) -> int:
    """Read the label of one sample. Returns the label.

    Example:
        >>> label_of(("pixels", 3)), label_of({"x": "pixels", "label": torch.tensor(2)})
        (3, 2)
    """
    value = sample[_place(sample)]
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iub":
        raise TypeError(
            f"expected one integer label a sample, got {type(value).__name__} of shape {array.shape} and dtype "
            f"{array.dtype}. Soft and one-hot labels have no label noise of this kind; wrap the dataset before them."
        )
    return int(array.reshape(()))


def with_label(sample: Any, label: int) -> Any:
    """Copy a sample with another label of the same type. Returns a sample of the same form.

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
    """Copy a sample with anything else in the place of its label. Returns a sample of the same form.

    Example:
        >>> with_target(("pixels", 3), [0.5, 0.5]), with_target({"x": "pixels", "y": 3}, None)
        (('pixels', [0.5, 0.5]), {'x': 'pixels', 'y': None})
    """
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
    """Collect the label of every sample of a dataset.

    Returns labels, int64 ``[N]``; never the memory of the dataset itself.

    Example:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> whole = TensorDataset(torch.zeros(4, 2), torch.tensor([3, 1, 2, 0]))
        >>> find_labels(Subset(whole, [2, 0])), find_labels([("a", 1), ("b", 0)])
        (tensor([2, 3]), tensor([1, 0]))
    """
    labels = None if scan else labels_at_hand(dataset)
    if labels is None:
        with torch.random.fork_rng(devices=[]):  # random transforms must not move the run's random state
            labels = torch.tensor([label_of(dataset[index]) for index in range(len(dataset))], dtype=torch.int64)
    return labels


def labels_at_hand(dataset: Any) -> Tensor | None:
    """The labels of all samples, where an attribute holds them, so that none has to be read.

    Returns int64 ``[N]``, or None.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> labels_at_hand(TensorDataset(torch.zeros(2, 3), torch.tensor([1, 0]))), labels_at_hand([("a", 1)])
        (tensor([1, 0]), None)
    """
    try:
        return _listed(dataset)
    except Exception:  # an attribute of that name that raises, or holds something else: no list
        return None


def _listed(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset) and not isinstance(getattr(dataset, "targets", None), Tensor):
        labels = labels_at_hand(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(subset_indices(dataset), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [labels_at_hand(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None
    if getattr(dataset, "target_transform", None) is not None:
        return None  # the attribute holds what the transform has not seen
    kept = getattr(dataset, "targets", None)
    kept = getattr(dataset, "labels", None) if kept is None else kept
    if kept is None:
        tensors: Sequence[Any] = getattr(dataset, "tensors", ())
        kept = tensors[1] if len(tensors) > 1 else None
    shape = getattr(kept, "shape", None)
    if kept is None or callable(kept) or (shape is not None and tuple(shape) != (len(dataset),)):
        return None  # told by its shape where it has one: what is in a file is not read for it
    if isinstance(kept, (list, tuple)) and kept and isinstance(kept[0], Tensor):
        kept = torch.stack(list(kept))
    array = kept.detach().cpu().numpy() if isinstance(kept, Tensor) else np.asarray(kept)
    if array.shape != (len(dataset),) or array.dtype.kind not in "iub":
        return None
    return torch.from_numpy(array.astype(np.int64))


def read_labels(path: Path, length: int, num_classes: int | None = None) -> Tensor:
    r"""Read one label a sample from a file. Returns labels, int64 ``[length]``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels.txt")
        ...     _ = path.write_text("2\n0\n1\n")
        ...     read_labels(path, 3)
        tensor([2, 0, 1])
    """
    array = np.squeeze(_READERS.get(path.suffix.lower(), _refuse)(path))
    array = array.reshape(1) if array.size == 1 else array
    if array.shape != (length,):
        raise ValueError(
            f"file={path} has labels of shape {array.shape}; expected {length}, one for each sample, in the "
            "order of the dataset. For a Subset, wrap the whole dataset and take the subset of NoisyLabels."
        )
    if array.dtype.kind not in "iub" and not (array.dtype.kind == "f" and np.equal(array, np.round(array)).all()):
        raise ValueError(f"file={path} holds {array.dtype} values; expected class numbers (integers from 0).")
    top = num_classes if num_classes is not None else np.iinfo(np.int64).max
    if length and not 0 <= array.min() <= array.max() < top:
        allowed = f"[0, {num_classes})" if num_classes is not None else "numbers from 0"
        raise ValueError(
            f"file={path} holds labels from {array.min()} to {array.max()}; expected {allowed}. "
            "Count classes from 0, or give num_classes=."
        )
    return torch.from_numpy(array.astype(np.int64))


def _from_npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        return archive[_choose(path, archive.files, "arrays")]


def _from_csv(path: Path) -> Any:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    column = 0
    if rows and not all(_is_number(cell) for cell in rows[0]):
        header = [cell.strip() for cell in rows.pop(0)]
        column = header.index(_choose(path, header, "columns"))
    elif rows and len(rows[0]) > 1:
        raise ValueError(f"file={path} has {len(rows[0])} columns without names; add a header with a column label.")
    try:
        return np.array([float(row[column]) for row in rows])
    except (ValueError, IndexError) as error:
        raise ValueError(f"file={path} has a row without a class number in its label column: {error}.") from None


def _choose(path: Path, names: list[str], what: str) -> str:
    if len(names) == 1:
        return names[0]
    for name in _FILE_NAMES:
        if name in names:
            return name
    raise ValueError(f"file={path} has the {what} {', '.join(names)}; name the one with the labels 'label'.")


def _refuse(path: Path) -> Any:
    raise ValueError(f"file={path} must end in one of {', '.join(_READERS)}; save the labels with numpy.save.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": _from_npz,
    ".txt": lambda path: np.loadtxt(path, ndmin=1),
    ".csv": _from_csv,
}
