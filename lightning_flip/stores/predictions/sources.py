"""Where predictions are read from: a file, a folder of files, a glob, a URL, or standard input."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from lightning_flip.stores.errors import PredictionError

__all__ = ["STANDARD_INPUT", "Part", "find_parts", "reads_file"]

#: The place that stands for standard input.
STANDARD_INPUT = "-"
_ENDINGS = {
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".jsonl": "JSONL",
    ".ndjson": "JSONL",
    ".npz": "NPZ",
}
_TEXT = ("CSV", "TSV", "JSONL")
# How files begin: the format by the first bytes.
_MAGIC = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\xff\xff\xff\xff": "Arrow", b"PK\x03\x04": "NPZ", b"{": "JSONL"}
_GZIP = b"\x1f\x8b"
# Tables that consist of the files which a log names; the others are deleted rows and old versions.
_TABLE_LOGS = ("_delta_log", ".hoodie")
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of a table of predictions.

    Attributes:
        name: the file, for messages.
        kind: its format: Parquet, Arrow, CSV, TSV, JSONL or NPZ.
        open_file: opens it for random access.
        gzipped: whether it is compressed as a whole.
        partition: the columns that the names of its folders stand for, such as `site=A`.
        remote: whether it is a URL, whose driver may raise any error.
    """

    name: str
    kind: str
    open_file: Callable[[], Any]
    gzipped: bool = False
    partition: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    remote: bool = False

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        """The content, decompressed; only what was not compressed can be read in any order."""
        with self.open_file() as file, contextlib.ExitStack() as stack:
            native = file if isinstance(file, pa.NativeFile) else stack.enter_context(pa.PythonFile(file, mode="r"))
            yield stack.enter_context(pa.CompressedInputStream(native, "gzip")) if self.gzipped else native


def find_parts(place: str) -> tuple[str, list[Part]]:
    """The name of a place, for messages, and its files, sorted by name.

    Raises:
        PredictionError: if there are none, the ending of one is unknown, a folder holds several formats, or what a URL
            needs is not installed.
    """
    if place == STANDARD_INPUT:
        part = _standard_input()
        return part.name, [part]
    if "://" in place and not place.startswith("file://"):
        return _remote_parts(place)
    place = place.removeprefix("file://")
    if os.path.isdir(place):
        for log in _TABLE_LOGS:
            if os.path.isdir(os.path.join(place, log)):
                raise PredictionError(
                    f"{place} is a table with a log ({log}), which says which of its files count. Write the table as"
                    " one Parquet file."
                )
        paths = (os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names)
        return place, _many(place, paths, place, _local)
    if glob.has_magic(place) and not os.path.exists(place):
        found = (path for path in glob.glob(place, recursive=True) if not os.path.isdir(path))
        return place, _many(place, found, _base(place), _local)
    part = _local(place, {})
    if not os.path.exists(place):
        raise PredictionError(f"{place} does not exist. Give the path of a file of predictions.")
    return place, [part]


def reads_file(place: str, path: str) -> bool:
    """Whether reading `place` reads the local file `path`, or would if that file existed.

    Example:
        >>> reads_file("preds", "preds/site=A/new.parquet"), reads_file("preds/*.csv", "preds/a.csv")
        (True, True)
        >>> reads_file("-", "-"), reads_file("s3://bucket/a.csv", "a.csv"), reads_file("a.csv", "b.csv")
        (False, False, False)
    """
    if place == STANDARD_INPUT or ("://" in place and not place.startswith("file://")):
        return False
    place, real = place.removeprefix("file://"), os.path.realpath(path)
    inside = os.path.realpath(place)
    if real == inside or real.startswith(os.path.join(inside, "")):
        return True
    if not glob.has_magic(place) or os.path.exists(place):
        return False
    found = any(os.path.realpath(match) == real for match in glob.glob(place, recursive=True))
    return found or fnmatch.fnmatch(real, inside)


def _kind_of(path: str) -> tuple[str, bool]:
    """The format that the ending of a name stands for, and whether it is compressed."""
    stem, ending = os.path.splitext(path.lower())
    gzipped = ending == ".gz"
    kind = _ENDINGS.get(os.path.splitext(stem)[1] if gzipped else ending)
    if kind is None or (gzipped and kind not in _TEXT):
        endings = ", ".join(_ENDINGS)
        raise PredictionError(
            f"{path} must end in one of {endings}, which says how to read it (.gz may follow on those of text)."
        )
    return kind, gzipped


def _many(
    place: str, paths: Iterable[str], base: str, make: Callable[[str, Mapping[str, str | None]], Part]
) -> list[Part]:
    """Several files below `base`, without those that tools hide or mark, such as `_SUCCESS`."""
    below = {path: path.removeprefix(base).replace(os.sep, "/").strip("/").split("/") for path in sorted(paths)}
    shown = {path: names for path, names in below.items() if not any(name.startswith((".", "_")) for name in names)}
    if not shown:
        raise PredictionError(f"{place} must have files of predictions, but there are none.")
    parts = [make(path, _partition(names)) for path, names in shown.items()]
    kinds = sorted({part.kind for part in parts})
    if len(kinds) > 1:
        raise PredictionError(
            f"{place} must have files of one format, but has {' and '.join(kinds)}. Select those of one by a glob, such"
            " as 'preds/*.parquet'."
        )
    return parts


def _partition(names: Sequence[str]) -> dict[str, str | None]:
    """The columns that the folders of a path stand for, as Hive, Spark and pyarrow write them."""
    pairs = [name.partition("=") for name in names[:-1] if "=" in name]
    return {unquote(name): None if value == _NULL_FOLDER else unquote(value) for name, _, value in pairs}


def _base(pattern: str) -> str:
    """The folder of a glob: what comes before the first special character."""
    plain = pattern[: next(place for place, letter in enumerate(pattern) if letter in "*?[")]
    return plain[: plain.replace(os.sep, "/").rfind("/") + 1]


def _local(path: str, partition: Mapping[str, str | None]) -> Part:
    kind, gzipped = _kind_of(path)
    return Part(path, kind, partial(pa.OSFile, path), gzipped, partition)


def _remote_parts(place: str) -> tuple[str, list[Part]]:
    """The files of a URL that fsspec opens; messages omit its user, password and query, which may be secrets."""
    split = urlsplit(place)
    name = split._replace(netloc=split.netloc.rpartition("@")[2], query="", fragment="").geturl()
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise PredictionError(f"{name} is a URL, for which fsspec must be installed: pip install fsspec.") from error
    try:
        system, path = url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise PredictionError(f"{name} needs a driver of fsspec that is not installed: {error}.") from error

    def make(path: str, partition: Mapping[str, str | None], shown: str | None = None) -> Part:
        shown = shown or system.unstrip_protocol(path)
        kind, gzipped = _kind_of(shown)
        return Part(shown, kind, partial(system.open, path, "rb"), gzipped, partition, True)

    if split.scheme in ("http", "https"):  # which have no folders, and "?" is not part of a glob
        return name, [make(path, {}, name)]
    if system.isdir(path):
        return name, _many(name, system.find(path), path, make)
    if glob.has_magic(path) and not system.exists(path):
        return name, _many(name, system.glob(path), _base(path), make)
    return name, [make(path, {}, name)]


def _standard_input() -> Part:
    """Standard input, whose format its first bytes tell."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - it is read later: Parquet in any order, CSV twice
    shutil.copyfileobj(sys.stdin.buffer, spool)

    def open_again() -> BinaryIO:
        spool.seek(0)
        return os.fdopen(os.dup(spool.fileno()), "rb")

    name = "standard input"
    with open_again() as file:
        head = file.read(len(_GZIP))
    part = Part(name, "CSV", open_again, head == _GZIP)
    if not head:
        raise PredictionError(f"{name} is empty. Pipe a file of predictions into it; it can be read once.")
    try:
        with part.open() as content:
            head = content.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise PredictionError(f"{name} cannot be decompressed ({error}). Write or copy it again.") from error
    kinds = [kind for magic, kind in _MAGIC.items() if head.startswith(magic)]
    return dataclasses.replace(part, kind=kinds[0] if kinds else "CSV")
