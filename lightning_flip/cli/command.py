"""The command line and its subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lightning_flip.cli._compare import add_compare
from lightning_flip.cli._gate import add_gate
from lightning_flip.cli._gate_outputs import report_gate_error
from lightning_flip.cli._outputs import CommandError, CommandParser, Status, UsageError, complain, complain_of_a_bug
from lightning_flip.cli._plan import add_plan
from lightning_flip.cli._relabel import add_relabel
from lightning_flip.cli._report import add_report
from lightning_flip.cli._suspects import add_suspects
from lightning_flip.cli.experiment.command import add_experiment
from lightning_flip.cli.training import SUBCOMMANDS, training_cli

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    ``fit``, ``validate``, ``test`` and ``predict`` are a LightningCLI (see :func:`training_cli`). ``compare`` reads
    recorded runs, or the predictions of an old and a new model; ``gate`` decides whether the new model may replace the
    old one, and ``plan`` tells how many samples that takes. ``suspects`` ranks the labels of a recorded run that are
    probably wrong, and ``relabel`` makes corrected labels of a reviewed list. ``report`` writes a run, several ones, or
    an old and a new model as a web page. None of these loads torch or lightning. ``experiment`` trains a teacher, then
    its student.

    Args:
        args: the words after the command's name; None takes those it was called with.

    Returns:
        The exit status: 0 if all went well (for ``gate``: every limit holds), 1 only if ``gate`` found a limit broken,
        2 if something cannot be read or written, is not installed, or no subcommand was given, 3 if ``gate`` has too
        few samples to decide. Training that fails raises its error, for which Python's exit status is 1.

    Raises:
        SystemExit: with status 2 for an unknown subcommand or wrong arguments, with 0 after ``--help``.

    Example:
        >>> main(["compare", "no/such/run", "--markdown", "-"])
        2
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        status, problem = _run(words), "an output file could not be written"
    except UsageError as error:
        if not error.confused_outputs:
            _told(words, str(error))
        sys.stderr.write(error.usage)
        complain(f"error: {error}")
        raise SystemExit(int(Status.MISUSE)) from None
    except CommandError as error:
        complain(str(error))
        status, problem = Status.MISUSE, str(error)
    except Exception as error:
        if words[0] in SUBCOMMANDS:
            raise
        complain_of_a_bug()
        # Python's own status would be 1, which is a gate's verdict.
        status, problem = Status.MISUSE, f"{type(error).__name__}: {error}"
    if status == Status.MISUSE:
        _told(words, problem)
    return int(status)


def _told(words: Sequence[str], problem: str) -> None:
    """Let the output files of a gate that has no verdict say so."""
    if words[:1] == ["gate"]:
        report_gate_error(words[1:], problem)


def _run(words: list[str]) -> Status:
    parser = _build_parser()
    if not words:
        parser.print_help(sys.stderr)
        return Status.MISUSE
    if words[0] in SUBCOMMANDS:
        training_cli(words)
        return Status.PASS
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.misused(f"unrecognized arguments: {' '.join(unknown)}")  # with the subcommand's usage
    status: Status = arguments.run(arguments)
    return status


def _build_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = CommandParser(
        prog="lightning-flip",
        description="Which samples does a classifier get wrong now that it got right before, and how to stop it.",
        epilog="lightning-flip SUBCOMMAND --help says more.",
    )
    commands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for name, description in SUBCOMMANDS.items():
        commands.add_parser(name, help=description, add_help=False)
    add_compare(commands)
    add_gate(commands)
    add_plan(commands)
    add_suspects(commands)
    add_relabel(commands)
    add_report(commands)
    add_experiment(commands)
    return parser
