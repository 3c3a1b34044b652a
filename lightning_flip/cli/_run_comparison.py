"""``compare RUN ...``: one table from recorded runs."""

from __future__ import annotations

import argparse

from lightning_flip.cli._failures import told
from lightning_flip.cli._outputs import PRINT, deliver, show
from lightning_flip.cli._status import Status

__all__ = ["add_run_arguments", "compare_recorded_runs"]


def add_run_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add the options that a comparison of recorded runs has alone. Returns what was added.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> _ = add_run_arguments(parser)
        >>> parser.parse_args(["plain=runs/a", "--split", "test"]).runs
        ['plain=runs/a']
    """
    runs = parser.add_argument_group("recorded runs")
    return [
        runs.add_argument(
            "runs", nargs="*", metavar="RUN", help="LABEL=FOLDER, or a folder alone, whose name is then the label"
        ),
        runs.add_argument("--split", help="recorded split to compare on (default: val)"),
        runs.add_argument("--csv", metavar="FILE", help="write the table as CSV; - prints it"),
        runs.add_argument(
            "--accuracy-name", metavar="NAME", help='header of the accuracy column (default: the split and "acc")'
        ),
    ]


def compare_recorded_runs(arguments: argparse.Namespace) -> Status:
    """Read the runs, write the files that were asked for, and print the table where nothing else is printed.

    Returns PASS, or MISUSE where a file cannot be written.

    Example:
        >>> from lightning_flip.cli._failures import CommandError
        >>> parser = argparse.ArgumentParser()
        >>> _ = add_run_arguments(parser), parser.add_argument("--markdown")
        >>> try:
        ...     compare_recorded_runs(parser.parse_args(["no/such/run"]))
        ... except CommandError as error:
        ...     print("run.json" in str(error))
        True
    """
    from lightning_flip.reports import compare_runs, parse_run

    try:
        runs = [parse_run(text) for text in arguments.runs]
        with told():
            comparison = compare_runs(runs, arguments.split or "val", accuracy_header=arguments.accuracy_name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    texts = []
    if arguments.csv is not None:
        texts.append(("--csv", arguments.csv, comparison.to_csv()))
    if arguments.markdown is not None:
        texts.append(("--markdown", arguments.markdown, comparison.to_markdown()))
    arrived = deliver(texts)
    if PRINT not in (arguments.csv, arguments.markdown):
        show(comparison)
    return Status.PASS if arrived else Status.MISUSE
