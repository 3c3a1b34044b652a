"""The tables of an update, in Markdown and on a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from lightning_flip.reports._plain_table import PlainTable, shorten
from lightning_flip.reports._text import escape_markdown, printable
from lightning_flip.reports.update._tables import summary_lines, update_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lightning_flip.reports.update._numbers import UpdateNumbers

__all__ = ["print_tables", "write_markdown"]

# A column of words stays readable down to this width; numbers are never cut.
_NARROWEST_WORDS = 10
_NARROWEST_HEADER = 8


def write_markdown(update: UpdateNumbers, decimals: int = 2, most_rows: int = 20) -> str:
    r"""Write an update's tables in Markdown. Returns lines without a last line break.

    Example:
        >>> import numpy as np, pyarrow as pa
        >>> from lightning_flip.reports import JoinedPredictions
        >>> from lightning_flip.reports.update.comparison import compare_joined
        >>> codes = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]])
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c", "d"]), ("cat", "dog"), *codes)
        >>> print("\n".join(write_markdown(compare_joined(joined)).splitlines()[:8]))
        ### Update: old → new
        <BLANKLINE>
        4 samples. Accuracy 75.00% before, 75.00% now (+0.00 points; exact McNemar test of no change: p = 1).
        <BLANKLINE>
        | rate | value | 95% interval | samples |
        |:---|---:|---:|---:|
        | old accuracy | 75.00% | 30.06 to 95.44% | 3 of 4 |
        | new accuracy | 75.00% | 30.06 to 95.44% | 3 of 4 |
    """
    parts = [f"### {escape_markdown(_heading(update))}", *map(escape_markdown, summary_lines(update, decimals))]
    for table in update_tables(update, decimals, most_rows):
        if table.title:
            parts.append(f"#### {escape_markdown(table.title)}")
        rule = [":---"] * table.words + ["---:"] * (len(table.headers) - table.words)
        rows = [[escape_markdown(cell) for cell in row] for row in (table.headers, *table.rows)]
        head, *body = (f"| {' | '.join(row)} |" for row in rows)
        parts.append("\n".join([head, f"|{'|'.join(rule)}|", *body]))
        parts.extend(map(escape_markdown, table.notes))
    return "\n\n".join(parts)


def print_tables(update: UpdateNumbers, console: Console, decimals: int = 2, most_rows: int = 20) -> None:
    """Print an update's tables on a rich console.

    In a narrow terminal names take several lines and columns that can be spared are left out; a line says which.
    Numbers stay whole.

    Example:
        >>> import io, numpy as np, pyarrow as pa
        >>> from rich.console import Console
        >>> from lightning_flip.reports import JoinedPredictions
        >>> from lightning_flip.reports.update.comparison import compare_joined
        >>> joined = JoinedPredictions(pa.array(["a"]), ("cat", "dog"), *np.array([[0], [0], [1]]))
        >>> text = io.StringIO()
        >>> print_tables(compare_joined(joined), Console(file=text, width=80))
        >>> text.getvalue().splitlines()[0]
        'Update: old → new'
    """
    from rich.text import Text

    # Text throughout, since a str would be read as markup.
    console.print(Text(_heading(update), style="bold"))
    for line in summary_lines(update, decimals):
        console.print(Text(line))
    for table in update_tables(update, decimals, most_rows):
        console.print()
        if table.title:
            console.print(Text(table.title, style="bold"))
        shown = _fitting(table, console.width)
        console.print(_rich_table(table, shown))
        missing = [header for column, header in enumerate(table.headers) if column not in shown]
        for note in (*table.notes, *([f"Not shown in this width: {', '.join(missing)}."] if missing else [])):
            console.print(Text(note, style="dim"))


def _heading(update: UpdateNumbers) -> str:
    return f"Update: {shorten(update.old_name, 60)} → {shorten(update.new_name, 60)}"


def _rich_table(table: PlainTable, shown: list[int]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column in shown:
        if column < table.words:
            drawn.add_column(Text(table.headers[column]), overflow="fold")
        else:
            drawn.add_column(Text(_wrapped(table.headers[column])), justify="right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(Text(row[column]) for column in shown))
    return drawn


def _fitting(table: PlainTable, width: int) -> list[int]:
    """The columns that fit."""
    from rich.cells import cell_len

    needed = {}
    for column, header in enumerate(table.headers):
        lines = [*_wrapped(header).split("\n"), *(row[column] for row in table.rows)]
        widest = max(map(cell_len, lines))
        needed[column] = min(widest, _NARROWEST_WORDS) if column < table.words else widest
    for column in table.spare:
        if sum(needed.values()) + 2 * (len(needed) - 1) <= width:
            break
        del needed[column]
    return list(needed)


def _wrapped(header: str) -> str:
    width = max([_NARROWEST_HEADER, *map(len, header.split())])
    return textwrap.fill(printable(header), width)
