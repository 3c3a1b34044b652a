"""``gate``: may the new model replace the old one?"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_flip.cli._arguments import (
    add_prediction_arguments,
    check_join,
    join_options,
    parse_error,
    parse_limit,
    parse_share,
    read_pair,
)
from lightning_flip.cli._outputs import (
    PRINT,
    CommandParser,
    Status,
    UsageError,
    check_outputs,
    complain,
    deliver,
    say,
    terminal_width,
    told,
)
from lightning_flip.stores.errors import PredictionError
from lightning_flip.stores.files import write_text

if TYPE_CHECKING:
    from lightning_flip.reports.update.counts import WorstFlip, WorstFlips

__all__ = ["add_gate", "report_gate_error"]

_DESCRIPTION = """\
Decide whether a new model may replace the old one. A negative flip is a sample that the old model has right and the
new one wrong; each limit on their rate (NFR) is decided on an exact one-sided bound:

  pass          the upper bound is within the limit
  fail          the lower bound is over the limit
  inconclusive  neither: too few samples, and the report says how many would decide
"""
_EXAMPLES = """\
exit status: 0 pass, 1 fail, 2 wrong usage or unreadable input, 3 inconclusive. With status 2 the output files state
the error, so that no earlier verdict stays.

example:
  lightning-flip gate --old old.parquet --new new.parquet --max-nfr 1% --must-not-flip golden_ids.txt --junit gate.xml
"""
# As many as a terminal shows beside the verdict; `compare --worst` lists more.
_FLIPS_SHOWN = 5


def add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "gate",
        help="decide whether a new model may replace the old one",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        usage="%(prog)s --old FILE --new FILE LIMIT [LIMIT ...] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    limits = parser.add_argument_group(
        "limits", "LIMIT is at least one of these; a rate is a share, 0.01, or a percentage, 1%."
    )
    limits.add_argument("--max-nfr", metavar="RATE", type=parse_limit, help="largest NFR over all samples")
    limits.add_argument(
        "--max-nfr-per-class", metavar="RATE", type=parse_limit, help="largest NFR among the samples of each class"
    )
    limits.add_argument(
        "--max-nfr-per-slice",
        metavar="RATE",
        type=parse_limit,
        help="largest NFR among the samples of each value of the --slice columns",
    )
    limits.add_argument(
        "--must-not-flip", metavar="FILE", help="ids that must not be negative flips: one per line, or a .json list"
    )
    limits.add_argument(
        "--min-old-accuracy",
        metavar="RATE",
        type=parse_share,
        help="smallest accuracy of the old model: what it has wrong cannot flip",
    )
    limits.add_argument(
        "--error",
        metavar="CHANCE",
        type=parse_error,
        default=0.05,
        help="chance of each wrong decision that the bounds allow (default: %(default)s)",
    )
    add_prediction_arguments(parser, required=True)
    outputs = parser.add_argument_group("output", "Beside the report on the terminal; - prints it instead.")
    outputs.add_argument(
        "--junit", metavar="FILE", help="JUnit XML, one test case per limit, for continuous integration"
    )
    outputs.add_argument("--json", metavar="FILE", help="every number and every name, as JSON")
    outputs.add_argument("--markdown", metavar="FILE", help="for the comment on a pull request")

    def run(arguments: argparse.Namespace) -> Status:
        try:
            _check(arguments)
        except ValueError as error:
            parser.error(str(error))
        return _gate_update(arguments)

    parser.set_defaults(run=run, misused=parser.error)


def _gate_update(arguments: argparse.Namespace) -> Status:
    """Decide, write the requested files, and print the report; MISUSE if a file cannot be written."""
    from lightning_flip.reports import gate, gate_json, gate_junit, gate_markdown, gate_text, join_predictions
    from lightning_flip.reports.update.counts import worst_flips

    with told():
        golden = None if arguments.must_not_flip is None else _read_golden_ids(arguments.must_not_flip)
        joined = join_predictions(*read_pair(arguments), **join_options(arguments))
    with told(ValueError):
        result = gate(
            joined,
            max_nfr=arguments.max_nfr,
            max_nfr_per_class=arguments.max_nfr_per_class,
            max_nfr_per_slice=arguments.max_nfr_per_slice,
            must_not_flip=golden,
            min_old_accuracy=arguments.min_old_accuracy,
            error=arguments.error,
        )
        worst = worst_flips(joined, _FLIPS_SHOWN)
    arrived = deliver(
        {
            "--junit": (arguments.junit, partial(gate_junit, result)),
            "--json": (arguments.json, partial(gate_json, result)),
            "--markdown": (arguments.markdown, partial(gate_markdown, result)),
        }
    )
    if PRINT in (arguments.junit, arguments.json, arguments.markdown):
        complain(f"{result.status}: {result.old_name} -> {result.new_name}")
    else:
        say("\n".join([gate_text(result, terminal_width()), *_flip_lines(worst)]))
    return Status(result.exit_code) if arrived else Status.MISUSE


def report_gate_error(words: Sequence[str], message: str) -> None:
    """Replace the output files that a command line names by ones that state an error, so that no old verdict stays.

    Nothing is written if the words do not tell which files these are, or if one of them would overwrite an input.
    """
    from lightning_flip.reports.gating.output import error_json, error_junit, error_markdown

    parser = CommandParser(add_help=False, allow_abbrev=False)
    writers = {"--junit": error_junit, "--json": error_json, "--markdown": error_markdown}
    for option in (*writers, "--old", "--new", "--must-not-flip"):
        parser.add_argument(option)
    try:
        given = {
            f"--{name.replace('_', '-')}": value for name, value in vars(parser.parse_known_args(words)[0]).items()
        }
        outputs = {option: given[option] for option in writers}
        check_outputs(outputs, [value for option, value in given.items() if option not in writers and value])
    except (UsageError, ValueError):
        return
    for option, place in outputs.items():
        if place == PRINT:
            say(writers[option](message))
        elif place is not None:
            with contextlib.suppress(OSError):  # an output that cannot be written may be the error
                write_text(place, writers[option](message))


def _check(arguments: argparse.Namespace) -> None:
    limits = ("max_nfr", "max_nfr_per_class", "max_nfr_per_slice", "must_not_flip", "min_old_accuracy")
    if all(getattr(arguments, limit) is None for limit in limits):
        names = ", ".join(f"--{limit.replace('_', '-')}" for limit in limits)
        raise ValueError(f"nothing to decide on: give at least one limit ({names})")
    if arguments.max_nfr_per_slice is not None and not arguments.slices:
        raise ValueError("--max-nfr-per-slice needs --slice COLUMN, which says what the slices are")
    if arguments.slices and arguments.max_nfr_per_slice is None:
        raise ValueError("--slice needs --max-nfr-per-slice RATE, the limit on the slices")
    check_join(arguments)
    outputs = {f"--{option}": getattr(arguments, option) for option in ("junit", "json", "markdown")}
    inputs = [arguments.old, arguments.new, arguments.must_not_flip]
    check_outputs(outputs, [path for path in inputs if path is not None])


def _read_golden_ids(path: str) -> list[str]:
    """Read ids from a text file with one id per line, or from a JSON file with one list; each id once, in that order.

    A line is an id as it is, blanks included; empty lines are left out. An id with a line break needs JSON.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PredictionError(f"{path} must be text in UTF-8, got {error.reason} at byte {error.start}.") from error
    if Path(path).suffix.lower() == ".json":
        ids = _parse_list(text, path)
    else:
        # Not splitlines, which would also break an id at a form feed or a Unicode separator.
        ids = [line.removesuffix("\r") for line in text.split("\n")]
    unique = list(dict.fromkeys(name for name in ids if name))
    if not unique:
        raise PredictionError(f"{path} must name at least one sample, got none. Omit the option if none is special.")
    return unique


def _parse_list(text: str, path: str) -> list[str]:
    expected = f"{path} must hold one JSON list of ids (text or whole numbers)"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PredictionError(f"{expected}, got no JSON: {error}.") from error
    if not isinstance(values, list):
        raise PredictionError(f"{expected}, got {type(values).__name__}.")
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise PredictionError(f"{expected}, got {value!r:.80} in it.")
    return [str(value) for value in values]


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
