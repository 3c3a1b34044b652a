"""``suspects``: the labels of a recorded run that are probably wrong."""

from __future__ import annotations

import argparse

from lightning_flip.cli._exports import BINARY, add_export_options, export_contents, export_places
from lightning_flip.cli._outputs import PRINT, CommandError, Status, check_outputs, deliver, say, show, told
from lightning_flip.cli._relabel import keep_reviews

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
  lightning-flip suspects runs/a --audit 100 --csv audit.csv
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
    parser.add_argument(
        "--audit",
        metavar="N",
        type=_count,
        help="draw N samples at random along the ranking instead, for a review that tells how many labels are wrong;"
        " `relabel` counts them",
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="seed of the audit (default: 0)")
    add_export_options(parser)

    def run(arguments: argparse.Namespace) -> Status:
        try:
            places = export_places(arguments)
            check_outputs({"--csv": arguments.csv, **places}, [], BINARY)
            if arguments.audit is not None and arguments.csv is None:
                raise ValueError("--audit needs --csv FILE, the list that is reviewed.")
            others = [option for option, place in places.items() if place is not None]
            if arguments.audit is not None and others:
                raise ValueError(f"--audit hides suggestions from reviewers, and {others[0]} shows them; leave it out.")
        except ValueError as error:
            parser.error(str(error))
        keep_reviews("--csv", arguments.csv)
        return _suspects(arguments) if arguments.audit is None else _audit(arguments)

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


def _audit(arguments: argparse.Namespace) -> Status:
    """Say what that many looks can tell, and write the list of samples to look at."""
    from lightning_flip.reports.audit import draw_audit
    from lightning_flip.stores import read_history

    with told():
        scores = read_history(arguments.folder).label_scores(arguments.split)
        try:
            drawn = draw_audit(scores, arguments.audit, arguments.seed)
        except ValueError as error:
            raise CommandError(f"--audit: {error}") from error
    if arguments.csv != PRINT:
        say(drawn.plan())
    return Status.PASS if deliver({"--csv": (arguments.csv, drawn.to_csv)}) else Status.MISUSE


def _count(text: str) -> int:
    """A whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return number
