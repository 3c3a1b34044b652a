"""``compare``: recorded runs in one table, or an old and a new model sample by sample."""

from __future__ import annotations

import argparse
from functools import partial

from lightning_flip.cli._arguments import (
    add_prediction_arguments,
    check_join,
    is_update,
    join_options,
    read_further,
    read_pair,
)
from lightning_flip.cli._outputs import PRINT, Status, check_outputs, deliver, show, told

__all__ = ["add_compare"]

# Rows of a table, unless more flips are asked for.
_ROWS = 20
_DESCRIPTION = """\
Of recorded runs: accuracy, flipping error (FE), relative flipping error (RFE), calibration error (ECE) and how well
low margins find wrong labels. Runs of one label share a row: mean and sample standard deviation.

Of an old and a new model's predictions on the same samples: accuracy, negative flip rate (NFR), positive flip rate and
what follows from them, with intervals; per class and per slice; the worst flips.
"""
_EXAMPLES = """\
examples:
  lightning-flip compare plain=runs/a plain=runs/b FER=runs/c
  lightning-flip compare --old old.parquet --new new.parquet --slice site --worst 20 --json update.json
"""


def add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="one table from recorded runs, or an old and a new model's predictions",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        usage="%(prog)s RUN [RUN ...] [options]\n       %(prog)s --old FILE --new FILE [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--markdown", metavar="FILE", help="write it as Markdown; - prints it")
    of_runs = _add_run_arguments(parser)
    of_updates = _add_update_arguments(parser)

    def run(arguments: argparse.Namespace) -> Status:
        update = is_update(parser, arguments, of_runs, of_updates)
        try:
            return _compare_update(arguments) if update else _compare_runs(arguments)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))

    parser.set_defaults(run=run, misused=parser.error)


def _add_run_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add the options for recorded runs."""
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


def _add_update_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add the options for an old and a new model."""
    actions = add_prediction_arguments(parser)
    report = parser.add_argument_group("report on predictions")
    return [
        *actions,
        report.add_argument(
            "--floor",
            metavar="FILE",
            nargs="+",
            action="extend",
            help="predictions of models that are as good as the new one, such as its other seeds: the flips that "
            "chance alone makes",
        ),
        report.add_argument(
            "--worst", metavar="N", type=_count, help=f"list the N worst negative flips (default: {_ROWS})"
        ),
        report.add_argument("--json", metavar="FILE", help="write every number as JSON; - prints it"),
    ]


def _compare_runs(arguments: argparse.Namespace) -> Status:
    """Read the runs, write the requested files, and otherwise print the table."""
    from lightning_flip.reports import compare_runs, parse_run

    try:
        runs = [parse_run(text) for text in arguments.runs]
        with told():
            comparison = compare_runs(runs, arguments.split or "val", accuracy_header=arguments.accuracy_name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    arrived = deliver(
        {
            "--csv": (arguments.csv, comparison.to_csv),
            "--markdown": (arguments.markdown, comparison.to_markdown),
        }
    )
    if PRINT not in (arguments.csv, arguments.markdown):
        show(comparison)
    return Status.PASS if arrived else Status.MISUSE


def _compare_update(arguments: argparse.Namespace) -> Status:
    """Compare the predictions, write the requested files, and otherwise print the tables."""
    from lightning_flip.reports.text import json_text
    from lightning_flip.reports.update.comparison import compare
    from lightning_flip.reports.update.floor import refuse_repeated_sources

    floor = arguments.floor or []
    worst = _ROWS if arguments.worst is None else arguments.worst
    rows = max(_ROWS, worst)
    try:
        check_join(arguments)
        outputs = {"--json": arguments.json, "--markdown": arguments.markdown}
        check_outputs(outputs, [arguments.old, arguments.new, *floor])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    with told():
        if floor:
            refuse_repeated_sources([arguments.new, *floor])
        old, new = read_pair(arguments)
        others = [read_further(arguments, path) for path in floor]
        comparison = compare(old, new, floor=others, worst=worst, **join_options(arguments))
    as_json = partial(json_text, comparison.to_dict())
    arrived = deliver(
        {
            "--json": (arguments.json, as_json),
            "--markdown": (arguments.markdown, partial(comparison.to_markdown, most_rows=rows)),
        }
    )
    if PRINT not in outputs.values():
        show(comparison, most_rows=rows)
    return Status.PASS if arrived else Status.MISUSE


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text!r}")
    return number
