"""``plan``: how many test samples does a gate need?"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from lightning_flip.cli._arguments import parse_error, parse_share
from lightning_flip.cli._outputs import PRINT, Status, check_outputs, deliver, show, told

if TYPE_CHECKING:
    from lightning_flip.reports import SamplePlan

__all__ = ["add_plan"]

_DESCRIPTION = """\
How many test samples does a gate need? For each plausible true rate: the exact chance (power) that the gate passes, or
fails if the rate is over the limit, and the number of samples from which on it stays at the wanted one. Power is a
sawtooth over the number of samples: what reaches 80% first may have less again with a few samples more.
"""
_EXAMPLES = """\
examples:
  lightning-flip plan --limit 1% --nfr 0.2% 0.4% 0.6% --figure plan.png
  lightning-flip plan --limit 3% --groups 10 --samples 500
"""
_FORMATS = (".png", ".svg")


def add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "plan",
        help="how many test samples a gate needs",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--limit", metavar="RATE", type=parse_share, required=True, help="the limit, such as 1%%")
    parser.add_argument(
        "--nfr",
        metavar="RATE",
        type=parse_share,
        nargs="+",
        help="plausible true rates (default: 0, 0.2, 0.4, 0.6 and 2 times the limit)",
    )
    parser.add_argument(
        "--power", metavar="CHANCE", type=parse_share, default=0.8, help="the wanted power (default: %(default)s)"
    )
    parser.add_argument(
        "--error",
        metavar="CHANCE",
        type=parse_error,
        default=0.05,
        help="chance of each wrong decision, as in gate (default: %(default)s)",
    )
    parser.add_argument(
        "--groups", metavar="G", type=_number, default=1, help="classes or slices, all of which have to pass"
    )
    parser.add_argument(
        "--cluster-size",
        metavar="M",
        type=_size,
        default=1.0,
        help="samples per cluster (patient, video), if samples are not independent; each cluster counts as one sample",
    )
    parser.add_argument(
        "--looks", metavar="K", type=_number, default=1, help="planned looks at growing data, which share the error"
    )
    parser.add_argument(
        "--samples", metavar="N", type=_number, help="also the power with N samples (with --groups, in each of them)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every number as JSON; - prints it")
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown; - prints it")
    parser.add_argument("--figure", metavar="FILE", help="draw power over samples, as .png or .svg")

    def run(arguments: argparse.Namespace) -> Status:
        try:
            outputs = {f"--{name}": getattr(arguments, name) for name in ("json", "markdown", "figure")}
            check_outputs(outputs, [], ("--figure",))
            if arguments.figure is not None and not arguments.figure.lower().endswith(_FORMATS):
                raise ValueError(f"--figure must end in {' or '.join(_FORMATS)}, got {arguments.figure}.")
            plan = _plan(arguments)
        except ValueError as error:
            parser.error(str(error))
        return _report(plan, arguments)

    parser.set_defaults(run=run, misused=parser.error)


def _plan(arguments: argparse.Namespace) -> SamplePlan:
    from lightning_flip.reports import plan_samples

    with told():
        return plan_samples(
            arguments.limit,
            arguments.nfr,
            power=arguments.power,
            error=arguments.error,
            groups=arguments.groups,
            looks=arguments.looks,
            cluster_size=arguments.cluster_size,
            samples=arguments.samples,
        )


def _report(plan: SamplePlan, arguments: argparse.Namespace) -> Status:
    """Write the requested files, and otherwise print the table."""
    from lightning_flip.reports.text import json_text

    with told(ValueError):
        arrived = deliver(
            {
                "--json": (arguments.json, partial(json_text, plan.to_dict())),
                "--markdown": (arguments.markdown, plan.to_markdown),
                "--figure": (arguments.figure, partial(_drawn, plan, arguments.figure)),
            }
        )
    if PRINT not in (arguments.json, arguments.markdown):
        show(plan)
    return Status.PASS if arrived else Status.MISUSE


def _drawn(plan: SamplePlan, path: str) -> partial[None]:
    from lightning_flip.reports import plot_sample_plan

    figure = plot_sample_plan(plan)
    return partial(_save, figure, path.rpartition(".")[2].lower())


def _save(figure: object, kind: str, stream: BinaryIO) -> None:
    figure.savefig(stream, format=kind, dpi=150)  # type: ignore[attr-defined]


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return number


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 1 <= size < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number from 1, got {text!r}")
    return size
