"""Reading one part of a history, with errors that name the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.history.parts import MEASURES, PART_SCHEMA, TARGET

__all__ = ["check_part", "read_part"]


def check_part(path: Path) -> None:
    """Read a part's footer; most damage (a file cut short, an empty file, another format) shows there.

    Example:
        >>> try:
        ...     check_part(Path("no-such-part.parquet"))
        ... except HistoryError as error:
        ...     print(str(error)[:31])
        no-such-part.parquet is damaged
    """
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    if names not in (PART_SCHEMA.names, [*PART_SCHEMA.names, TARGET]):
        raise HistoryError(
            f"{path} is not a part of a history: its columns are {names}, not {PART_SCHEMA.names}. Move it out of"
            " the folder."
        )


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns of a part; checksums of what is read are verified.

    Returns one row a visit, with the label of each visit as `target` where the part has them. The measures are float32,
    also where the file keeps float16.

    Example:
        >>> try:
        ...     read_part(Path("no-such-part.parquet"))
        ... except HistoryError as error:
        ...     print(str(error)[:31])
        no-such-part.parquet is damaged
    """
    names = PART_SCHEMA.names if columns is None else list(columns)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names += [TARGET] if TARGET in file.schema_arrow.names else []
            table = file.read(names, use_threads=False).select(names)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    for place, name in enumerate(names):
        if name in MEASURES and table.schema.field(name).type != pa.float32():
            table = table.set_column(place, name, table[name].cast(pa.float32()))
    return table


def _damaged(path: Path, error: Exception) -> HistoryError:
    return HistoryError(
        f"{path} is damaged ({type(error).__name__}: {error}). Restore it from a copy; or rename it to"
        f" {path.name}.orphan to read the history without it, or resume the run from a checkpoint of an earlier"
        " epoch to record it again."
    )
