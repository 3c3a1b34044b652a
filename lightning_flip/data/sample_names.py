"""Names of samples that stay the same from run to run: ids of the data if there are any, else positions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from lightning_flip.data.origins import Origin, Positions, origins

__all__ = ["IdsFrom", "SampleNames", "describe_ids", "lasting_ids", "sample_names"]

IdsFrom = str | Callable[[Any], Sequence[Any]]
Kind = Literal["sample_id", "paths", "column", "positions"]


class SampleNames(NamedTuple):
    """One name per sample.

    Attributes:
        names: N texts.
        kind: where they come from: "sample_id", the dataset's method; "paths", the files of a folder dataset below its
            root; "column", the one that ``sample_id_from`` named; or "positions", some or all of them, in the
            innermost dataset: these last only as long as that dataset keeps its order.
    """

    names: list[str]
    kind: Kind


def sample_names(dataset: Any, sample_id_from: IdsFrom | None = None, length: int | None = None) -> SampleNames:
    """Name every sample, with the same name in every subset of the same data.

    A sample without an id is named by its position in the innermost dataset, after the number of that dataset if
    several are concatenated.

    Example:
        >>> from torch.utils.data import ConcatDataset, Subset
        >>> class Files(list):
        ...     root, imgs = "data", [("data/cat/1.png", 0), ("data/dog/7.png", 1)]
        >>> sample_names(Subset(Files("ab"), [1]))
        SampleNames(names=['dog/7.png'], kind='paths')
        >>> sample_names(ConcatDataset(["ab", Subset("cde", [2, 0])]))
        SampleNames(names=['0:0', '0:1', '1:2', '1:0'], kind='positions')
    """
    count = len(dataset) if length is None else length
    if callable(sample_id_from):
        given = [str(name) for name in sample_id_from(dataset)]
        if len(given) != len(dataset):
            raise ValueError(f"sample_id_from= gave {len(given)} ids for a dataset of {len(dataset)} samples.")
        return SampleNames(given[:count], "column")
    parts = origins(dataset, count)
    found = [_named(part, sample_id_from) for part in parts]
    if len(found) == 1:  # its rows are all there are, in their order
        return SampleNames(*found[0])
    kinds = {kind for _, kind in found}
    names = _joined(count, parts, [names for names, _ in found])
    if "paths" in kinds and len(set(names)) < count:  # folders with files of the same names
        prefixed = [
            [f"{part.prefix}{name}" for name in names] if kind == "paths" else names
            for part, (names, kind) in zip(parts, found, strict=True)
        ]
        names = _joined(count, parts, prefixed)
    return SampleNames(names, "positions" if "positions" in kinds or not kinds else min(kinds))


def describe_ids(
    dataset: Any, parts: Sequence[Origin], sample_id_from: IdsFrom | None = None
) -> tuple[str | None, Kind]:
    """A hash of the ids of all samples in their order, and where they come from; None for positions."""
    count = sum(len(part.rows) for part in parts)
    if callable(sample_id_from):
        return _hash_of(_strings(sample_names(dataset, sample_id_from, count).names)), "column"
    kinds: set[Kind] = set()
    places, filled = np.empty(count, np.int64), 0  # of each row's name in the arrays below
    names: list[pa.Array] = []
    for part in parts:
        # In the order in which the innermost dataset keeps them: its memory is read from one end to the other.
        order = _ascending(part.way[-1][1])
        found, kind = _named(part.in_order(order), sample_id_from)
        kinds.add(kind)
        if kind != "positions":
            places[part.rows[order]] = np.arange(filled, filled + len(order))
            filled += len(order)
            names.append(_strings(found))
    if "positions" in kinds or not kinds:
        return None, "positions"
    return _hash_of(pa.concat_arrays(names).take(pa.array(places))), min(kinds)


def lasting_ids(dataset: Any, sample_id_from: IdsFrom | None = None) -> list[str] | None:
    """The ids of all samples; None unless every sample has one that is not a position."""
    found = sample_names(dataset, sample_id_from)
    return None if found.kind == "positions" else found.names


def _ascending(positions: Positions) -> Positions:
    """The order that sorts positions ``[n]``, in linear time if they are dense and distinct."""
    end = int(positions.max()) + 1
    if end <= 8 * len(positions):
        places = np.full(end, -1)
        places[positions] = np.arange(len(positions))
        order = places[places >= 0]
        if len(order) == len(positions):
            return order
    return np.argsort(positions, kind="stable")


def _strings(names: Sequence[str]) -> pa.Array:
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError:  # file names that are not UTF-8
        return pa.array([name.encode("utf-8", "surrogatepass") for name in names], pa.large_binary()).view(
            pa.large_string()
        )


def _hash_of(names: pa.Array) -> str:
    """A hash of the bytes of all names and of where each ends."""
    _, ends, content = names.buffers()
    digest = hashlib.sha256(ends)
    if content is not None:  # there is none if all names are empty
        digest.update(content)
    return digest.hexdigest()[:32]


def _named(part: Origin, sample_id_from: str | None) -> tuple[list[str], Kind]:
    if sample_id_from is not None:
        return _column(part, sample_id_from), "column"
    for dataset, at in part.way:
        ask = _question(dataset, int(at[0]))
        if ask is not None:
            answers = [ask(position) for position in at.tolist()]
            if None not in answers:
                return list(map(str, answers)), "sample_id"
            places = _places(part)
            return [place if name is None else str(name) for name, place in zip(answers, places, strict=True)], (
                "positions"
            )
        paths = _paths(dataset, at)
        if paths is not None:
            return paths, "paths"
    return _places(part), "positions"


def _question(dataset: Any, first: int) -> Callable[[int], Any] | None:
    """The method of a dataset that names its samples; None if it only asks a wrapped dataset that has no names."""
    try:
        ask: Any = getattr(dataset, "sample_id", None)
        return ask if callable(ask) and ask(first) is not None else None
    except Exception:  # a method of that name that does something else
        return None


def _joined(count: int, parts: Sequence[Origin], found: Sequence[list[str]]) -> list[str]:
    names = np.empty(count, object)
    for part, listed in zip(parts, found, strict=True):
        names[part.rows] = listed
    joined: list[str] = names.tolist()
    return joined


def _places(part: Origin) -> list[str]:
    return [f"{part.prefix}{position}" for position in part.way[-1][1].tolist()]


def _column(part: Origin, name: str) -> list[str]:
    for dataset, at in part.way:
        if name in (getattr(dataset, "column_names", None) or ()):
            values = dataset[name]
        else:
            values = getattr(dataset, name, None)
        if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):
            listed = values.tolist() if hasattr(values, "tolist") else list(values)
            return [str(listed[position]) for position in at.tolist()]
    datasets = ", ".join(type(dataset).__name__ for dataset, _ in part.way)
    raise ValueError(
        f"sample_id_from={name!r} is not an attribute or column with one id per sample in {datasets}. Name one that "
        "is, or pass a function of the dataset that gives all ids."
    )


def _paths(dataset: Any, at: Positions) -> list[str] | None:
    """The files of samples of a folder dataset, below its root; None if its lists hold something else."""
    for name in ("samples", "imgs"):
        try:
            found = _paths_in(dataset, getattr(dataset, name, None), at)
        except Exception:  # an attribute of that name that raises, or holds something else
            continue
        if found is not None:
            return found
    return None


def _paths_in(dataset: Any, listed: Any, at: Positions) -> list[str] | None:
    if not isinstance(listed, (list, tuple)) or not listed or len(listed) != len(dataset):
        return None
    root = os.path.join(os.fspath(getattr(dataset, "root", None) or ""), "")
    if not (root and _path_of(listed[0]).startswith(root)):
        if not os.path.isfile(_path_of(listed[0])):
            return None  # texts, for example
        paths = list(map(_path_of, listed))
        root = os.path.join(os.path.commonpath([os.path.dirname(min(paths)), os.path.dirname(max(paths))]), "")
    whole = len(at) == len(listed) and bool((at == np.arange(len(at))).all())
    chosen = listed if whole else [listed[position] for position in at.tolist()]
    paths = [entry[0] for entry in chosen] if isinstance(chosen[0], (list, tuple)) else list(chosen)
    if set(map(type, paths)) != {str}:
        paths = list(map(_path_of, chosen))
    if len(set(paths)) < (len(at) if whole else np.count_nonzero(np.bincount(at))):
        return None  # several samples of one file
    if min(paths).startswith(root) and max(paths).startswith(root):  # and whatever is between the two
        begin = len(root)
        named = [path[begin:] for path in paths]
    else:
        named = [path.removeprefix(root) for path in paths]
    return named if os.sep == "/" else [name.replace(os.sep, "/") for name in named]


def _path_of(entry: Any) -> str:
    return str(os.fspath(entry[0] if isinstance(entry, (list, tuple)) else entry))
