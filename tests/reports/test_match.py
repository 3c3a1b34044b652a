"""Rows of two files with the same id, found by hashes of ids and compared in full."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.reports.update import _match
from lightning_flip.reports.update._hash import hash_texts
from lightning_flip.stores import PredictionError

# Alike in every way that a hash of words might overlook: zero bytes, blanks, words of 8 bytes, order, length.
ALIKE = ["", "\0", "\0\0", "a", "a\0", "a ", "abcdefgh", "abcdefgh\0", "ijklmnopabcdefgh", "abcdefghijklmnop", "é" * 9]
ALIKE += ["x" * 15, "x" * 16, "x" * 17, "y" + "x" * 16, "long/" * 500]


def column(ids: list[str], cuts: int = 1) -> pa.ChunkedArray:
    """The ids in chunks that are slices of a longer array."""
    whole = pa.array(["before", *ids, "after"], pa.string())
    edges = np.linspace(0, len(ids), cuts + 1).astype(int).tolist()
    return pa.chunked_array([whole.slice(1 + a, b - a) for a, b in itertools.pairwise(edges)], pa.string())


def by_dict(old: list[str], new: list[str]) -> tuple[list[int], list[int], list[int], list[int]]:
    place = {name: row for row, name in enumerate(new)}
    both = [row for row, name in enumerate(old) if name in place]
    there = {old[row] for row in both}
    return (
        both,
        [place[old[row]] for row in both],
        [row for row, name in enumerate(old) if name not in place],
        [row for row, name in enumerate(new) if name not in there],
    )


def matched(match: _match.Match) -> tuple[list[int], list[int], list[int], list[int]]:
    old, new = (range(match.count) if rows is None else rows.tolist() for rows in (match.old, match.new))
    return list(old), list(new), match.only_old.tolist(), match.only_new.tolist()


def hash_to(values: int):
    """A hash that has few values, and so collides."""

    def few(texts, out):
        hash_texts(texts, out)
        out[:] = (out >> np.uint64(40)) % np.uint64(values) << np.uint64(60)

    return few


@pytest.mark.parametrize("values", [None, 1, 8, 256])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 1 << 17])
def test_every_row_has_the_row_with_its_id(monkeypatch, rows, values):
    if values:
        monkeypatch.setattr(_match, "hash_texts", hash_to(values))
    monkeypatch.setattr(_match, "_ROWS", rows)
    rng = random.Random(rows)
    names = [*ALIKE, *(f"images/{number:0{rng.randrange(1, 9)}d}.png" for number in range(40))]
    names = list(dict.fromkeys(names))
    for shared in (0, 1, 20, len(names)):
        rng.shuffle(names)
        rest = names[shared:]
        old, new = names[:shared] + rest[::2], names[:shared] + rest[1::2]
        rng.shuffle(old), rng.shuffle(new)
        for cuts in (1, 3):
            match = _match.match_ids(column(old, cuts), column(new, cuts), "old", "new")
            assert matched(match) == by_dict(old, new)


@pytest.mark.parametrize("rows", [1, 2, 3, 1 << 17])
@pytest.mark.parametrize("side", ["old", "new"])
def test_an_id_that_comes_twice_is_refused(monkeypatch, side, rows):
    monkeypatch.setattr(_match, "_ROWS", rows)
    for twice in "abcd":
        files = {"old": ["a", "b", "c", "d"], "new": ["d", "c", "b", "a"]}
        files[side].insert(2, twice)
        expected = rf"{side} must hold every sample once, but 1 of 4 ids .* in 2 rows \(such as '{twice}', in 2\)"
        with pytest.raises(PredictionError, match=expected):
            _match.match_ids(column(files["old"]), column(files["new"]), "old", "new")


def test_hashes_of_different_texts_differ_in_their_upper_bits():
    texts = [*ALIKE, *(f"images/train/{number:07d}.png" for number in range(20_000)), *map(str, range(20_000))]
    hashes = np.empty(len(texts), np.uint64)
    hash_texts(column(texts, 3), hashes)
    # 41 bits remain for 10 million rows; a random hash of 40,000 texts has a pair by chance once in 2,700 times.
    assert len(np.unique(hashes >> np.uint64(23))) == len(texts)


def test_equal_texts_have_equal_hashes_wherever_they_stand():
    one, other = np.empty(len(ALIKE), np.uint64), np.empty(len(ALIKE), np.uint64)
    hash_texts(column(ALIKE), one)
    hash_texts(column(ALIKE[::-1], 5), other)
    assert one.tolist() == other[::-1].tolist()
