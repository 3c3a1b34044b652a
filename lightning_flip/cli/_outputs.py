"""What a subcommand says and writes: files whole or not at all, and never a traceback for a closed pipe."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from lightning_flip.cli._failures import CommandError
from lightning_flip.stores.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PRINT", "check_outputs", "complain", "deliver", "say", "show", "terminal_width"]

PRINT = "-"


class Tables(Protocol):
    """A report that rich can print, and that has a form in Markdown."""

    def to_markdown(self, decimals: int = ...) -> str:
        """The tables in Markdown."""
        ...

    def render(self, console: Console, decimals: int = ...) -> None:
        """Print the tables on a rich console."""
        ...


def check_outputs(outputs: Mapping[str, str | None], inputs: Sequence[str]) -> None:
    """Check before any work that the places to write to do not collide.

    Example:
        >>> check_outputs({"--json": "-", "--markdown": None}, ["old.parquet"])
        >>> check_outputs({"--json": "old.parquet"}, ["old.parquet"])
        Traceback (most recent call last):
            ...
        ValueError: --json would overwrite old.parquet, which is read; name another file.
    """
    read = {os.path.realpath(path) for path in inputs}
    taken: dict[str, str] = {}
    for option, place in outputs.items():
        if place is None:
            continue
        if not place:
            raise ValueError(f"{option} must name a file, or be - to print, got ''.")
        real = place if place == PRINT else os.path.realpath(place)
        if real in taken:
            what = "be printed at a time" if place == PRINT else f"go to {place}"
            raise ValueError(f"only one of {taken[real]} and {option} can {what}; name another file.")
        if real in read:
            raise ValueError(f"{option} would overwrite {place}, which is read; name another file.")
        if place != PRINT and (os.path.isdir(real) or place.endswith(("/", os.sep))):
            raise ValueError(f"{option} must name a file, but {place} is a folder.")
        taken[real] = option


def deliver(texts: Sequence[tuple[str, str, str]]) -> bool:
    """Write finished texts to their places, each file whole or not at all.

    A file that cannot be written is told on standard error, and the others are written all the same.

    Returns whether all of them arrived.

    Example:
        >>> deliver([("--json", "-", "{}")])
        {}
        True
    """
    arrived = True
    for option, place, text in texts:
        if place == PRINT:
            continue
        try:
            write_text(place, text if text.endswith("\n") else text + "\n")
        except OSError as error:
            complain(f"{option}: cannot write {place}: {error.strerror or error}.")
            arrived = False
    for _, place, text in texts:  # last, since whoever reads them may stop listening
        if place == PRINT:
            say(text)
    return arrived


def say(text: str) -> None:
    """Print text on standard output; characters that it does not know are escaped, and a closed pipe is not an error.

    Example:
        >>> say("verdict: pass")
        verdict: pass
    """
    _put(sys.stdout, text)


def show(report: Tables, **options: int) -> None:
    """Print a report's tables on standard output, in Markdown where rich is not installed.

    Example:
        >>> class Nothing:
        ...     def to_markdown(self):
        ...         return "| a |"
        ...     def render(self, console):
        ...         console.print("a")
        >>> show(Nothing())
        a
    """
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
    """Print a message on standard error, after the command's name.

    Example:
        >>> complain("no such file")
    """
    _put(sys.stderr, f"lightning-flip: {message}")


def terminal_width(most: int = 100) -> int:
    """Say how many columns a line of text should have at most. Returns columns, at least 40.

    Example:
        >>> 40 <= terminal_width() <= 100
        True
    """
    return max(40, min(most, shutil.get_terminal_size((most, 24)).columns))


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
