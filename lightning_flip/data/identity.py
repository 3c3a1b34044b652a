"""Fingerprints of datasets: what distinguishes them without reading their samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from lightning_flip.data.indexed import unwrapped
from lightning_flip.data.labels import kept_labels
from lightning_flip.data.origins import origins, positions_in
from lightning_flip.data.sample_names import IdsFrom, describe_ids

__all__ = ["data_difference", "describe_data"]


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
    """How two fingerprints differ, in words; "" if they do not.

    If both datasets have ids, these decide and positions may differ. The classes count if there are neither ids nor
    labels to compare.
    """
    if before["length"] != now["length"]:
        return f"{before['length']} samples before, {now['length']} now"
    both = {name for name in ("labels", "ids") if before.get(name) is not None and now.get(name) is not None}
    if before.get("ids_are") != now.get("ids_are"):
        both.discard("ids")  # ids of different kinds cannot be compared
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
