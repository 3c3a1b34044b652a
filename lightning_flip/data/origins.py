"""Where all samples of a dataset come from, at once: :mod:`lightning_flip.data.sources` follows one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Subset

from lightning_flip.data.indexed import IndexedDataset

__all__ = ["Origin", "Origins", "origins", "positions_in", "subset_indices", "true_targets"]

Positions = npt.NDArray[np.int64]


class Origin(NamedTuple):
    """The samples of a dataset that are in one innermost dataset.

    Attributes:
        rows: ``[n]``, their positions in the dataset given to the DataLoader.
        way: the datasets from that one to the innermost one, each with the samples' positions in it, ``[n]``.
        number: of the innermost dataset among the concatenated ones.
        prefix: the numbers of the parts on the way, such as "1:0:", which tell positions of different parts apart.
    """

    rows: Positions
    way: tuple[tuple[Any, Positions], ...]
    number: int
    prefix: str

    def in_order(self, order: Positions) -> Origin:
        """The same samples in another order.

        Args:
            order: ``[n]``, their places here.
        """
        way = tuple((dataset, at[order]) for dataset, at in self.way)
        return Origin(self.rows[order], way, self.number, self.prefix)


class Origins(NamedTuple):
    """For each of N samples, the number of its innermost dataset, int32 ``[N]``, and its position there, ``[N]``."""

    source: npt.NDArray[np.int32]
    position: Positions


def origins(dataset: Any, length: int | None = None) -> list[Origin]:
    """Follow all samples through Subset, ConcatDataset and the wrappers of this package to the innermost datasets.

    Returns one entry an innermost dataset that has samples.

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
    """Which innermost dataset each sample is in, and where.

    Example:
        >>> positions_in(origins(Subset(["a", "b", "c"], [2, 0]))).position
        array([2, 0])
    """
    count = sum(len(origin.rows) for origin in parts)
    found = Origins(np.zeros(count, np.int32), np.zeros(count, np.int64))
    for origin in parts:
        found.source[origin.rows] = origin.number
        found.position[origin.rows] = origin.way[-1][1]
    return found


def true_targets(dataset: Any) -> Positions:
    """The labels that all samples had before noise was added. Returns int64 ``[N]``, -1 where no dataset tells.

    Example:
        >>> class Relabelled(list):
        ...     def true_target(self, index):
        ...         return index + 1
        >>> true_targets(Subset(Relabelled("abc"), [2, 0])).tolist(), true_targets("ab").tolist()
        ([3, 1], [-1, -1])
    """
    found = np.full(len(dataset), -1, np.int64)
    for origin in origins(dataset):
        asked = next(((data, at) for data, at in origin.way if callable(getattr(data, "true_target", None))), None)
        if asked is not None:
            with contextlib.suppress(TypeError, ValueError):  # NaN, or no number
                answers = [asked[0].true_target(position) for position in asked[1].tolist()]
                found[origin.rows] = [-1 if answer is None else int(answer) for answer in answers]
    return found


def _follow(
    dataset: Any, rows: Positions, at: Positions, way: tuple[tuple[Any, Positions], ...], number: int, prefix: str
) -> Iterator[Origin]:
    if not len(rows):
        return
    if isinstance(dataset, IndexedDataset):
        yield from _follow(dataset._dataset, rows, at, way, number, prefix)
        return
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
    """The indices that a subset lists, in a fraction of the time that numpy takes to walk through a range.

    Returns ``[n]``.

    Example:
        >>> subset_indices(Subset("abcde", range(4, 0, -2)))
        array([4, 2])
    """
    listed: Any = dataset.indices
    if isinstance(listed, range):
        return np.arange(listed.start, listed.stop, listed.step)
    return np.asarray(listed)


def _indices(dataset: Subset[Any], at: Positions) -> Positions | None:
    """The positions of a subset's samples in the dataset that it is of; None if its indices are something else."""
    try:
        listed = subset_indices(dataset)
        return listed[at].astype(np.int64) if listed.dtype.kind in "iu" and listed.ndim == 1 else None
    except (TypeError, ValueError, IndexError):
        return None
