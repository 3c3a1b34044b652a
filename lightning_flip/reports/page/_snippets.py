"""The beginning of each sample's text, from a column of a CSV or Parquet file, for the place of a thumbnail."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from lightning_flip.reports.text import printable, quote
from lightning_flip.stores.errors import HistoryError
from lightning_flip.stores.files import read_parquet

__all__ = ["LONGEST_SNIPPET", "Snippets", "read_snippets"]

LONGEST_SNIPPET = 200
_IDS, _INDICES = ("sample_id", "id"), "index"
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class Snippets:
    """The texts of samples.

    Attributes:
        text: at most 200 characters of one line, by the sample's index.
        notes: what the page says about them, such as how many samples have none.
    """

    text: Mapping[int, str]
    notes: tuple[str, ...] = ()


def read_snippets(place: str, samples: pa.Table, indices: Iterable[int]) -> Snippets:
    r"""Read the texts of some samples.

    A row belongs to the sample whose id is in its column `sample_id` (or `id`), if both have ids; else to the sample
    whose index is in its column `index`; without such columns the rows are those of the dataset, in order.

    Args:
        place: FILE/COLUMN; the file ends in .csv, .tsv or .parquet.
        samples: of the split: columns `index` and `sample_id`.
        indices: of the samples whose text is needed.

    Raises:
        HistoryError: if there is no such file or column, or the file is damaged.

    Example:
        >>> import tempfile
        >>> samples = pa.table({"index": [0, 1], "sample_id": ["a", "b"]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "reviews.csv").write_text("id,review\nb,Too long.\nc,Fine.\n")
        ...     found = read_snippets(f"{folder}/reviews.csv/review", samples, [0, 1])
        >>> found.text, found.notes
        ({1: 'Too long.'}, ('1 of 2 samples have no text in reviews.csv.',))
    """
    path, column = _split(place)
    table = _read(path, column)
    wanted = list(dict.fromkeys(indices))
    key = _key(table, samples)
    if key is None:
        row = {index: index for index in wanted if index < table.num_rows}
    else:
        known = dict(zip(samples["index"].to_pylist(), samples["sample_id"].to_pylist(), strict=True))
        names = wanted if key == _INDICES else [known.get(index) for index in wanted]
        column_of_keys = pc.cast(table[key], pa.string())
        found = pc.index_in(
            pa.array([None if name is None else str(name) for name in names], pa.string()),
            value_set=column_of_keys.combine_chunks(),
            skip_nulls=True,
        ).to_pylist()
        row = {index: place for index, place in zip(wanted, found, strict=True) if place is not None}
    text = {}
    for index, place_of in row.items():
        value = table[column][place_of].as_py()
        if value is not None:
            text[index] = _cut(str(value))
    lacking = len(wanted) - len(text)
    note = f"{lacking:,} of {len(wanted):,} samples have no text in {path.name}."
    return Snippets(text, (note,) if lacking else ())


def _split(place: str) -> tuple[Path, str]:
    """File and column; both may hold slashes."""
    parts = place.split("/")
    for count in range(len(parts) - 1, 0, -1):
        path = Path("/".join(parts[:count]) or "/")
        if path.is_file():
            return path, "/".join(parts[count:])
    raise HistoryError(
        f"text must be FILE/COLUMN, such as reviews.csv/review, and name a file that exists; got {quote(place)}."
    )


def _read(path: Path, column: str) -> pa.Table:
    """The column and those that may tell to which sample a row belongs."""
    endings = (".csv", ".tsv", ".parquet")
    if path.suffix.lower() not in endings:
        raise HistoryError(f"text must name a file that ends in {', '.join(endings)}; got {quote(str(path))}.")
    remedy = "Write or copy it again, or leave --text out."
    if path.suffix.lower() == ".parquet":
        return read_parquet(path, lambda schema: _chosen(path, column, schema.names), remedy=remedy)
    try:
        with path.open("rb") as stream:
            options = pa.csv.ParseOptions(
                delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
            )
            with pa.csv.open_csv(stream, parse_options=options) as reader:
                names = reader.schema.names
        kept = _chosen(path, column, names)
        convert = pa.csv.ConvertOptions(include_columns=kept, column_types=dict.fromkeys(kept, pa.string()))
        return pa.csv.read_csv(path, parse_options=options, convert_options=convert)
    except _DAMAGE as error:
        raise HistoryError(f"{path} cannot be read as CSV ({type(error).__name__}: {error}). {remedy}") from error


def _chosen(path: Path, column: str, names: list[str]) -> list[str]:
    if names.count(column) != 1:
        raise HistoryError(
            f"{path} has {names.count(column) or 'no'} columns {quote(column)}; it has"
            f" {', '.join(map(quote, names[:20]))}. Name one of these as FILE/COLUMN."
        )
    return [name for name in dict.fromkeys([column, *_IDS, _INDICES]) if names.count(name) == 1]


def _key(table: pa.Table, samples: pa.Table) -> str | None:
    """The column that tells to which sample a row belongs; None if the order does."""
    if samples["sample_id"].null_count < samples.num_rows:
        for name in _IDS:
            if name in table.column_names:
                return name
    return _INDICES if _INDICES in table.column_names else None


def _cut(text: str) -> str:
    """One line of printable characters, cut at a word where there is one."""
    line = " ".join(printable(text[: 4 * LONGEST_SNIPPET]).split())
    if len(line) <= LONGEST_SNIPPET:
        return line
    start = line[: LONGEST_SNIPPET - 2]
    return f"{start[: start.rfind(' ')] if ' ' in start[LONGEST_SNIPPET // 2 :] else start} …"
