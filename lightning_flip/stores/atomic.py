"""Files that are either whole or absent, also after a crash or a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_write", "make_directory", "sync_directory", "temporary_files", "write_text"]

_SUFFIX = ".tmp"
# File systems that cannot flush a directory say so with one of these; they have nothing to flush then.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
# File systems that know no second name for a file (FAT, some network drives) say so with one of these.
_CANNOT_LINK = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there becomes `path` when the block ends.

    The temporary file is flushed to disk, renamed over `path`, and the rename is flushed too. A reader sees the old
    file or the new one, never half of one. When the block raises, the temporary file is removed and `path` stays as
    it was.

    Args:
        path: the file to make or to replace. Its folder must exist.
        replace: whether a file that is there gives way; if not, one of several that write it at once succeeds.

    Yields:
        The temporary path: a hidden name in the same folder (a rename is atomic only within one file system) that no
        glob for the final suffix matches.

    Raises:
        FileNotFoundError: when the block ends without having written the temporary file.
        FileExistsError: when the file is there, and must not be replaced.

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
    r"""Write a text so that readers see the old file or all of the new one, never half of one.

    A link stays a link: the file that it leads to is replaced. A pipe or a device is written to, and never replaced.

    Args:
        path: the file to make or to replace; missing folders are made.
        text: its text, written as UTF-8 with the line breaks it has. What is not Unicode (half of a surrogate pair, as
            in the name of a file) is written as a Python escape such as `\udc80`.

    Returns:
        The path.

    Raises:
        OSError: when it cannot be written, as where a folder is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder) / "reports" / "gate.md", "fine").read_text()
        'fine'
    """
    content = text.encode("utf-8", "backslashreplace")
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file() and not real.is_dir():
        with open(real, "wb") as stream:
            stream.write(content)
        return Path(path)
    make_directory(real.parent)
    with atomic_write(real) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def temporary_files(folder: Path, name: str = "*") -> list[Path]:
    """List what `atomic_write` left behind in `folder` when its process was killed.

    Args:
        folder: where to look; subfolders are not searched. It need not exist.
        name: a glob that the final file name matches, e.g. `"*.parquet"`.

    Returns:
        The temporary files, sorted.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, ".run.json.0123456789ab.tmp").write_text("{")
        ...     [path.name for path in temporary_files(Path(folder), "run.json")]
        ['.run.json.0123456789ab.tmp']
    """
    return sorted(folder.glob(f".{name}.{'[0-9a-f]' * 12}{_SUFFIX}"))


def make_directory(path: Path) -> None:
    """Make `path` and its missing parents, and flush every new entry to disk.

    Args:
        path: the folder to make; nothing happens when it exists.

    Raises:
        FileExistsError: when a file is where a folder is needed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_directory(Path(folder) / "history" / "train")
        ...     Path(folder, "history", "train").is_dir()
        True
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush the entries of a folder (new names, renames, removals) to disk, where the system can.

    Args:
        path: the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sync_directory(Path(folder))
    """
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
