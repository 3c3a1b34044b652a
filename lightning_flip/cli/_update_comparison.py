"""``compare --old FILE --new FILE``: an old and a new model, sample by sample."""

from __future__ import annotations

import argparse
import json

from lightning_flip.cli._arguments import (
    add_prediction_arguments,
    check_join,
    join_options,
    read_further,
    read_pair,
)
from lightning_flip.cli._failures import told
from lightning_flip.cli._outputs import PRINT, check_outputs, deliver, show
from lightning_flip.cli._status import Status

__all__ = ["add_update_arguments", "compare_update"]


# As many rows as a table has unless more flips are asked for.
_ROWS = 20


def add_update_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add the options that the comparison of an old and a new model has alone. Returns what was added.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> _ = add_update_arguments(parser)
        >>> parser.parse_args(["--old", "a.csv", "--new", "b.csv", "--floor", "c.csv", "d.csv"]).floor
        ['c.csv', 'd.csv']
    """
    actions = add_prediction_arguments(parser, required=False)
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


def compare_update(arguments: argparse.Namespace) -> Status:
    r"""Read and compare the predictions, write the files that were asked for, and print the tables otherwise.

    Returns PASS, or MISUSE where a file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> parser = argparse.ArgumentParser()
        >>> _ = add_update_arguments(parser), parser.add_argument("--markdown")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     old, new, report = (str(Path(folder, name)) for name in ("old.csv", "new.csv", "update.json"))
        ...     _ = Path(old).write_text("sample_id,target,pred\na,1,1\nb,0,0\n")
        ...     _ = Path(new).write_text("sample_id,target,pred\nb,0,1\na,1,1\n")
        ...     words = ["--old", old, "--new", new, "--json", report, "--markdown", report + ".md"]
        ...     status = compare_update(parser.parse_args(words))  # doctest: +ELLIPSIS
        ...     json.loads(Path(report).read_text())["rates"]["negative_flip_rate"]["value"]
        <BLANKLINE>
        ...
        0.5
    """
    from lightning_flip.reports.update.comparison import compare
    from lightning_flip.reports.update.noise_floor_joining import refuse_repeated_sources

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
    texts = []
    if arguments.json is not None:
        report = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        texts.append(("--json", arguments.json, report))
    if arguments.markdown is not None:
        texts.append(("--markdown", arguments.markdown, comparison.to_markdown(most_rows=rows)))
    arrived = deliver(texts)
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
