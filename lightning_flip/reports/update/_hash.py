"""Hashes of texts, to sort ids by; two texts may share one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["hash_texts"]

Hashes = npt.NDArray[np.uint64]

_ROWS = 65_536  # few enough for the processor's cache
_WORD = 8
# Keeps the first n bytes of a word, n = 0 to 8.
_KEEP = np.array([(1 << 8 * count) - 1 for count in range(_WORD + 1)], np.uint64)
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))


def hash_texts(texts: pa.ChunkedArray, out: Hashes) -> None:
    """Write a hash of each text, [R], whose upper bits depend on all of it; equal texts have equal ones.

    Example:
        >>> hashes = np.empty(3, np.uint64)
        >>> hash_texts(pa.chunked_array([["a/7.png", "a/8.png"], ["a/7.png"]]), hashes)
        >>> bool(hashes[0] == hashes[1]), bool(hashes[0] == hashes[2])
        (False, True)
    """
    place = 0
    for chunk in texts.chunks:
        for start in range(0, len(chunk), _ROWS):
            rows = chunk.slice(start, _ROWS)
            _hash_words(out[place : place + len(rows)], rows)
            place += len(rows)


def _hash_words(hashes: Hashes, rows: pa.StringArray) -> None:
    """Mix the words of each text into its hash."""
    _, offsets, data = rows.buffers()
    ends = np.frombuffer(offsets, np.int32)[rows.offset : rows.offset + len(rows) + 1].astype(np.int64)
    first, last = int(ends[0]), int(ends[-1])
    text = np.frombuffer(data or b"", np.uint8)[first : last + _WORD]
    if len(text) < last - first + _WORD:  # the end of the buffer
        text = np.concatenate([text[: last - first], np.zeros(_WORD, np.uint8)])
    words = np.ndarray(len(text) - _WORD + 1, "<u8", text, strides=(1,))  # one begins at every byte
    starts, lengths = ends[:-1] - first, np.diff(ends)
    hashes[:] = lengths
    shortest = int(lengths.min())
    for done in range(0, int(lengths.max()), _WORD):
        longer = slice(None) if done < shortest else np.flatnonzero(lengths > done)
        word = words[starts[longer] + done]
        if done + _WORD > shortest:
            word &= _KEEP[np.minimum(lengths[longer] - done, _WORD)]
        word ^= hashes[longer]
        word *= _ODD[0]
        word ^= word >> np.uint64(32)
        word *= _ODD[1]
        hashes[longer] = word
