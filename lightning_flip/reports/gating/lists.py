"""Lists that a gate reads beside predictions: ids of golden samples, flips that are allowed, and costs of flips."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.text import quote
from lightning_flip.stores.errors import PredictionError, ReviewError
from lightning_flip.stores.spreadsheets import CsvRow, cell_key, read_csv

if TYPE_CHECKING:
    from lightning_flip.reports.update.join import JoinedPredictions

__all__ = [
    "AllowedFlip",
    "parse_day",
    "read_allowed_flips",
    "read_costs",
    "read_ids",
    "split_expired",
    "without_header",
]

# What a first line that is no id may be, besides the name of the column.
_HEADERS = ("sample_id", "id", "index")
# More names make a sentence unreadable.
_MOST_NAMES = 10


@dataclasses.dataclass(frozen=True)
class AllowedFlip:
    """A sample that may be a negative flip for a while.

    Attributes:
        id: its id.
        reason: why it may flip.
        until: the last day of the exception.
    """

    id: str
    reason: str
    until: datetime.date


def read_ids(path: str | os.PathLike[str]) -> list[str]:
    """Read ids from a text file with one id per line, or from a JSON file with one list; each id once, in that order.

    A line is an id as it is, blanks included. Empty lines and lines that start with `# ` are left out. An id with a
    line break, or one that starts with `# `, needs JSON.

    Raises:
        PredictionError: if the file is not text, not a JSON list of ids, or has no id.
        OSError: if it cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PredictionError(f"{path} must be text in UTF-8, got {error.reason} at byte {error.start}.") from error
    if Path(path).suffix.lower() == ".json":
        ids = _parse_list(text, path)
    else:
        # Not splitlines, which would also break an id at a form feed or a Unicode separator.
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        ids = [line for line in lines if line != "#" and not line.startswith("# ")]
    unique = list(dict.fromkeys(name for name in ids if name))
    if not unique:
        raise PredictionError(f"{path} must name at least one sample, got none. Omit the option if none is special.")
    return unique


def without_header(
    ids: Sequence[str], known: pa.Array | pa.ChunkedArray, columns: Collection[str] = ()
) -> Sequence[str]:
    """Leave out a first line that names the id column, unless a sample has that id or no other line is left.

    Args:
        ids: what `read_ids` returned.
        known: [N] text, the ids of the samples.
        columns: names of the id column, besides `sample_id`, `id` and `index`.

    Example:
        >>> without_header(["id", "a"], pa.array(["a"])), without_header(["id", "a"], pa.array(["id", "a"]))
        (['a'], ['id', 'a'])
    """
    if len(ids) < 2 or ids[0] not in (*_HEADERS, *columns):
        return ids
    return ids if pc.any(pc.equal(known, ids[0])).as_py() else ids[1:]


def split_expired(flips: Iterable[AllowedFlip], today: datetime.date) -> tuple[dict[str, str], list[str]]:
    """The reasons of flips that are allowed on a day, by id; and a sentence on those whose last day is over, if any.

    Example:
        >>> day = datetime.date(2027, 3, 31)
        >>> split_expired([AllowedFlip("7", "blurred", day)], day)
        ({'7': 'blurred'}, [])
        >>> split_expired([AllowedFlip("7", "blurred", day)], datetime.date(2027, 4, 1))[1]
        ['1 exception of allowed_flips has expired and is not applied: 7 (until 2027-03-31).']
    """
    flips = list(flips)
    allowed = {flip.id: flip.reason for flip in flips if flip.until >= today}
    expired = sorted((flip for flip in flips if flip.until < today), key=lambda flip: flip.until)
    if not expired:
        return allowed, []
    names = _all_of([f"{quote(flip.id)} (until {flip.until})" for flip in expired[:_MOST_NAMES]], len(expired))
    verb = "exception of allowed_flips has" if len(expired) == 1 else "exceptions of allowed_flips have"
    applied = "is not applied" if len(expired) == 1 else "are not applied"
    return allowed, [f"{len(expired):,} {verb} expired and {applied}: {names}."]


def read_allowed_flips(path: str | os.PathLike[str]) -> tuple[AllowedFlip, ...]:
    """Read a CSV file with the columns `id`, `reason` and `until`, the last day as `2027-03-31`.

    Raises:
        PredictionError: if it is not CSV, a column is missing, or a row has no id, no reason, no such day, or the id of
            another row.
        OSError: if it cannot be read.
    """
    found: dict[str, AllowedFlip] = {}
    for row in _rows(path, ("id", "reason", "until")):
        name, reason = cell_key(row.cells["id"]), row.cells["reason"].strip()
        where = f"{path}, line {row.line}"
        if not name:
            raise PredictionError(f"{where}: id must name a sample, got an empty cell.")
        if name in found:
            raise PredictionError(f"{where}: {quote(name)} occurs twice; keep one row per sample.")
        if not reason:
            raise PredictionError(f"{where}: {quote(name)} must have a reason to flip, got an empty cell.")
        try:
            found[name] = AllowedFlip(name, reason, parse_day(row.cells["until"].strip()))
        except ValueError as error:
            raise PredictionError(f"{where}: until of {quote(name)} {error}") from error
    return tuple(found.values())


def parse_day(text: str) -> datetime.date:
    """Read the last day of an exception.

    Raises:
        ValueError: if it is not a day, written as `2027-03-31`.
    """
    with contextlib.suppress(ValueError):
        day = datetime.date.fromisoformat(text)
        if day.isoformat() == text:  # it also takes weeks, and days without signs
            return day
    raise ValueError(f"must be a day written as 2027-03-31, the last one of the exception; got {quote(text)}.")


def read_costs(path: str | os.PathLike[str]) -> dict[tuple[str, str], float]:
    """Read a CSV file with the columns `old`, `new` and `cost`.

    Returns:
        The cost, at least 0, of a negative flip from the class that is right, which the old model predicted, to the
        class that the new one predicts.

    Raises:
        PredictionError: if it is not CSV, a column is missing, a class is empty, a pair occurs twice or is of one
            class, or a cost is not a number from 0.
        OSError: if it cannot be read.
    """
    costs: dict[tuple[str, str], float] = {}
    for row in _rows(path, ("old", "new", "cost")):
        pair, where = (cell_key(row.cells["old"]), cell_key(row.cells["new"])), f"{path}, line {row.line}"
        if not all(pair):
            raise PredictionError(f"{where}: old and new must be classes, got an empty cell.")
        arrow = " -> ".join(map(quote, pair))
        if pair in costs:
            raise PredictionError(f"{where}: {arrow} occurs twice; keep one row per pair of classes.")
        cost = _number(row.cells["cost"])
        if cost is None:
            raise PredictionError(
                f"{where}: the cost of {arrow} must be a number from 0, got {quote(row.cells['cost'])}."
            )
        if pair[0] == pair[1]:
            raise PredictionError(f"{where}: {arrow} is not a flip; leave the row out.")
        costs[pair] = cost
    if not costs:
        raise PredictionError(f"{path} must have the cost of at least one pair of classes, got none.")
    return costs


def unlisted_flips(
    costs: Mapping[tuple[str, str], float], joined: JoinedPredictions, allowed: Collection[str] = ()
) -> list[str]:
    """A sentence on the negative flips whose classes have no cost, and therefore cost 0; none if all have one.

    Those of the ids in `allowed` do not count.

    Example:
        >>> from lightning_flip.reports import JoinedPredictions
        >>> old, new = np.array([0, 0, 1]), np.array([1, 1, 0])
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c"]), ("cat", "dog"), old, old, new)
        >>> unlisted_flips({("dog", "cat"): 1.0}, joined)
        ['2 of 3 negative flips cost 0, because costs does not list their classes: cat -> dog (2).']
    """
    excepted = pc.is_in(joined.ids, value_set=pa.array([*allowed], joined.ids.type))
    flips, number = joined.negative_flips & ~excepted.to_numpy(zero_copy_only=False), len(joined.labels)
    pairs, counts = np.unique(joined.target[flips] * number + joined.new_pred[flips], return_counts=True)
    names = [(str(joined.labels[pair // number]), str(joined.labels[pair % number])) for pair in pairs]
    found = [(name, int(count)) for name, count in zip(names, counts, strict=True) if name not in costs]
    if not found:
        return []
    found.sort(key=lambda one: -one[1])
    shown = [f"{quote(right)} -> {quote(wrong)} ({count:,})" for (right, wrong), count in found[:_MOST_NAMES]]
    total = sum(count for _, count in found)
    return [
        f"{total:,} of {int(flips.sum()):,} negative flips cost 0, because costs does not list "
        f"their classes: {_all_of(shown, len(found))}."
    ]


def _all_of(shown: Sequence[str], number: int) -> str:
    return ", ".join(shown) + (f" and {number - len(shown):,} more" if number > len(shown) else "")


def _rows(path: str | os.PathLike[str], needed: Sequence[str]) -> list[CsvRow]:
    try:
        table = read_csv(path)
    except ReviewError as error:
        raise PredictionError(str(error)) from error
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise PredictionError(
            f"{path} must have the columns {', '.join(needed)}; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, it has {', '.join(map(quote, table.columns))}."
        )
    return table.rows


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 and "_" not in cell else None


def _parse_list(text: str, path: str | os.PathLike[str]) -> list[str]:
    expected = f"{path} must hold one JSON list of ids (text or whole numbers)"
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{expected}, got no JSON: {error}.") from error
    if not isinstance(values, list):
        raise PredictionError(f"{expected}, got {type(values).__name__}.")
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise PredictionError(f"{expected}, got {value!r:.80} in it.")
    return [str(value) for value in values]
