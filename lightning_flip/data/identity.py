"""What tells one dataset from another without reading its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Subset

from lightning_flip.data.indexed import unwrapped
from lightning_flip.data.labels import labels_at_hand
from lightning_flip.data.origins import origins, positions_in
from lightning_flip.data.sample_names import IdsFrom, describe_ids

__all__ = ["data_difference", "describe_data", "kept_labels"]


def kept_labels(dataset: Any) -> npt.NDArray[np.int64] | None:
    """The labels of all samples, where the data set has them at hand.

    Returns int64 ``[N]``, noisy labels where noise was added; None where each sample would have to be read.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> kept_labels(TensorDataset(torch.zeros(2, 3), torch.tensor([1, 0]))), kept_labels(["a", "b"])
        (array([1, 0]), None)
    """
    labels = labels_at_hand(dataset)
    return None if labels is None else labels.numpy()


def describe_data(
    dataset: Any, *, length: int | None = None, sample_id_from: IdsFrom | None = None, ids: bool = True
) -> dict[str, Any]:
    """The fingerprint of a dataset: two that differ in it are not the same samples in the same order.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> whole = TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
        >>> one, other = describe_data(Subset(whole, [0, 1])), describe_data(Subset(whole, [2, 3]))
        >>> one["dataset"], one["length"], one["ids_are"], [name for name in one if one[name] != other[name]]
        ('Subset(TensorDataset)', 2, 'positions', ['positions'])
    """
    count = len(dataset) if length is None else length
    labels, parts = kept_labels(dataset), origins(dataset, count)
    facts: dict[str, Any] = {
        "length": count,
        "dataset": _class_of(dataset),
        "labels": None if labels is None else _hash(labels[:count].astype("<i8").tobytes()),
        "positions": _hash(*(part.astype("<i8").tobytes() for part in positions_in(parts))),
    }
    if ids:
        facts["ids"], facts["ids_are"] = describe_ids(dataset, parts, sample_id_from)
    return facts


def data_difference(before: Mapping[str, Any], now: Mapping[str, Any], *, labels: bool = True) -> str:
    """In what two fingerprints differ.

    Ids tell more than positions: where both datasets have them, the positions may differ. The classes count where
    neither ids nor labels are there to be compared.

    Returns the difference in words; "" if there is none.

    Example:
        >>> facts = {"length": 2, "dataset": "A", "labels": None, "ids": None, "positions": "1f"}
        >>> data_difference(facts, facts | {"length": 3}), data_difference(facts, facts | {"dataset": "B"})
        ('2 samples before, 3 now', 'the dataset is a B, before it was a A')
        >>> data_difference(facts, facts)
        ''
    """
    if before["length"] != now["length"]:
        return f"{before['length']} samples before, {now['length']} now"
    both = {name for name in ("labels", "ids") if before.get(name) is not None and now.get(name) is not None}
    if before.get("ids_are") != now.get("ids_are"):
        both.discard("ids")  # ids of another kind say nothing
    if "ids" in both:
        if before["ids"] != now["ids"]:
            return f"the ids of the {now['length']} samples differ, or their order"
    elif before["positions"] != now["positions"]:
        return f"the {now['length']} samples have other positions in the innermost dataset, as another random split has"
    if labels and "labels" in both and before["labels"] != now["labels"]:
        return f"the {now['length']} labels that the dataset lists differ, or their order"
    if not both and before["dataset"] != now["dataset"]:
        return f"the dataset is a {now['dataset']}, before it was a {before['dataset']}"
    return ""


def _class_of(dataset: Any) -> str:
    dataset = unwrapped(dataset)
    name = type(dataset).__qualname__
    if isinstance(dataset, ConcatDataset):
        return f"{name}({', '.join(dict.fromkeys(map(_class_of, dataset.datasets)))})"
    inner = isinstance(dataset, Subset) or getattr(type(dataset), "same_positions", False)
    return f"{name}({_class_of(dataset.dataset)})" if inner else name


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]
