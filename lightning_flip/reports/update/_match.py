"""Rows of two files that are the same sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.update._hash import hash_texts
from lightning_flip.stores import PredictionError
from lightning_flip.stores.predictions.columns import shown

__all__ = ["Match", "as_arrow", "match_ids"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

_ROWS = 1 << 17  # at a time: few enough for the processor's cache


@dataclasses.dataclass(frozen=True)
class Match:
    """The rows of an old and a new file that belong together.

    Attributes:
        old: [N], rows of the old file, ascending; None if these are all of its rows.
        new: [N], the row of the new file that is the same sample; None if it is always the same row.
        only_old: rows of the old file whose id the new one lacks.
        only_new: rows of the new file whose id the old one lacks.
        count: N.
        old_ids: the ids of the old file.
        new_ids: the ids of the new file.
    """

    old: Integers | None
    new: Integers | None
    only_old: Integers
    only_new: Integers
    count: int
    old_ids: pa.ChunkedArray
    new_ids: pa.ChunkedArray

    def take_old(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """[N], the matched rows of a column of the old file."""
        return column if self.old is None else column.take(as_arrow(self.old))

    def take_new(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """[N], the matched rows of a column of the new file, in the order of the old one."""
        return column if self.new is None else column.take(as_arrow(self.new))

    def keep(self, matched: Bools, only_old: Bools, only_new: Bools) -> Match:
        """The match without some of the samples."""
        old, new = (np.arange(self.count) if rows is None else rows for rows in (self.old, self.new))
        return dataclasses.replace(
            self,
            old=old[matched],
            new=new[matched],
            only_old=self.only_old[only_old],
            only_new=self.only_new[only_new],
            count=int(matched.sum()),
        )

    def refuse_partial(self, old_name: str, new_name: str) -> None:
        """Refuse two files that do not have the same samples."""
        if not len(self.only_old) and not len(self.only_new):
            return
        raise PredictionError(
            f"{old_name} and {new_name} must hold the same samples, but {_only(self.only_old, self.old_ids, old_name)}"
            f" and {_only(self.only_new, self.new_ids, new_name)}; {self.count} are in both. Predict the same data with"
            " both models, or pass allow_partial=True (--allow-partial) to compare what both have."
        )


def match_ids(old: pa.ChunkedArray, new: pa.ChunkedArray, old_name: str, new_name: str) -> Match:
    """Find the rows with the same id."""
    place = _match_hashes(old, new)
    rest, met = np.flatnonzero(place < 0), np.zeros(len(new), bool)
    met[place[place >= 0]] = True
    others = np.flatnonzero(~met)
    if len(rest) or len(others):
        old_rest, new_rest = old.take(as_arrow(rest)), new.take(as_arrow(others))
        _refuse_repeats(old_rest, old_name, len(old))
        _refuse_repeats(new_rest, new_name, len(new))
        found = np.asarray(pc.fill_null(pc.index_in(old_rest, value_set=new_rest), -1))
        place[rest[found >= 0]] = others[found[found >= 0]]
        met[place[rest[found >= 0]]] = True
    matched = place >= 0
    everything = bool(matched.all())
    place = place if everything else place[matched]
    return Match(
        None if everything else np.flatnonzero(matched),
        None if len(place) == len(new) and np.array_equal(place, np.arange(len(new))) else place,
        np.flatnonzero(~matched),
        np.flatnonzero(~met),
        len(place),
        old,
        new,
    )


def as_arrow(rows: Integers) -> pa.Array:
    """The same memory as an Arrow array. `pa.array` would load pandas, which takes longer than a small join."""
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def _match_hashes(old: pa.ChunkedArray, new: pa.ChunkedArray) -> Integers:
    """The row of the new file with the same id, [old rows]; -1 where this does not decide.

    Ids are matched whose hash comes once in each file, and which are then found to be equal. So all rows of an id are
    among those left, or none. The hashes of both files are sorted together, each with its row in its lower bits.
    """
    count, total = len(old), len(old) + len(new)
    low = np.uint64((1 << total.bit_length()) - 1)
    keys = np.empty(total, np.uint64)
    hash_texts(old, keys[:count])
    hash_texts(new, keys[count:])
    for start in range(0, total, _ROWS):
        part = keys[start : start + _ROWS]
        part &= ~low
        part |= np.arange(start, start + len(part), dtype=np.uint64)
    keys.sort()
    place = np.full(count, -1, np.int64)
    for start in range(0, total, _ROWS):
        # With a neighbor on either side, since a third key with the same hash is no pair.
        begin = max(start - 1, 0)
        part = keys[begin : start + _ROWS + 2]
        same = (part[1:] ^ part[:-1]) <= low
        row = (part & low).view(np.int64)
        pair = same & (row[:-1] < count) & (row[1:] >= count)
        pair[1:] &= ~same[:-1]
        pair[:-1] &= ~same[1:]
        first = np.flatnonzero(pair[: start + _ROWS - begin])
        first = first[first >= start - begin]
        place[row[first]] = row[first + 1] - count
    del keys
    new = new.chunk(0) if new.num_chunks == 1 else new.combine_chunks()
    for start in range(0, count, _ROWS):
        partner = place[start : start + _ROWS]
        there = np.flatnonzero(partner >= 0)
        one = old.slice(start, _ROWS)
        one = one if len(there) == len(one) else one.take(as_arrow(there))
        other = new.take(as_arrow(partner[there]))
        partner[there[~np.asarray(pc.equal(one, other))]] = -1
    return place


def _refuse_repeats(ids: pa.ChunkedArray, name: str, rows: int) -> None:
    """Refuse ids that come more than once; `ids` are those of a file of `rows` rows that may."""
    distinct = pc.count_distinct(ids).as_py()
    if distinct == len(ids):
        return
    counts = pc.value_counts(ids)
    often = counts.filter(pc.greater(counts.field("counts"), 1))
    raise PredictionError(
        f"{name} must hold every sample once, but {len(often)} of {rows - len(ids) + distinct} ids come more than once,"
        f" in {pc.sum(often.field('counts')).as_py()} rows (such as {shown(often.field('values')[0].as_py())}, in"
        f" {often.field('counts')[0].as_py()}). Drop the repeats, or name another id column with id_column="
        " (--id-column)."
    )


def _only(rows: Integers, ids: pa.ChunkedArray, name: str) -> str:
    example = f" (such as {shown(ids[int(rows[0])].as_py())})" if len(rows) else ""
    return f"{len(rows)} samples are only in {name}{example}"
