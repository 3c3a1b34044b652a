"""Rows of two files that are the same sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.stores import PredictionError
from lightning_flip.stores.predictions.columns import shown

__all__ = ["Match", "match_ids"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


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
        return column if self.old is None else column.take(pa.array(self.old))

    def take_new(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """[N], the matched rows of a column of the new file, in the order of the old one."""
        return column if self.new is None else column.take(pa.array(self.new))

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
    place = np.asarray(pc.fill_null(pc.index_in(old, value_set=new), -1)).astype(np.int64)
    matched = place >= 0
    met = np.zeros(len(new), bool)
    met[place[matched]] = True
    # If every row of one has a row of the other, and there are as many, then no id comes twice in either.
    if not (len(old) == len(new) and matched.all() and met.all()):
        _refuse_repeats(old, old_name)
        _refuse_repeats(new, new_name)
    pa.default_memory_pool().release_unused()  # the hash table of a million ids
    everything = bool(matched.all())
    place = place[matched]
    return Match(
        None if everything else np.flatnonzero(matched),
        None if len(place) == len(new) and np.array_equal(place, np.arange(len(new))) else place,
        np.flatnonzero(~matched),
        np.flatnonzero(~met),
        len(place),
        old,
        new,
    )


def _refuse_repeats(ids: pa.ChunkedArray, name: str) -> None:
    """Refuse ids that come more than once."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids)
    often = counts.filter(pc.greater(counts.field("counts"), 1))
    raise PredictionError(
        f"{name} must hold every sample once, but {len(often)} of {len(counts)} ids come more than once, in"
        f" {pc.sum(often.field('counts')).as_py()} rows (such as {shown(often.field('values')[0].as_py())}, in"
        f" {often.field('counts')[0].as_py()}). Drop the repeats, or name another id column with id_column="
        " (--id-column)."
    )


def _only(rows: Integers, ids: pa.ChunkedArray, name: str) -> str:
    example = f" (such as {shown(ids[int(rows[0])].as_py())})" if len(rows) else ""
    return f"{len(rows)} samples are only in {name}{example}"
