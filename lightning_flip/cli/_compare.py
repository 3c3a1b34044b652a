"""``compare``: recorded runs in one table, or an old and a new model sample by sample."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from lightning_flip.cli._arguments import (
    add_prediction_arguments,
    check_join,
    is_update,
    join_options,
    parse_share,
    read_further,
    read_pair,
)
from lightning_flip.cli._outputs import PRINT, Status, check_outputs, deliver, show, told

if TYPE_CHECKING:
    from lightning_flip.reports.update.chain import ChainComparison
    from lightning_flip.reports.update.comparison import UpdateComparison

__all__ = ["add_compare"]

# Rows of a table, unless more flips are asked for.
_ROWS = 20
_BINS = 15
# What a chain does not take.
_NOT_OF_CHAINS = {
    "runs", "split", "csv", "accuracy_name", "bins", "old", "new", "floor", "slices", "shared_argmax",
}  # fmt: skip
_DESCRIPTION = """\
Of recorded runs: accuracy, flipping error (FE), relative flipping error (RFE), calibration error (ECE) and how well
low margins find wrong labels. Runs of one label share a row: mean and sample standard deviation.

Of an old and a new model's predictions on the same samples: accuracy, negative flip rate (NFR), positive flip rate and
what follows from them, with intervals; per class and per slice; the worst flips.

Of a chain of versions: what each update broke, and what flips back and forth.
"""
_EXAMPLES = """\
examples:
  lightning-flip compare plain=runs/a plain=runs/b FER=runs/c
  lightning-flip compare --old old.parquet --new new.parquet --slice site --worst 20 --json update.json
  lightning-flip compare --chain v1.parquet v2.parquet v3.parquet
"""


def add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="one table from recorded runs, or an old and a new model's predictions",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        usage="%(prog)s RUN [RUN ...] [options]\n       %(prog)s --old FILE --new FILE [options]\n"
        "       %(prog)s --chain FILE FILE FILE [FILE ...] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--markdown", metavar="FILE", help="write it as Markdown; - prints it")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and what a - asks for")
    bins = parser.add_argument(
        "--bins", metavar="N", type=_positive, help=f"bins of the calibration error (default: {_BINS})"
    )
    of_runs = _add_run_arguments(parser)
    of_updates = _add_update_arguments(parser)

    def run(arguments: argparse.Namespace) -> Status:
        try:
            if arguments.chain is not None:
                _check_chain(arguments, [bins, *of_runs, *of_updates])
                return _compare_chain(arguments)
            update = is_update(parser, arguments, of_runs, of_updates)
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
            "--chain",
            metavar="FILE",
            nargs="+",
            action="extend",
            help="predictions of three or more versions, the oldest first, in the place of --old and --new",
        ),
        report.add_argument(
            "--floor",
            metavar="FILE",
            nargs="+",
            action="extend",
            help="predictions of further seeds of the new model's recipe: the flips that chance alone makes",
        ),
        report.add_argument(
            "--worst",
            metavar="N",
            type=_count,
            help=f"list the N worst negative flips, or of a chain the samples that flip most often (default: {_ROWS})",
        ),
        report.add_argument(
            "--confidence",
            metavar="C",
            type=_parse_confidence,
            help="the chance that each interval covers (default: 95%%)",
        ),
        report.add_argument("--json", metavar="FILE", help="write every number as JSON; - prints it"),
    ]


def _compare_runs(arguments: argparse.Namespace) -> Status:
    """Read the runs, write the requested files, and otherwise print the table."""
    from lightning_flip.reports import compare_runs, parse_run

    try:
        runs = [parse_run(text) for text in arguments.runs]
        with told():
            comparison = compare_runs(
                runs, arguments.split or "val", arguments.bins or _BINS, accuracy_header=arguments.accuracy_name
            )
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    arrived = deliver(
        {
            "--csv": (arguments.csv, comparison.to_csv),
            "--markdown": (arguments.markdown, comparison.to_markdown),
        }
    )
    if PRINT not in (arguments.csv, arguments.markdown) and not arguments.quiet:
        show(comparison)
    return Status.PASS if arrived else Status.MISUSE


def _compare_update(arguments: argparse.Namespace) -> Status:
    """Compare the predictions, write the requested files, and otherwise print the tables."""
    from lightning_flip.reports.update.comparison import compare
    from lightning_flip.reports.update.floor import refuse_repeated_sources

    floor = arguments.floor or []
    worst, rows, confidence = _rows(arguments)
    try:
        check_join(arguments)
        check_outputs(_outputs(arguments), [arguments.old, arguments.new, *floor])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    with told():
        if floor:
            refuse_repeated_sources([arguments.old, arguments.new, *floor])
        old, new = read_pair(arguments)
        others = [read_further(arguments, path) for path in floor]
        comparison = compare(
            old,
            new,
            floor=others,
            worst=worst,
            confidence=confidence,
            n_bins=arguments.bins or _BINS,
            **join_options(arguments),
        )
    return _report(arguments, comparison, rows)


def _check_chain(arguments: argparse.Namespace, actions: Sequence[argparse.Action]) -> None:
    """Check that a chain has its versions, and no option of another comparison."""
    idle = [
        "/".join(action.option_strings) or str(action.metavar)
        for action in actions
        if action.dest in _NOT_OF_CHAINS and getattr(arguments, action.dest)
    ]
    if idle:
        raise argparse.ArgumentTypeError(f"{', '.join(idle)}: not with --chain")
    if len(arguments.chain) < 3:
        raise argparse.ArgumentTypeError(
            f"--chain needs at least three files, the oldest first, got {len(arguments.chain)}; compare two with --old"
            " and --new"
        )


def _compare_chain(arguments: argparse.Namespace) -> Status:
    """Compare the versions, write the requested files, and otherwise print the tables."""
    from lightning_flip.reports.update.chain import compare_chain

    worst, rows, confidence = _rows(arguments)
    arguments.old, arguments.new, *further = arguments.chain
    try:
        for one, other in pairwise(arguments.chain):
            if os.path.realpath(one) == os.path.realpath(other):
                raise ValueError(f"--chain has {one} twice in a row: a model has no flips against itself")
        check_join(arguments)
        check_outputs(_outputs(arguments), arguments.chain)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    options = join_options(arguments)
    del options["slices"], options["shared_argmax"]
    with told():
        versions = [*read_pair(arguments), *(read_further(arguments, path) for path in further)]
        comparison = compare_chain(versions, worst=worst, confidence=confidence, **options)
    return _report(arguments, comparison, rows)


def _report(arguments: argparse.Namespace, comparison: UpdateComparison | ChainComparison, rows: int) -> Status:
    from lightning_flip.reports.text import json_text

    arrived = deliver(
        {
            "--json": (arguments.json, partial(json_text, comparison.to_dict())),
            "--markdown": (arguments.markdown, partial(comparison.to_markdown, most_rows=rows)),
        }
    )
    if PRINT not in _outputs(arguments).values() and not arguments.quiet:
        show(comparison, most_rows=rows)
    return Status.PASS if arrived else Status.MISUSE


def _outputs(arguments: argparse.Namespace) -> dict[str, str | None]:
    return {"--json": arguments.json, "--markdown": arguments.markdown}


def _rows(arguments: argparse.Namespace) -> tuple[int, int, float]:
    """How many samples to list, how many rows a table has at most, and the level of intervals."""
    worst = _ROWS if arguments.worst is None else arguments.worst
    return worst, max(_ROWS, worst), 0.95 if arguments.confidence is None else arguments.confidence


def _parse_confidence(text: str) -> float:
    confidence = parse_share(text)
    if not 0 < confidence < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, such as 0.95 or 95%, got {text!r}")
    return confidence


def _positive(text: str) -> int:
    number = _count(text)
    if not number:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return number


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text!r}")
    return number
