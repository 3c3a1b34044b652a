"""``report``: recorded runs, or an old and a new model, as a web page."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from lightning_flip.cli._arguments import (
    add_prediction_arguments,
    check_join,
    is_update,
    join_options,
    parse_limit,
    read_further,
    read_pair,
)
from lightning_flip.cli._outputs import CommandError, Status, check_outputs, say, told

__all__ = ["add_report"]

_MOST_PICTURES = 600
_DESCRIPTION = """\
Of a recorded run: which labels look wrong, with the course of each sample, the dataset map, which classes flip, and
what was forgotten. Of several runs: their numbers side by side. Of an old and a new model's predictions: what breaks.

The page is one file that needs no server and loads nothing. With --out naming a folder, style, script and pictures are
files beside it, for viewers that forbid content within the page.
"""
_EXAMPLES = """\
examples:
  lightning-flip report runs/a --out report.html
  lightning-flip report runs/a --out report.html --images data/train
  lightning-flip report plain=runs/a FER=runs/b --out compare.html
  lightning-flip report --old old.parquet --new new.parquet --out update.html
"""


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "report",
        help="recorded runs, or an old and a new model, as a web page",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        usage="%(prog)s RUN [RUN ...] --out FILE [options]\n       %(prog)s --old FILE --new FILE --out FILE [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", metavar="FILE", required=True, help="page to write, ending in .html; or a folder for several files"
    )
    parser.add_argument("--title", help="heading of the page (default: the run's label)")
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="pictures: a folder that sample ids are paths in; for a run, also the class path of a dataset that is "
        "made without arguments, such as mydata.TrainSet",
    )
    parser.add_argument("--redact-ids", action="store_true", help="leave out the ids of samples")
    of_runs = _add_run_arguments(parser)
    of_updates = _add_update_arguments(parser)

    def run(arguments: argparse.Namespace) -> Status:
        update = is_update(parser, arguments, of_runs, of_updates)
        try:
            return _report_update(arguments) if update else _report_runs(arguments)
        except ValueError as error:
            parser.error(str(error))

    parser.set_defaults(run=run, misused=parser.error)


def _add_run_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add the options for recorded runs."""
    runs = parser.add_argument_group("recorded runs")
    return [
        runs.add_argument(
            "runs", nargs="*", metavar="RUN", help="LABEL=FOLDER, or a folder alone, whose name is then the label"
        ),
        runs.add_argument("--split", default="val", help="recorded split whose flips are shown (default: val)"),
        runs.add_argument(
            "--train-split", default="train", help="recorded split whose labels are judged (default: train)"
        ),
        runs.add_argument(
            "--text", metavar="FILE/COLUMN", help="texts in the place of pictures, from a CSV or Parquet file"
        ),
        runs.add_argument(
            "--top",
            metavar="N",
            type=_pictures,
            default=_MOST_PICTURES,
            help=f"pictures of the N worst samples (default and most: {_MOST_PICTURES})",
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
            help="predictions of further seeds of the new model's recipe: the flips that chance alone makes",
        ),
        report.add_argument("--max-nfr", metavar="RATE", type=parse_limit, help="show the verdict of a gate, too"),
    ]


def _report_runs(arguments: argparse.Namespace) -> Status:
    """Write the page of recorded runs."""
    from lightning_flip.reports import parse_run, write_report

    runs = [parse_run(text) for text in arguments.runs]
    with told(FileExistsError):
        written = write_report(
            runs,
            arguments.out,
            split=arguments.split,
            train_split=arguments.train_split,
            images=None if arguments.images is None else _images(arguments.images),
            text=arguments.text,
            top=arguments.top,
            redact_ids=arguments.redact_ids,
            title=arguments.title,
        )
    say(f"Wrote {written}.")
    return Status.PASS


def _report_update(arguments: argparse.Namespace) -> Status:
    """Write the page of an old and a new model."""
    from lightning_flip.reports import write_update_report
    from lightning_flip.reports.update.floor import refuse_repeated_sources
    from lightning_flip.stores.predictions.sources import reads_file

    floor = arguments.floor or []
    check_join(arguments)
    inputs = [arguments.old, arguments.new, *floor]
    if arguments.out.endswith((".html", ".htm")):
        check_outputs({"--out": arguments.out}, inputs)
    elif any(reads_file(place, arguments.out) for place in inputs):
        raise ValueError(f"--out would put files into {arguments.out}, which is read; name another folder.")
    with told(FileExistsError):
        if floor:
            refuse_repeated_sources([arguments.old, arguments.new, *floor])
        old, new = read_pair(arguments)
        others = [read_further(arguments, path) for path in floor]
        written = write_update_report(
            old,
            new,
            arguments.out,
            max_nfr=arguments.max_nfr,
            images=arguments.images,
            redact_ids=arguments.redact_ids,
            title=arguments.title,
            floor=others,
            **join_options(arguments),
        )
    say(f"Wrote {written}.")
    return Status.PASS


def _images(given: str) -> Any:
    """A folder as it is; else the dataset of a class path."""
    import os

    if os.path.isdir(given):
        return given
    module, _, name = given.rpartition(".")
    parts = [*module.split("."), name]
    if not module or not all(part.isidentifier() for part in parts):
        raise CommandError(f"--images must name a folder, or a dataset by its class path, got {given!r}.")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"--images {given}: no such folder, and not a class path ({error}).") from error
    try:
        return made()
    except Exception as error:
        raise CommandError(
            f"--images {given}: it cannot be made without arguments ({type(error).__name__}: {error}). Name a function"
            " without arguments that returns the dataset."
        ) from error


def _pictures(text: str) -> int:
    """How many pictures, up to what a page takes."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= _MOST_PICTURES:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {_MOST_PICTURES}, got {text!r}")
    return number
