"""Files that are either whole or absent, also after a crash or a power cut; Parquet and array files in and out."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lightning_flip.stores.errors import HistoryError

__all__ = [
    "ARRAY_DAMAGE",
    "atomic_write",
    "make_directory",
    "open_parquet",
    "orphan_name",
    "parquet_errors",
    "parquet_schema",
    "read_array",
    "read_parquet",
    "sync_directory",
    "temporary_files",
    "write_file",
    "write_parquet",
    "write_text",
]

#: What numpy raises for files that are not arrays of plain values.
ARRAY_DAMAGE = (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile)

_SUFFIX = ".tmp"
# From file systems that cannot flush a directory; they have nothing to flush then.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
# From file systems without hard links (FAT, some network drives).
_CANNOT_LINK = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there becomes `path` when the block ends.

    The temporary file is flushed to disk, renamed over `path`, and the rename is flushed too: a reader sees the old
    file or the new one, never half of one. Its hidden name matches no glob for the final suffix. If the block raises,
    it is removed and `path` stays as it was. Without `replace`, a `path` that exists is a FileExistsError, and one of
    several processes that write it at once succeeds.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder) / "run.json"
        ...     with atomic_write(target) as temporary:
        ...         _ = temporary.write_text("{}")
        ...         target.exists()
        ...     target.read_text()
        False
        '{}'
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}{_SUFFIX}")
    try:
        yield temporary
        _sync_file(temporary)
        if replace:
            os.replace(temporary, final)
        else:
            _move_exclusively(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(final.parent)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    r"""Write UTF-8 text with :func:`write_file`; what is not Unicode becomes an escape such as `\udc80`."""
    content = text.encode("utf-8", "backslashreplace")
    return write_file(path, lambda stream: stream.write(content))


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> Path:
    """Write what `write` puts into a stream atomically, into folders that are made.

    A link stays a link: the file that it leads to is replaced. A pipe or a device is written to, and never replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_file(f"{folder}/new/file", lambda stream: stream.write(b"content")).read_bytes()
        b'content'
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file() and not real.is_dir():
        with open(real, "wb") as stream:
            write(stream)
        return Path(path)
    make_directory(real.parent)
    with atomic_write(real) as temporary, open(temporary, "wb") as stream:
        write(stream)
    return Path(path)


def temporary_files(folder: Path, name: str = "*") -> list[Path]:
    """What `atomic_write` left in `folder` for files that match `name` when its process was killed, sorted."""
    return sorted(folder.glob(f".{name}.{'[0-9a-f]' * 12}{_SUFFIX}"))


def orphan_name(path: Path) -> Path:
    """`path` with `.orphan` appended, or `.1.orphan`, ... if that is taken: a name for what is set aside."""
    candidate, number = path.with_name(f"{path.name}.orphan"), 0
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}.orphan")
    return candidate


def make_directory(path: Path) -> None:
    """Make `path` and its missing parents, and flush every new entry to disk."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush the entries of a folder (new names, renames, removals) to disk, if the system can."""
    if os.name == "nt":  # Windows opens no folders; its file systems write renames through
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_parquet(path: Path, table: pa.Table, *, replace: bool = True, **options: Any) -> None:
    """Write a table atomically, compressed and with checksums, into a folder that is made if missing.

    `options` are those of `pyarrow.parquet.write_table`.
    """
    make_directory(path.parent)
    with atomic_write(path, replace=replace) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=3, write_page_checksum=True, **options)


def read_parquet(
    path: Path,
    choose: Callable[[pa.Schema], Sequence[str]] | None = None,
    *,
    remedy: str,
    error: type[Exception] = HistoryError,
    threads: bool = True,
) -> pa.Table:
    """Read the columns that `choose` takes from the schema (default: all), and verify their checksums."""
    with parquet_errors(path, remedy, error), open_parquet(path) as file:
        columns = None if choose is None else list(choose(file.schema_arrow))
        return file.read(columns, use_threads=threads)


def open_parquet(source: Path | pa.NativeFile) -> pq.ParquetFile:
    """Open a Parquet file whose checksums are verified when it is read; use it in a `with` block."""
    return pq.ParquetFile(source, page_checksum_verification=True)


@contextlib.contextmanager
def parquet_errors(path: Path, remedy: str, error: type[Exception] = HistoryError) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged or foreign file into `error`, which names the file and the remedy."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as reason:
        raise error(
            f"{path} is damaged, or cannot be read as Parquet ({type(reason).__name__}: {reason}). {remedy}"
        ) from reason


def parquet_schema(path: Path) -> pa.Schema | None:
    """The schema of a Parquet file; None if it cannot be read."""
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return None


def read_array(path: Path, choose: Callable[[list[str]], str]) -> npt.NDArray[Any]:
    """Read an `.npy` file, or the array of an `.npz` file that `choose` names; objects are not unpickled.

    What is wrong with a file is one of `ARRAY_DAMAGE`.
    """
    with path.open("rb") as stream:  # numpy leaves its own file open if an archive is broken
        loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        return np.asarray(loaded[choose(list(loaded.files))])


def _move_exclusively(temporary: Path, final: Path) -> None:
    """Give a file its name, unless that is taken."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise FileExistsError(f"{final} is already there. Choose another place, or move that file away.") from None
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        # Exclusive all the same, but a reader may see half of it.
        with open(final, "xb") as file:
            file.write(temporary.read_bytes())
            file.flush()
            os.fsync(file.fileno())
    temporary.unlink()


def _sync_file(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
