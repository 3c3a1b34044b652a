"""A table as text, before it is known where it is written."""

from __future__ import annotations

import dataclasses

from lightning_flip.reports._text import printable

__all__ = ["PlainTable", "shorten"]


@dataclasses.dataclass(frozen=True)
class PlainTable:
    """A table as text that nothing has been escaped in.

    Attributes:
        title: what the table is about; empty for the first one.
        headers: header of each column.
        rows: the cells, row by row.
        words: how many columns, from the left, hold words; the others hold numbers.
        spare: positions of columns that a narrow terminal can do without, in the order in which they go.
        notes: lines below the table.

    Example:
        >>> PlainTable("by class", ("class", "NFR"), (("cat", "1.0%"),)).words
        1
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    spare: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def shorten(name: object, longest: int = 40) -> str:
    r"""Show a label, an id or a file's name in a cell: on one line, not too long, and never blank.

    Returns its printable text; where that is long, the start and the end of it, since names often differ there.

    Example:
        >>> shorten("two\nlines"), shorten(""), shorten("a name that is long", 14)
        ('two lines', "''", 'a nam .. long')
    """
    text = printable(str(name))
    if not text.strip():
        text = ascii(name)
    if len(text) <= longest:
        return text
    half = (longest - 4) // 2
    return f"{text[:half].rstrip()} .. {text[-half:].lstrip()}"
