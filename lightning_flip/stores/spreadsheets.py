"""CSV files that people open in a spreadsheet: no cell runs as a formula, and what a spreadsheet saves is read back."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_flip.stores.errors import ReviewError

__all__ = ["CsvFile", "CsvRow", "cell_key", "csv_rows", "csv_text", "guarded", "parse_csv", "read_csv", "whole_number"]

# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SEPARATORS = (",", ";", "\t")


class CsvRow(NamedTuple):
    """A row of a CSV file.

    Attributes:
        line: the line of the file on which the row ends, for messages.
        cells: the text below each column's name.
    """

    line: int
    cells: dict[str, str]


class CsvFile(NamedTuple):
    """The names of the columns, and the rows."""

    columns: list[str]
    rows: list[CsvRow]


def guarded(value: object) -> object:
    """A cell that no spreadsheet runs: text that looks like a formula gets a quote in front, None is empty.

    Example:
        >>> guarded("=1+1"), guarded("a.png"), guarded(-1), guarded(None)
        ("'=1+1", 'a.png', -1, '')
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def cell_key(value: object) -> str:
    r"""What a value and its cell have in common, however they were written: two are the same if their keys are.

    The quote in front of a formula does not count, nor do line ends, which spreadsheets and editors change. What is not
    Unicode is escaped, as `write_text` does.

    Example:
        >>> cell_key("'=1+1") == cell_key("=1+1"), cell_key("'a") == cell_key("a"), cell_key(None)
        (True, False, '')
    """
    text = "" if value is None else str(value)
    known = text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return known[1:] if known.startswith("'") and known[1:].startswith((*_FORMULA, "\n")) else known


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A CSV file: a header and rows of cells, each `guarded`.

    Example:
        >>> csv_text(["name", "count"], [["=1", 2], [None, 0.5]])
        "name,count\n'=1,2\n,0.5\n"
    """
    return csv_rows([header, *rows])


def csv_rows(rows: Iterable[Sequence[object]]) -> str:
    """Rows of a CSV file, each cell `guarded`."""
    return "".join(map(_line, rows))


def _line(cells: Sequence[object]) -> str:
    written = io.StringIO()
    # The writer quotes what is in its line terminator, so that a lone \r in a cell is quoted as well.
    csv.writer(written, lineterminator="\r\n").writerow([guarded(cell) for cell in cells])
    return written.getvalue().removesuffix("\r\n") + "\n"


def read_csv(path: str | os.PathLike[str]) -> CsvFile:
    """Read a CSV file as programs for spreadsheets save it; see `parse_csv`.

    Raises:
        ReviewError: if the file is not CSV in UTF-8 (or UTF-16 with its mark).
        OSError: if it cannot be read.
    """
    content = Path(path).read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ReviewError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}). Save it as CSV UTF-8; a workbook"
            " (.xlsx, .ods) has to be exported as CSV first."
        ) from error
    return parse_csv(text, str(path))


def parse_csv(text: str, name: str = "the file") -> CsvFile:
    r"""The content of a CSV text; empty lines are left out.

    Commas, semicolons or tabs separate cells: the one that splits the header into the most. Names of columns are
    taken without spaces around them.

    Raises:
        ReviewError: if there is no header, two columns have one name, or a row has more cells than the header.

    Example:
        >>> parse_csv('index;name\r\n3;"a;b"\r\n')
        CsvFile(columns=['index', 'name'], rows=[CsvRow(line=2, cells={'index': '3', 'name': 'a;b'})])
    """
    first = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(_SEPARATORS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header: list[str] | None = None
    rows = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = sorted({column for column in header if column and header.count(column) > 1})
                if twice:
                    raise ReviewError(f"{name} has several columns named {', '.join(twice)}; keep one of each.")
                continue
            if any(cell.strip() for cell in cells[len(header) :]):
                raise ReviewError(
                    f"{name}, line {reader.line_num}: {len(cells)} cells below a header of {len(header)}. A cell with"
                    " a separator or a line end has to be in double quotes."
                )
            padded = [*cells, *[""] * (len(header) - len(cells))]
            rows.append(CsvRow(reader.line_num, dict(zip(header, padded, strict=False))))
    except csv.Error as error:
        raise ReviewError(f"{name}, line {reader.line_num}: cannot be read as CSV ({error}).") from error
    if header is None:
        raise ReviewError(f"{name} is empty; expected a header and rows.")
    return CsvFile(header, rows)


def whole_number(cell: str) -> int | None:
    """The whole number in a cell, also as spreadsheets and data tools rewrite it ("3.0"); None if it holds none.

    Example:
        >>> whole_number(" 12 "), whole_number("3.0"), whole_number("3.5"), whole_number("1e999"), whole_number("")
        (12, 3, None, None, None)
    """
    text = cell.strip()
    if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20:
        return int(text)
    whole, dot, rest = text.partition(".")
    return whole_number(whole) if dot and whole and not rest.strip("0") else None
