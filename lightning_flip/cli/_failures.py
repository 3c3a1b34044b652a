"""Bad input, told in a sentence instead of a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["CommandError", "MissingExtraError", "told"]


class CommandError(Exception):
    """A subcommand cannot go on, for a reason that lies in what it was given; the message is for its user.

    Example:
        >>> issubclass(CommandError, Exception)
        True
    """


class MissingExtraError(CommandError, ModuleNotFoundError):
    """A subcommand needs an optional package that is not installed.

    Example:
        >>> issubclass(MissingExtraError, CommandError)
        True
    """


@contextlib.contextmanager
def told(*more: type[Exception]) -> Iterator[None]:
    """Turn errors about files, about what is in them, and about packages that are not installed into CommandError.

    Example:
        >>> try:
        ...     with told():
        ...         open("no-such-file")
        ... except CommandError as error:
        ...     print(error)
        no-such-file: No such file or directory.
    """
    from pyarrow import ArrowException

    from lightning_flip.stores.errors import HistoryError, PredictionError

    mended_by_user: tuple[type[Exception], ...] = (HistoryError, PredictionError, ModuleNotFoundError, *more)
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CommandError(f"{error.filename}: {reason}." if error.filename else f"{reason}.") from error
    except (ArrowException, UnicodeError) as error:
        # Values that a damaged file let through when it was opened.
        raise CommandError(f"a file holds values that cannot be read ({type(error).__name__}: {error}).") from error
    except mended_by_user as error:
        raise CommandError(str(error)) from error
