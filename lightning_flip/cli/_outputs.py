"""What a subcommand prints and writes, its exit status, and errors for its user instead of tracebacks."""

from __future__ import annotations

import argparse
import contextlib
import enum
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, NoReturn, Protocol, TextIO

from lightning_flip.stores.files import write_file, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from lightning_flip.cli._github import Annotation

__all__ = [
    "PRINT",
    "CommandError",
    "CommandParser",
    "Content",
    "MissingExtraError",
    "OutputError",
    "Status",
    "UsageError",
    "check_outputs",
    "command",
    "complain",
    "complain_of_a_bug",
    "deliver",
    "say",
    "show",
    "terminal_width",
    "told",
]

PRINT = "-"
#: Text, or a function that writes something else into a stream.
Content = str | Callable[[BinaryIO], object]


class Status(enum.IntEnum):
    """What the process ends with.

    Attributes:
        PASS: done; of a gate, every limit holds.
        FAIL: a gate's limit is broken. Nothing but a gate returns it.
        MISUSE: wrong usage, input that cannot be read, output that cannot be written, something not installed.
        INCONCLUSIVE: a gate has too few samples to decide.
    """

    PASS = 0
    FAIL = 1
    MISUSE = 2
    INCONCLUSIVE = 3


class CommandError(Exception):
    """A subcommand cannot continue because of its input; the message is for its user."""


class UsageError(Exception):
    """The words of a command cannot be understood; if its outputs are confused, no file may be touched."""

    def __init__(self, message: str, usage: str, confused_outputs: bool = False) -> None:
        super().__init__(message)
        self.usage = usage
        self.confused_outputs = confused_outputs


class OutputError(ValueError):
    """The places to write to collide, or would overwrite an input."""


class CommandParser(argparse.ArgumentParser):
    """A parser that raises a UsageError, so that a subcommand can replace its output files before the command ends."""

    def error(self, message: str) -> NoReturn:
        """Raise the error."""
        raise UsageError(message, self.format_usage())


class MissingExtraError(CommandError, ModuleNotFoundError):
    """A subcommand needs an optional package that is not installed."""


@contextlib.contextmanager
def told(*more: type[Exception]) -> Iterator[None]:
    """Turn errors about files, their content, and packages that are not installed into CommandError."""
    from pyarrow import ArrowException

    from lightning_flip.stores.errors import HistoryError, PredictionError

    mended_by_user: tuple[type[Exception], ...] = (HistoryError, PredictionError, ModuleNotFoundError, *more)
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise CommandError(f"{error.filename}: {reason}." if error.filename else f"{reason}.") from error
    except (ArrowException, UnicodeError) as error:
        # Values that a damaged file let through when it was opened.
        raise CommandError(f"a file holds values that cannot be read ({type(error).__name__}: {error}).") from error
    except mended_by_user as error:
        raise CommandError(str(error)) from error


class Tables(Protocol):
    """A report that rich can print, and that has a form in Markdown."""

    def to_markdown(self, decimals: int = ...) -> str:
        """The tables in Markdown."""
        ...

    def render(self, console: Console, decimals: int = ...) -> None:
        """Print the tables on a rich console."""
        ...


def check_outputs(outputs: Mapping[str, str | None], inputs: Sequence[str], binary: Sequence[str] = ()) -> None:
    """Check before any work that the places to write to do not collide, and that no `binary` file is printed.

    Example:
        >>> check_outputs({"--json": "-", "--markdown": None}, ["old.parquet"])
        >>> check_outputs({"--json": "old.parquet"}, ["old.parquet"])
        Traceback (most recent call last):
            ...
        lightning_flip.cli._outputs.OutputError: --json would overwrite old.parquet, which is read; name another file.
    """
    from lightning_flip.stores.predictions.sources import reads_file

    taken: dict[str, str] = {}
    for option, place in outputs.items():
        if place is None:
            continue
        if not place or (place == PRINT and option in binary):
            printed = "; it is not text, and cannot be printed" if option in binary else ", or be - to print"
            raise OutputError(f"{option} must name a file{printed}, got {place!r}.")
        real = place if place == PRINT else os.path.realpath(place)
        if real in taken:
            what = "be printed at a time" if place == PRINT else f"go to {place}"
            raise OutputError(f"only one of {taken[real]} and {option} can {what}; name another file.")
        if place != PRINT and any(reads_file(path, place) for path in inputs):
            raise OutputError(f"{option} would overwrite {place}, which is read; name another file.")
        if place != PRINT and (os.path.isdir(real) or place.endswith(("/", os.sep))):
            raise OutputError(f"{option} must name a file, but {place} is a folder.")
        if place != PRINT and not os.path.isdir(os.path.dirname(real)):
            raise OutputError(f"{option} must name a file in a folder that exists, got {place}; make the folder first.")
        taken[real] = option


def deliver(outputs: Mapping[str, tuple[str | None, Callable[[], Content]]]) -> bool:
    """Write what each option gives to the place that the user chose, whole or not at all; returns whether all were.

    An unwritable file is reported on standard error, and does not stop the others. Nothing is written if an option
    raises an error.
    """
    contents = [(option, place, make()) for option, (place, make) in outputs.items() if place is not None]
    arrived = True
    for option, place, content in contents:
        if place == PRINT:
            continue
        try:
            if isinstance(content, str):
                write_text(place, content if content.endswith("\n") else content + "\n")
            else:
                write_file(place, content)
        except OSError as error:
            complain(f"{option}: cannot write {place}: {error.strerror or error}.")
            arrived = False
    for _, place, content in contents:  # last, since the pipe may be closed
        if place == PRINT and isinstance(content, str):
            say(content)
    return arrived


def say(text: str) -> None:
    """Print text on standard output; unknown characters are escaped, and a closed pipe is not an error."""
    _put(sys.stdout, _quiet(text))


def command(lines: Sequence[Annotation]) -> None:
    """Print commands for a runner of continuous integration, one per line."""
    _put(sys.stdout, "\n".join(map(str, lines)))


def show(report: Tables, **options: int) -> None:
    """Print a report's tables on standard output, in Markdown if rich is not installed."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:  # Markdown reads well enough without it
        say(report.to_markdown(**options))
        return
    console = Console()
    with console.capture() as captured:  # rich itself would end the process at a closed pipe, with status 1
        report.render(console, **options)
    say(captured.get())


def complain(message: str) -> None:
    """Print a message on standard error, after the command's name; what cannot be printed is left out."""
    from lightning_flip.reports.text import printable

    lines = (printable(line) for line in message.split("\n"))
    _put(sys.stderr, _quiet(f"lightning-flip: {chr(10).join(lines)}"))


def complain_of_a_bug() -> None:
    """Print the traceback of the exception that is being handled on standard error."""
    from lightning_flip.reports.text import printable

    _put(sys.stderr, _quiet("\n".join(map(printable, traceback.format_exc().split("\n")))))


def terminal_width(most: int = 100) -> int:
    """The width of lines of text, at least 40 columns."""
    return max(40, min(most, shutil.get_terminal_size((most, 24)).columns))


def _quiet(text: str) -> str:
    from lightning_flip.reports.text import without_commands

    return without_commands(text)


def _put(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    known = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(known if known.endswith("\n") else known + "\n")
        stream.flush()
    except OSError as error:
        # The interpreter flushes again when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise CommandError(f"cannot print: {error.strerror or error}.") from error
