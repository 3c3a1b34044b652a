"""``compare``: recorded runs in one table, or an old and a new model sample by sample."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_flip.cli._run_comparison import add_run_arguments, compare_recorded_runs
from lightning_flip.cli._update_comparison import add_update_arguments, compare_update

if TYPE_CHECKING:
    from lightning_flip.cli._status import Status

__all__ = ["add_compare"]

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
    """Add the subcommand.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_compare(parser.add_subparsers())
        >>> parser.parse_args(["compare", "plain=runs/a"]).runs
        ['plain=runs/a']
    """
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
    of_runs = add_run_arguments(parser)
    of_updates = add_update_arguments(parser)

    def run(arguments: argparse.Namespace) -> Status:
        update = arguments.old is not None or arguments.new is not None
        if update == bool(arguments.runs):
            parser.error(
                "give either recorded runs (RUN) or --old and --new, " + ("not both" if update else "got none")
            )
        if update and (arguments.old is None or arguments.new is None):
            parser.error(f"{'--old' if arguments.new else '--new'} is missing: an update has an old and a new file")
        idle = _given(arguments, of_runs if update else of_updates)
        if idle:
            parser.error(f"{', '.join(idle)}: only {'for recorded runs' if update else 'with --old and --new'}")
        try:
            return compare_update(arguments) if update else compare_recorded_runs(arguments)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))

    parser.set_defaults(run=run, misused=parser.error)


def _given(arguments: argparse.Namespace, actions: Sequence[argparse.Action]) -> list[str]:
    return [
        action.option_strings[0]
        for action in actions
        if action.option_strings and getattr(arguments, action.dest) != action.default
    ]
