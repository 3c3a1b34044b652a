"""An Arrow table that is readable in a notebook and in a terminal."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa

from lightning_flip.reports.text import PlainTable, shorten, terminal_text

__all__ = ["ShownTable", "shown_in_notebooks"]

_MOST_ROWS = 20
_MARK = b"lightning_flip.shown"


class ShownTable:
    """A `pyarrow.Table` that shows its first rows as text; it has all attributes of the table and is used like it.

    pandas and DuckDB take it as they take the table, and so does `polars.DataFrame`. What insists on the class, such as
    `pyarrow.parquet.write_table` and `polars.from_arrow`, gets `rows`, or `pyarrow.table(shown)`.

    Args:
        rows: the table.

    Attributes:
        rows: the table.

    Example:
        >>> shown = ShownTable(pa.table({"index": [3, 5], "aum": [-0.25, None]}))
        >>> shown.num_rows, shown["index"].to_pylist(), shown.slice(1).to_pylist()
        (2, [3, 5], [{'index': 5, 'aum': None}])
        >>> pa.table(shown) == shown.rows
        True
    """

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows

    def __getattr__(self, name: str) -> Any:
        if name == "rows":  # of a copy that is not made yet
            raise AttributeError(name)
        return getattr(self.rows, name)

    def __getitem__(self, key: Any) -> Any:
        return self.rows[key]

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def __eq__(self, other: object) -> bool:
        return bool(self.rows == (other.rows if isinstance(other, ShownTable) else other))

    __hash__ = None  # type: ignore[assignment]  # as that of a pyarrow.Table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.rows.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return terminal_text(self.table(most_rows=_MOST_ROWS))

    def _repr_html_(self) -> str:
        return self.table(most_rows=_MOST_ROWS).html()

    def table(self, decimals: int = 3, most_rows: int | None = None) -> PlainTable:
        """The rows as text, all of them or the first ones, which a line below says."""
        rows, names = self.first_rows(most_rows), self.rows.column_names
        cells = tuple(tuple(_cell(value, decimals) for value in row.values()) for row in rows.to_pylist())
        words = [place for place, column in enumerate(rows.columns) if not _is_number(column.type)]
        # Empty columns are left out first, then from the right; the first one stays.
        spare = sorted(range(1, len(names)), key=lambda place: (rows[place].null_count < len(rows), -place))
        return PlainTable("", tuple(names), cells, tuple(words), tuple(spare), self.more_rows(most_rows))

    def first_rows(self, most_rows: int | None) -> pa.Table:
        """The rows that are shown."""
        return self.rows.slice(0, most_rows)

    def more_rows(self, most_rows: int | None) -> tuple[str, ...]:
        """A note about rows that are not shown, if there are any."""
        more = 0 if most_rows is None else len(self) - most_rows
        return (f"{more:,} more rows; to_pandas() has all {len(self):,}.",) if more > 0 else ()


def shown_in_notebooks(table: pa.Table) -> pa.Table:
    """A `pyarrow.Table` that a running IPython shows as text from now on; elsewhere it is as any other one.

    A mark in the metadata of the schema tells it from other tables, which look as before.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["text/html"].for_type(pa.Table, _html_if_marked)
    return table.replace_schema_metadata({_MARK: b"1"})


def _html_if_marked(table: pa.Table) -> str | None:
    """HTML of a table of this package; None for others: then a notebook goes on to their text."""
    return ShownTable(table)._repr_html_() if _MARK in (table.schema.metadata or {}) else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _cell(value: object, decimals: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{decimals}f}" if isinstance(value, float) else shorten(value)
