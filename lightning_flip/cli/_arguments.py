"""Options that commands share: two files of predictions, how to read and join them, and runs or an update."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_flip.stores import PredictionSet

__all__ = [
    "add_prediction_arguments",
    "check_join",
    "is_update",
    "join_options",
    "parse_error",
    "parse_limit",
    "parse_share",
    "read_further",
    "read_pair",
]

_COLUMNS = {
    "id": "what names a sample (default: sample_id, else index)",
    "target": "the right class (default: target)",
    "pred": "the predicted class (default: pred)",
    "confidence": "the probability of the predicted class (default: confidence, if there is one)",
}


def add_prediction_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add ``--old`` and ``--new``, and how the two files are read and joined; what is not given is None."""
    files = parser.add_argument_group(
        "predictions",
        "Parquet of PredictionWriter, or .parquet, .arrow, .csv, .tsv, .jsonl, .npz of\n"
        "any tool. FILE may be a folder or a quoted glob of such files, a URL, or - for\n"
        "standard input.",
    )
    actions = [
        files.add_argument("--old", metavar="FILE", help="predictions of the old model"),
        files.add_argument("--new", metavar="FILE", help="predictions of the new model"),
        files.add_argument(
            "--allow-partial",
            action="store_true",
            default=None,
            help="judge the samples that both files have; without it, a sample that one file lacks is an error",
        ),
        files.add_argument(
            "--min-coverage",
            metavar="SHARE",
            type=parse_share,
            help="with --allow-partial: the share of each file's samples that both files have to have, such as 95%%",
        ),
        files.add_argument(
            "--drop-unlabelled",
            action="store_true",
            default=None,
            help="leave out samples without a target; without it, they are an error. The report counts them",
        ),
        files.add_argument(
            "--shared-classes", action="store_true", default=None, help="judge the samples whose class both models know"
        ),
        files.add_argument(
            "--shared-argmax",
            action="store_true",
            default=None,
            help="with --shared-classes: let each model choose among the classes that both know (needs stored logits "
            "or top classes)",
        ),
        files.add_argument(
            "--slice",
            dest="slices",
            metavar="COLUMN",
            nargs="+",
            action="extend",
            help="columns whose values part the samples into slices that are judged one by one",
        ),
    ]
    columns = parser.add_argument_group("columns", "One name for all files; or two, the old file's and the new one's.")
    actions += [
        columns.add_argument(f"--{name}-column", metavar=("NAME", "NEW"), nargs="+", action=_OneOrTwo, help=meaning)
        for name, meaning in _COLUMNS.items()
    ]
    return actions


class _OneOrTwo(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if len(values) > 2:
            raise argparse.ArgumentError(self, f"expected one name or two, got {len(values)}")
        setattr(namespace, self.dest, values)


def is_update(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    of_runs: Sequence[argparse.Action],
    of_updates: Sequence[argparse.Action],
) -> bool:
    """Whether a command is about an old and a new model, not recorded runs; options of the other kind are misuse."""
    update = arguments.old is not None or arguments.new is not None
    if update == bool(arguments.runs):
        parser.error("give either recorded runs (RUN) or --old and --new, " + ("not both" if update else "got none"))
    if update and (arguments.old is None or arguments.new is None):
        parser.error(f"{'--old' if arguments.new else '--new'} is missing: an update has an old and a new file")
    idle = [
        action.option_strings[0]
        for action in (of_runs if update else of_updates)
        if action.option_strings and getattr(arguments, action.dest) != action.default
    ]
    if idle:
        parser.error(f"{', '.join(idle)}: only {'for recorded runs' if update else 'with --old and --new'}")
    return update


def read_pair(arguments: argparse.Namespace) -> tuple[PredictionSet, PredictionSet]:
    """Read the predictions of the old and the new model."""
    return _read(arguments, arguments.old, 0), _read(arguments, arguments.new, -1)


def read_further(arguments: argparse.Namespace, path: str) -> PredictionSet:
    """Read another file of predictions, with the column names of the new file."""
    return _read(arguments, path, -1)


def join_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of ``join_predictions`` and ``compare``."""
    slices: Sequence[str] = arguments.slices or ()
    return {
        "allow_partial": bool(arguments.allow_partial),
        "shared_classes": bool(arguments.shared_classes),
        "shared_argmax": bool(arguments.shared_argmax),
        "slices": tuple(dict.fromkeys(slices)),
        "drop_unlabelled": bool(arguments.drop_unlabelled),
        "min_coverage": arguments.min_coverage or 0.0,
    }


def check_join(arguments: argparse.Namespace) -> None:
    """Check that the options for the two files fit together."""
    if arguments.old == arguments.new == "-":
        raise ValueError("--old and --new are both -, but standard input holds one file; name a file for one of them")
    if arguments.old and arguments.new and os.path.realpath(arguments.old) == os.path.realpath(arguments.new):
        raise ValueError(f"--old and --new are the same file, {arguments.old}: a model has no flips against itself")
    if arguments.min_coverage and not arguments.allow_partial:
        raise ValueError("--min-coverage needs --allow-partial; without it both files must have all samples")
    if arguments.shared_argmax and not arguments.shared_classes:
        raise ValueError("--shared-argmax needs --shared-classes, which says among which classes to choose")


def parse_limit(text: str) -> float:
    """Read a limit on a rate, as a share or in percent, from 0 to below 1.

    Example:
        >>> parse_limit("0.7%"), parse_limit("0.01")
        (0.007, 0.01)
    """
    limit = _parse_share(text)
    if limit is None or not 0 <= limit < 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to below 1, or a percentage such as 1%, got {text!r}")
    return limit


def parse_share(text: str) -> float:
    """Read a share of something, or a percentage, from 0 to 1.

    Example:
        >>> parse_share("95%"), parse_share("1")
        (0.95, 1.0)
    """
    share = _parse_share(text)
    if share is None or not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, or a percentage such as 95%, got {text!r}")
    return share


def parse_error(text: str) -> float:
    """Read the chance of a wrong decision, as a share or in percent, between 0 and 0.5."""
    chance = _parse_share(text)
    if chance is None or not 0 < chance < 0.5:
        raise argparse.ArgumentTypeError(f"must be between 0 and 0.5, such as 0.05 or 5%, got {text!r}")
    return chance


def _parse_share(text: str) -> float | None:
    number = text.strip()
    if "_" in number:  # which float() and Decimal() would accept
        return None
    try:
        # Decimal, since 0.7 / 100 in binary is not the number that 0.007 is.
        share = Decimal(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except InvalidOperation:
        return None
    return float(share) if share.is_finite() else None


def _read(arguments: argparse.Namespace, path: str, position: int) -> PredictionSet:
    from lightning_flip.stores import read_predictions

    names = {f"{name}_column": getattr(arguments, f"{name}_column") for name in _COLUMNS}
    chosen = {option: given[position] if given else None for option, given in names.items()}
    scores = getattr(arguments, "scores", ())
    columns = [*(arguments.slices or ()), *(["prob_label"] if scores else [])]
    return read_predictions(path, **chosen, columns=columns, scores=bool(arguments.shared_argmax or scores))
