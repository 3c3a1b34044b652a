"""``relabel``: corrected labels from a reviewed list, and how many labels were really wrong."""

from __future__ import annotations

import argparse

from lightning_flip.cli._outputs import PRINT, CommandError, Status, check_outputs, deliver, say, told

__all__ = ["add_relabel", "keep_reviews"]

_DESCRIPTION = """\
Makes corrected labels of a list that a person reviewed: a CSV file of `suspects`, or an export of Label Studio (JSON).
In the CSV file, `review` is right, wrong or unsure, and `corrected_label` the number or name of the right class; if it
is empty, the suggestion counts. The file of an audit also tells how many labels are wrong among all samples.
"""
_EXAMPLES = """\
examples:
  lightning-flip relabel runs/a check.csv --out labels.csv
  lightning-flip relabel runs/a audit.csv
"""


def add_relabel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "relabel",
        help="corrected labels from a reviewed list of suspects",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="RUN", help="folder of the run that the list was made from")
    parser.add_argument("list", metavar="LIST", help="the reviewed list")
    parser.add_argument("--split", default="train", help="split that the list is about (default: train)")
    parser.add_argument(
        "--out", metavar="FILE", help="write the corrected labels as CSV, for CorrectedLabels; - prints them"
    )

    def run(arguments: argparse.Namespace) -> Status:
        try:
            check_outputs({"--out": arguments.out}, [arguments.list])
        except ValueError as error:
            parser.error(str(error))
        keep_reviews("--out", arguments.out)
        return _relabel(arguments)

    parser.set_defaults(run=run, misused=parser.error)


def keep_reviews(option: str, place: str | None) -> None:
    """Refuse to overwrite a list in which somebody filled in reviews."""
    from lightning_flip.reports.review import has_reviews

    if place is not None and place != PRINT and has_reviews(place):
        raise CommandError(f"{option}: {place} has reviews in it, and is not overwritten. Name another file.")


def _relabel(arguments: argparse.Namespace) -> Status:
    """Compare the list with its run, write the corrected labels, and say what was found."""
    from lightning_flip.reports.review import check_review, read_review
    from lightning_flip.stores import read_history
    from lightning_flip.stores.corrections import corrections_text
    from lightning_flip.stores.errors import ReviewError

    with told(ReviewError):
        review = check_review(read_history(arguments.folder), read_review(arguments.list), arguments.split)
        text = "" if arguments.out is None else corrections_text(review.corrections())
    arrived = deliver({"--out": (arguments.out, lambda: text)})
    if arguments.out != PRINT:
        for sentence in review.sentences():
            say(sentence)
        if arguments.out is not None and arrived:
            suggested = f", {review.from_suggestion:,} of them as suggested" if review.from_suggestion else ""
            say(f"{arguments.out}: {review.wrong:,} corrected labels{suggested}.")
    return Status.PASS if arrived else Status.MISUSE
