"""``suspects``: the labels of a recorded run that are probably wrong."""

from __future__ import annotations

import argparse

from lightning_flip.cli._exports import BINARY, add_export_options, export_contents, export_places
from lightning_flip.cli._outputs import PRINT, Status, check_outputs, deliver, show, told

__all__ = ["add_suspects"]

_DESCRIPTION = """\
Which labels are probably wrong, what they probably are, and how many. Each sample is scored by how much more probable
its label was than the best other class, over the epochs that did well on the validation split: 0 is wrong, 1 is right.
"""
_EXAMPLES = """\
examples:
  lightning-flip suspects runs/a --top 50
  lightning-flip suspects runs/a --top 500 --csv check.csv
  lightning-flip suspects runs/a --label-studio tasks.json --image-root "/data/local-files/?d=birds"
"""
_SCORES = ("label_score", "mislabelled", "confidence", "forgotten", "flipped")


def add_suspects(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "suspects",
        help="the labels of a recorded run that are probably wrong",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="RUN", help="folder of the run")
    parser.add_argument("--split", default="train", help="recorded split (default: train)")
    parser.add_argument("--top", metavar="N", type=_count, default=20, help="how many samples (default: 20)")
    parser.add_argument(
        "--by", choices=_SCORES, default="label_score", help="what they are ranked by (default: label_score)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write them with every column as CSV; - prints it")
    add_export_options(parser)

    def run(arguments: argparse.Namespace) -> Status:
        try:
            check_outputs({"--csv": arguments.csv, **export_places(arguments)}, [], BINARY)
        except ValueError as error:
            parser.error(str(error))
        return _suspects(arguments)

    parser.set_defaults(run=run, misused=parser.error)


def _suspects(arguments: argparse.Namespace) -> Status:
    """Rank the samples, write the requested files, and print the table unless a file is printed."""
    from lightning_flip.reports.exports import ExportError
    from lightning_flip.reports.suspects import find_suspects
    from lightning_flip.stores import read_history

    with told(ExportError):
        history = read_history(arguments.folder)
        found = find_suspects(history, arguments.top, arguments.split, arguments.by)
        outputs = {"--csv": (arguments.csv, found.to_csv), **export_contents(arguments, history, found)}
        arrived = deliver(outputs)
    if all(place != PRINT for place, _ in outputs.values()):
        show(found)
    return Status.PASS if arrived else Status.MISUSE


def _count(text: str) -> int:
    """A whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return number
