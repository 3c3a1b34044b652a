"""The command ``lightning-flip``: train from a configuration, and compare what was recorded."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

    from lightning_flip.reports import Comparison

__all__ = ["main", "training_cli"]

_TRAINING = {
    "fit": "train, as a configuration says",
    "validate": "evaluate on the validation data",
    "test": "evaluate on the test data",
    "predict": "run on the data to predict",
}
_COMPARE = "one table from recorded runs, a method a row"
_FAILED, _MISUSED = 1, 2


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    ``fit``, ``validate``, ``test`` and ``predict`` are a LightningCLI (see :func:`training_cli`); ``compare`` reads
    recorded runs and loads neither torch nor lightning.

    Args:
        args: the words after the command's name; None takes those it was called with.

    Returns:
        The exit status: 0, or 1 where a run cannot be read or something is not installed, or 2 where no subcommand
        was given.

    Raises:
        SystemExit: with status 2 for an unknown subcommand or wrong arguments, with 0 after ``--help``.

    Example:
        >>> main(["compare", "no/such/run", "--markdown", "-"])
        1
    """
    words = list(sys.argv[1:] if args is None else args)
    parser = _build_parser()
    if not words:
        parser.print_help(sys.stderr)
        return _MISUSED
    if words[0] in _TRAINING:
        try:
            training_cli(words)
        except _MissingExtraError as error:
            return _fail(str(error))
        return 0
    arguments = parser.parse_args(words)
    return _compare(arguments, parser)


def training_cli(args: Sequence[str], *, run: bool = True, **options: Any) -> LightningCLI:
    """Build a LightningCLI over any LightningModule and any LightningDataModule.

    In ``class_path`` the package's modules, networks, data and callbacks go by their bare names, where no other
    class that is loaded shares them (torchvision has an MLP too), and everything goes by its import path. A module
    makes its own optimizer: there is no ``--optimizer`` beside ``--model.optimizer``.
    The seed is 0 unless the configuration says otherwise. The whole configuration is kept as ``config.yaml`` in the
    logger's folder, and the one of an earlier run in the same folder is replaced.

    Args:
        args: with ``run`` a subcommand and its options; else options alone.
        run: run the subcommand. False only builds the objects.
        **options: for LightningCLI, e.g. ``save_config_callback=None``.

    Returns:
        The LightningCLI, with ``trainer``, ``model`` and ``datamodule``.

    Raises:
        ModuleNotFoundError: if jsonargparse is not installed.
        SystemExit: with status 2 for wrong options.

    Example:
        >>> model = ["--model=LabelSmoothingClassifier", "--model.network=SmallCNN", "--model.num_classes=10"]
        >>> cli = training_cli([*model, "--data=DigitsDataModule", "--trainer.logger=false"], run=False)
        >>> cli.model.smoothing, cli.datamodule.batch_size
        (0.1, 64)
    """
    try:
        import jsonargparse  # noqa: F401
    except ModuleNotFoundError as error:
        raise _MissingExtraError(
            "training from a configuration needs jsonargparse, which is not installed; run "
            "pip install 'lightning-flip[cli]'."
        ) from error
    from lightning.pytorch.cli import LightningCLI

    # Imported for their names: jsonargparse finds classes that are loaded by their bare names.
    from lightning_flip.data.bundled import BundledDataModule

    class TrainingCLI(LightningCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            # LightningCLI's own warns of args beside a script's own command line; here they are given on purpose.
            self.config = parser.parse_args(args)

        def after_instantiate_classes(self) -> None:
            # Between Lightning and torch: nothing that the user of a command can change.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            if isinstance(self.datamodule, BundledDataModule) and self.datamodule.num_workers == 0:
                # Data that lie in memory gain nothing from workers.
                warnings.filterwarnings("ignore", "The '.*' does not have many workers")

    strict = {"allow_abbrev": False}  # a misspelled option is an error, not another option
    settings: dict[str, Any] = {
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "seed_everything_default": 0,
        "auto_configure_optimizers": False,
        "save_config_kwargs": {"overwrite": True},
        "parser_kwargs": {"prog": "lightning-flip", **strict, **dict.fromkeys(_TRAINING, strict)},
    }
    return TrainingCLI(args=list(args), run=run, **{**settings, **options})


class _MissingExtraError(ModuleNotFoundError):
    """An optional dependency is not installed; told apart from what a user's own code may lack."""


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-flip",
        description="Which samples does a classifier get wrong now that it got right before, and how to stop it.",
        epilog="lightning-flip SUBCOMMAND --help says more.",
    )
    commands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for name, description in _TRAINING.items():
        commands.add_parser(name, help=description, add_help=False)
    compare = commands.add_parser(
        "compare",
        help=_COMPARE,
        description="Compute accuracy, flipping error (FE), relative flipping error (RFE), calibration error (ECE) and "
        "how well low margins find wrong labels, from recorded runs. Runs of one label share a row: mean and sample "
        "standard deviation.",
        epilog="example: lightning-flip compare plain=runs/a plain=runs/b FER=runs/c",
    )
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help="LABEL=FOLDER, or a folder alone, whose name is then the label"
    )
    compare.add_argument("--split", default="val", help="recorded split to compare on (default: %(default)s)")
    compare.add_argument("--csv", metavar="FILE", help="write the table as CSV; - prints it")
    compare.add_argument("--markdown", metavar="FILE", help="write the table as Markdown; - prints it")
    compare.add_argument(
        "--accuracy-name", metavar="NAME", help='header of the accuracy column (default: the split and "acc")'
    )
    return parser


def _compare(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from lightning_flip.reports import compare_runs, parse_run
    from lightning_flip.stores import HistoryError

    try:
        runs = [parse_run(text) for text in arguments.runs]
        comparison = compare_runs(runs, arguments.split, accuracy_header=arguments.accuracy_name)
        printed = False
        for place, text in _texts(comparison, arguments):
            if place == "-":
                sys.stdout.write(text)
                printed = True
            else:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
                Path(place).write_text(text, encoding="utf-8")
    except (HistoryError, OSError) as error:
        return _fail(str(error))
    except ValueError as error:
        parser.error(str(error))
    if not printed:
        _print_table(comparison)
    return 0


def _texts(comparison: Comparison, arguments: argparse.Namespace) -> list[tuple[str, str]]:
    texts = []
    if arguments.csv is not None:
        texts.append((arguments.csv, comparison.to_csv()))
    if arguments.markdown is not None:
        texts.append((arguments.markdown, comparison.to_markdown() + "\n"))
    return texts


def _print_table(comparison: Comparison) -> None:
    try:
        from rich.console import Console
    except ModuleNotFoundError:  # Markdown reads well enough without it
        sys.stdout.write(comparison.to_markdown() + "\n")
    else:
        comparison.render(Console())


def _fail(message: str) -> int:
    sys.stderr.write(f"lightning-flip: {message}\n")
    return _FAILED


if __name__ == "__main__":
    sys.exit(main())
