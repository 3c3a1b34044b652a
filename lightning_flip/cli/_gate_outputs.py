"""What a gate writes and prints: its verdict, or the error that kept it from one."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_flip.cli._github import add_to_summary, error_annotation, gate_annotations
from lightning_flip.cli._outputs import (
    PRINT,
    CommandError,
    CommandParser,
    UsageError,
    check_outputs,
    command,
    complain,
    deliver,
    say,
    terminal_width,
    told,
)
from lightning_flip.stores.files import write_text

if TYPE_CHECKING:
    from lightning_flip.reports import GateResult, JoinedPredictions
    from lightning_flip.reports.update.counts import WorstFlip, WorstFlips

__all__ = ["add_output_arguments", "check_gate_outputs", "deliver_gate", "report_gate_error"]

# Files that hold the verdict, or the error in its place.
_REPORTS = ("--junit", "--json", "--markdown")
# As many as a terminal shows beside the verdict; `compare --worst` lists more.
_FLIPS_SHOWN = 5


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the verdict goes."""
    outputs = parser.add_argument_group("output", "Beside the report on the terminal; - prints it instead.")
    outputs.add_argument(
        "--junit", metavar="FILE", help="JUnit XML, one test case per limit and group, for continuous integration"
    )
    outputs.add_argument("--json", metavar="FILE", help="every number and every name, as JSON")
    outputs.add_argument("--markdown", metavar="FILE", help="for the comment on a pull request")
    outputs.add_argument(
        "--flips", metavar="FILE", help="every negative and positive flip, one per row: .csv, .parquet or .jsonl"
    )
    outputs.add_argument(
        "--github", action="store_true", help="print annotations for GitHub Actions, and add the report to its summary"
    )
    outputs.add_argument("--quiet", action="store_true", help="print nothing but errors and what a - asks for")


def check_gate_outputs(arguments: argparse.Namespace, inputs: Sequence[str]) -> None:
    """Check before any work that the files to write do not collide, and that --flips has a known ending."""
    from lightning_flip.reports.update.flip_rows import flip_format

    outputs = {option: getattr(arguments, option[2:]) for option in (*_REPORTS, "--flips")}
    check_outputs(outputs, inputs, binary=("--flips",))
    if arguments.flips is not None:
        try:
            flip_format(arguments.flips)
        except ValueError as error:
            raise ValueError(f"--flips: {error}") from error


def deliver_gate(arguments: argparse.Namespace, joined: JoinedPredictions, result: GateResult) -> bool:
    """Write the requested files, and print the report; returns whether all of them could be written."""
    from lightning_flip.reports import gate_json, gate_junit, gate_markdown, gate_text
    from lightning_flip.reports.update.counts import worst_flips
    from lightning_flip.reports.update.flip_rows import flip_format, flip_writer

    writers = {"--junit": gate_junit, "--json": gate_json, "--markdown": gate_markdown}
    arrived = deliver(
        {option: (getattr(arguments, option[2:]), partial(write, result)) for option, write in writers.items()}
        | {"--flips": (arguments.flips, lambda: flip_writer(joined, flip_format(arguments.flips)))}
    )
    if arguments.github:
        arrived = _add_to_summary(gate_markdown(result)) and arrived
        command(gate_annotations(result))
    if PRINT in (arguments.junit, arguments.json, arguments.markdown):
        if not arguments.quiet:
            complain(f"{result.status}: {result.old_name} -> {result.new_name}")
    elif not arguments.quiet:
        say("\n".join([gate_text(result, terminal_width()), *_flip_lines(worst_flips(joined, _FLIPS_SHOWN))]))
    return arrived


def report_gate_error(words: Sequence[str], message: str) -> None:
    """Replace the output files that a command line names by ones that state an error, so that no old verdict stays.

    A table cannot state an error: the file of --flips is removed. No file is touched if the words do not tell which
    files these are, or if one of them is named by another word, too, or by the policy, and so may be an input.
    """
    from lightning_flip.reports.gating.output import error_json, error_junit, error_markdown

    writers = {"--junit": error_junit, "--json": error_json, "--markdown": error_markdown}
    parser = CommandParser(add_help=False, allow_abbrev=False)
    for option in (*writers, "--flips"):
        parser.add_argument(option)
    parser.add_argument("--github", action="store_true")
    parser.add_argument("--policy")
    try:
        given, others = parser.parse_known_args(words)
        places = {option: getattr(given, option[2:]) for option in (*writers, "--flips")}
        inputs = [word.rpartition("=")[2] for word in others]
        if given.policy:
            inputs += [given.policy, *_files_of(given.policy, [place for place in places.values() if place])]
        check_outputs(places, inputs, binary=("--flips",))
    except (UsageError, ValueError):
        return
    flips = places.pop("--flips")
    if flips is not None and os.path.isfile(flips):
        with contextlib.suppress(OSError):
            os.remove(os.path.realpath(flips))
    for option, place in places.items():
        if place not in (None, PRINT):
            with contextlib.suppress(OSError):  # an output that cannot be written may be the error
                write_text(place, writers[option](message))
    if given.github:
        _add_to_summary(error_markdown(message))
        command([error_annotation(message)])
    for option, place in places.items():
        if place == PRINT:
            say(writers[option](message))


def _files_of(policy: str, outputs: Sequence[str]) -> list[str]:
    """The files that a policy names; if it cannot be read, those outputs that it mentions outside of comments."""
    from lightning_flip.reports.gating.policy import read_policy

    try:
        with told():
            return read_policy(policy).files
    except CommandError:
        with contextlib.suppress(OSError):
            text = re.sub(r"#.*", "", Path(policy).read_bytes().decode("utf-8", "replace"))
            return [place for place in outputs if os.path.basename(place) in text]
    return []


def _add_to_summary(markdown: str) -> bool:
    try:
        add_to_summary(markdown)
    except OSError as error:
        complain(f"--github: cannot write the step summary, {error.filename}: {error.strerror or error}.")
        return False
    return True


def _flip_lines(worst: WorstFlips) -> list[str]:
    """A heading and one line per flip; nothing if there is no flip."""
    from lightning_flip.reports.text import quote

    if not worst.flips:
        return []
    named = [(quote(flip.sample_id), flip) for flip in worst.flips]
    width = max(len(name) for name, _ in named)
    heading = f"worst {len(worst.flips):,} of {worst.total:,} negative flips, by {worst.order}:"
    return [heading, *(f"  {name:{width}}  {_change(flip)}" for name, flip in named)]


def _change(flip: WorstFlip) -> str:
    from lightning_flip.reports.text import quote

    sides = ((flip.right, flip.old_confidence), (flip.wrong, flip.new_confidence))
    return " -> ".join(
        quote(str(label)) + ("" if confidence is None else f" ({confidence:.3f})") for label, confidence in sides
    )
