"""Lists of samples that a gate watches, or that are allowed to flip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.text import quote
from lightning_flip.reports.update.join import JoinedPredictions

__all__ = ["WatchedKind", "find_places", "find_watched", "texts"]

WatchedKind = Literal["must_not_flip", "must_be_right"]
Integers = npt.NDArray[np.int64]


def texts(name: str, ids: Iterable[str | int]) -> list[str]:
    """Ids as text, each once; `name` is the argument."""
    if isinstance(ids, str | bytes):
        raise TypeError(f"{name} must be a list of ids, got one text: {quote(str(ids))}. Read a file's lines first.")
    ids = list(ids)
    for one in ids:
        if isinstance(one, bool | np.bool_) or not isinstance(one, str | int | np.integer):
            raise TypeError(f"{name} must hold ids as text or integers, got {one!r} of type {type(one).__name__}.")
    return list(dict.fromkeys(str(one) for one in ids))


def find_places(joined: JoinedPredictions, ids: list[str]) -> Integers:
    """Rows of the samples with these ids, [M]; -1 where there is none."""
    known = pa.chunked_array([joined.ids]) if isinstance(joined.ids, pa.Array) else joined.ids
    # A text that is not Unicode (bytes of a file that could not be decoded) is not an id of a Parquet file.
    asked = pa.array([one if _is_unicode(one) else None for one in ids], known.type)
    # First the few rows, since a table of all samples' ids is large.
    rows = np.flatnonzero(np.asarray(pc.is_in(known, value_set=asked))) if ids else np.empty(0, np.int64)
    place = pc.fill_null(pc.index_in(asked, value_set=known.take(pa.array(rows)), skip_nulls=True), -1)
    return np.append(rows, -1)[np.asarray(place).astype(np.int64)]


def find_watched(joined: JoinedPredictions, kind: WatchedKind, ids: Iterable[str | int]) -> tuple[list[str], Integers]:
    """The ids of a list, and their rows; all of them have to be there."""
    watched = texts(kind, ids)
    if not watched:
        raise ValueError(f"{kind} must name at least one sample, got an empty list; leave it out for no such limit.")
    rows = find_places(joined, watched)
    missing = [one for one, row in zip(watched, rows.tolist(), strict=True) if row < 0]
    if missing:
        left_out = joined.only_old + joined.only_new + joined.outside_classes
        raise ValueError(
            f"{kind} must name samples that both models predicted, but {len(missing):,} of its {len(watched):,} ids "
            f"are not among the {joined.num_samples:,} samples, e.g. {quote(missing[0])}."
            + (f" Joining left out {left_out:,} rows, which may be these." if left_out else "")
        )
    return watched, rows


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
