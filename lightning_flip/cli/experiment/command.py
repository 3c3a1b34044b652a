"""``experiment``: trainings that follow from each other, as one command that can be killed and started again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lightning_flip.cli.experiment._plan import read_plan

if TYPE_CHECKING:
    from lightning_flip.cli._outputs import Status

__all__ = ["add_experiment"]

_DESCRIPTION = """\
Train a teacher, then a student on what the teacher left, each exactly as `lightning-flip fit` would.

The configuration names the configurations of the two, relative to itself, and what goes from one to the other:

  teacher: teacher.yaml           # for the soft targets, with the callback PredictionFilter
  student: student.yaml           # a model with the option targets, such as SoftTargetsClassifier
  soft_targets: filtered_best     # or filtered_last; eval_best, eval_last, if PredictionFilter has them in also
  output: runs/distill/filterkd   # or --output

or, for a student that evaluates its teacher on every batch (a model with the option reference, such as
DistillationClassifier), in the place of soft_targets:

  reference: last.ckpt            # a checkpoint in the teacher's folder
"""
_FOLDER = """\
Killed at any time, the same command resumes from the last finished epoch, and a finished stage is not trained again.
In the output folder:

  teacher.yaml, student.yaml  what `lightning-flip fit --config` trains as the stage was trained
  teacher/, student/          all that a stage writes: last.ckpt, soft_targets/, logs, records. Folders that the
                              configurations name (save_dir, dirpath, path) become these
  experiment.json             what is finished, and the configurations that it was trained with
"""


def add_experiment(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    experiment = commands.add_parser(
        "experiment", help="a teacher, then its student, in one command that can be resumed", allow_abbrev=False
    )
    kinds = experiment.add_subparsers(title="experiments", metavar="EXPERIMENT", required=True)
    parser = kinds.add_parser(
        "distill",
        help="train a teacher, then a student on what it left",
        description=_DESCRIPTION,
        epilog=_FOLDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="names the two configurations, see above")
    parser.add_argument(
        "--output", metavar="DIR", help="folder of the experiment, instead of the configuration's output"
    )
    parser.add_argument(
        "--restart",
        metavar="STAGE",
        nargs="?",
        const="teacher",
        choices=("teacher", "student"),
        help="start again: all of it, or with `--restart student` keep the teacher. What was trained is removed",
    )

    def run(arguments: argparse.Namespace) -> Status:
        plan = read_plan(arguments.config, arguments.output)
        from lightning_flip.cli.experiment._distill import distill

        return distill(plan, restart=arguments.restart)

    parser.set_defaults(run=run, misused=parser.error)
