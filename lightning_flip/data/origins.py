"""Where samples come from: through wrappers, subsets and concatenations to the innermost datasets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Subset

from lightning_flip.data.indexed import unwrapped

__all__ = [
    "Origin",
    "Origins",
    "Positions",
    "ask_dataset",
    "first_attribute",
    "origins",
    "positions_in",
    "resolve_source",
    "subset_indices",
    "true_targets",
]

Positions = npt.NDArray[np.int64]


def resolve_source(dataset: Any, index: int) -> tuple[Any, int, int]:
    """The innermost dataset of one sample, its number among concatenated ones (else 0), and the position in it.

    Example:
        >>> both = ConcatDataset([["a", "b"], ["c", "d", "e"]])
        >>> resolve_source(Subset(both, [4, 0]), 0)
        (['c', 'd', 'e'], 1, 2)
    """
    *_, innermost = _walk(dataset, index)
    return innermost


def ask_dataset(dataset: Any, index: int, method: str) -> Any:
    """Call ``sample_id`` or ``true_target`` of the outermost dataset that has it, for one sample; None without any."""
    for source, _, position in _walk(dataset, index):
        answer = getattr(source, method, None)
        if callable(answer):
            return answer(position)
    return None


def first_attribute(dataset: Any, name: str) -> Any:
    """An attribute of the outermost dataset that has it, such as ``classes``; None if none has it."""
    for source, _, _ in _walk(dataset, 0):
        value = getattr(source, name, None)
        if value is not None:
            return value
    return None


def _walk(dataset: Any, index: int) -> Iterator[tuple[Any, int, int]]:
    """Each dataset from the outermost to the innermost one, its number, and the sample's position in it."""
    number = 0
    while True:
        dataset = unwrapped(dataset)
        if index < 0:  # Subset and ConcatDataset count from the end as well
            index += len(dataset)
        yield dataset, number, index
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            chosen = next(place for place, end in enumerate(dataset.cumulative_sizes) if index < end)
            index -= dataset.cumulative_sizes[chosen - 1] if chosen else 0
            dataset, number = dataset.datasets[chosen], number + chosen
        elif getattr(type(dataset), "same_positions", False):  # wrappers that change samples, not their order
            dataset = dataset.dataset
        else:
            return


class Origin(NamedTuple):
    """The samples of a dataset that are in one innermost dataset.

    Attributes:
        rows: ``[n]``, their positions in the outermost dataset.
        way: the datasets from the outermost to the innermost one, each with the samples' positions in it, ``[n]``.
        number: of the innermost dataset among the concatenated ones.
        prefix: the numbers of the parts on the way, such as "1:0:", to distinguish equal positions in different parts.
    """

    rows: Positions
    way: tuple[tuple[Any, Positions], ...]
    number: int
    prefix: str

    def in_order(self, order: Positions) -> Origin:
        """The same samples in another order ``[n]``."""
        way = tuple((dataset, at[order]) for dataset, at in self.way)
        return Origin(self.rows[order], way, self.number, self.prefix)


class Origins(NamedTuple):
    """For each of N samples, the number of its innermost dataset, int32 ``[N]``, and its position there, ``[N]``."""

    source: npt.NDArray[np.int32]
    position: Positions


def origins(dataset: Any, length: int | None = None) -> list[Origin]:
    """Find the innermost datasets of all samples; one entry per innermost dataset that has samples.

    Example:
        >>> both = ConcatDataset([["a", "b"], Subset(["c", "d", "e"], [2, 0])])
        >>> for origin in origins(Subset(both, [3, 0, 2])):
        ...     print(origin.rows, origin.way[-1], origin.number, origin.prefix)
        [1] (['a', 'b'], array([0])) 0 0:
        [0 2] (['c', 'd', 'e'], array([0, 2])) 1 1:
    """
    rows = np.arange(len(dataset) if length is None else length)
    return list(_follow(dataset, rows, rows, (), 0, ""))


def positions_in(parts: list[Origin]) -> Origins:
    """The innermost dataset of each sample, and its position there."""
    count = sum(len(origin.rows) for origin in parts)
    found = Origins(np.zeros(count, np.int32), np.zeros(count, np.int64))
    for origin in parts:
        found.source[origin.rows] = origin.number
        found.position[origin.rows] = origin.way[-1][1]
    return found


def true_targets(dataset: Any) -> Positions:
    """The labels of all samples before noise was added, int64 ``[N]``; -1 if no dataset knows it."""
    found = np.full(len(dataset), -1, np.int64)
    for origin in origins(dataset):
        source = next(((data, at) for data, at in origin.way if callable(getattr(data, "true_target", None))), None)
        if source is not None:
            with contextlib.suppress(TypeError, ValueError):  # NaN, or not a number
                answers = [source[0].true_target(position) for position in source[1].tolist()]
                found[origin.rows] = [-1 if answer is None else int(answer) for answer in answers]
    return found


def _follow(
    dataset: Any, rows: Positions, at: Positions, way: tuple[tuple[Any, Positions], ...], number: int, prefix: str
) -> Iterator[Origin]:
    if not len(rows):
        return
    dataset = unwrapped(dataset)
    if (at < 0).any():  # Subset and ConcatDataset count from the end as well
        at = np.where(at < 0, at + len(dataset), at)
    way = (*way, (dataset, at))
    chosen = _indices(dataset, at) if isinstance(dataset, Subset) else None
    if chosen is not None:
        yield from _follow(dataset.dataset, rows, chosen, way, number, prefix)
    elif isinstance(dataset, ConcatDataset):
        parts_of = np.searchsorted(dataset.cumulative_sizes, at, side="right")
        for place, (part, end) in enumerate(zip(dataset.datasets, dataset.cumulative_sizes, strict=True)):
            mine, begin = parts_of == place, end - len(part)  # type: ignore[arg-type]
            parts = tuple((data, positions[mine]) for data, positions in way)
            named = f"{prefix}{place}:" if len(dataset.datasets) > 1 else prefix
            yield from _follow(part, rows[mine], at[mine] - begin, parts, number + place, named)
    elif getattr(type(dataset), "same_positions", False):
        yield from _follow(dataset.dataset, rows, at, way, number, prefix)
    else:
        yield Origin(rows, way, number, prefix)


def subset_indices(dataset: Subset[Any]) -> npt.NDArray[Any]:
    """The indices ``[n]`` that a subset lists; a range is converted faster than numpy does."""
    listed: Any = dataset.indices
    if isinstance(listed, range):
        return np.arange(listed.start, listed.stop, listed.step)
    return np.asarray(listed)


def _indices(dataset: Subset[Any], at: Positions) -> Positions | None:
    """The positions of a subset's samples in its dataset; None if its indices are not integers."""
    try:
        listed = subset_indices(dataset)
        return listed[at].astype(np.int64) if listed.dtype.kind in "iu" and listed.ndim == 1 else None
    except (TypeError, ValueError, IndexError):
        return None
