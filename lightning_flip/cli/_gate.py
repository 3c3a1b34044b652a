"""``gate``: may the new model replace the old one?"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_flip.cli._arguments import add_prediction_arguments, check_join, join_options, read_pair
from lightning_flip.cli._gate_outputs import add_output_arguments, check_gate_outputs, deliver_gate
from lightning_flip.cli._gate_policy import add_policy_arguments, check_policy, fill_in, read_given_policy
from lightning_flip.cli._outputs import OutputError, Status, UsageError, say, told

if TYPE_CHECKING:
    from lightning_flip.reports.gating.policy import Policy

__all__ = ["add_gate"]

_DESCRIPTION = """\
Decide whether a new model may replace the old one. A negative flip is a sample
that the old model has right and the new one wrong. Each limit, such as that on
their rate (NFR), is decided on a one-sided bound:

  pass          the upper bound is within the limit
  fail          the lower bound is over the limit
  inconclusive  neither: too few samples; the report says how many would decide
"""
_EXAMPLES = """\
exit status: 0 pass, 1 fail, 2 wrong usage or unreadable input, 3 inconclusive.
With status 2 the output files state the error: no earlier verdict stays.

examples:
  lightning-flip gate --old old.csv --new new.csv --max-nfr 1% --junit gate.xml
  lightning-flip gate --max-nfr 1% --error 1% --print-policy > gate.yaml
  lightning-flip gate --old old.csv --new new.csv --policy gate.yaml
"""
_LISTS = ("must_not_flip", "must_be_right")
_DECISION = ("top_k", "min_support", "population", "cluster", "design_effect", "looks", "error", "inconclusive")


def add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "gate",
        help="decide whether a new model may replace the old one",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        usage="%(prog)s --old FILE --new FILE LIMIT [LIMIT ...] [options]\n"
        "       %(prog)s --old FILE --new FILE --policy FILE [options]\n"
        "       %(prog)s LIMIT [LIMIT ...] --print-policy",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=31),
        allow_abbrev=False,
    )
    add_policy_arguments(parser)
    add_prediction_arguments(parser)
    add_output_arguments(parser)

    def run(arguments: argparse.Namespace) -> Status:
        with told():
            policy = read_given_policy(arguments)
        fill_in(arguments, policy)
        try:
            _check(arguments, policy)
        except ValueError as error:
            raise UsageError(str(error), parser.format_usage(), isinstance(error, OutputError)) from error
        if arguments.print_policy:
            with told():
                say(policy.to_yaml())
            return Status.PASS
        return _gate_update(arguments, policy)

    parser.set_defaults(run=run, misused=parser.error)


def _gate_update(arguments: argparse.Namespace, policy: Policy) -> Status:
    """Decide, write the requested files, and print the report; MISUSE if a file cannot be written."""
    from lightning_flip.reports import gate, join_predictions
    from lightning_flip.reports.gating.lists import unlisted_flips, without_header

    with told():
        options, warnings = _gate_options(policy)
        joined = join_predictions(*read_pair(arguments), scores=arguments.scores, **join_options(arguments))
        for name in _LISTS:
            if name in options:
                options[name] = without_header(options[name], joined.ids, policy.columns.get("id", ()))
        warnings += (
            [] if options["costs"] is None else unlisted_flips(options["costs"], joined, options["allowed_flips"])
        )
    with told(ValueError):
        result = gate(joined, **options)
    result = dataclasses.replace(result, warnings=(*result.warnings, *warnings))
    arrived = deliver_gate(arguments, joined, result)
    return Status(result.exit_code) if arrived else Status.MISUSE


def _check(arguments: argparse.Namespace, policy: Policy) -> None:
    missing = [f"--{name}" for name in ("old", "new") if getattr(arguments, name) is None]
    if missing and not arguments.print_policy:
        raise ValueError(f"the following arguments are required: {', '.join(missing)}")
    check_policy(policy)
    check_join(arguments)
    inputs = [arguments.old, arguments.new, arguments.policy, *policy.files]
    check_gate_outputs(arguments, [path for path in inputs if path is not None])


def _gate_options(policy: Policy) -> tuple[dict[str, Any], list[str]]:
    """What `gate` is called with, and a warning of exceptions that have expired."""
    from lightning_flip.reports.gating.lists import read_allowed_flips, read_costs, read_ids, split_expired

    options: dict[str, Any] = {**policy.block, "warn": policy.warn}
    options |= {name: getattr(policy, name) for name in _DECISION}
    options |= {name: read_ids(path) for name in _LISTS if (path := getattr(policy, name)) is not None}
    options["costs"] = None if policy.costs is None else read_costs(policy.costs)
    listed = policy.allowed_flips
    flips = read_allowed_flips(listed) if isinstance(listed, str) else listed
    options["allowed_flips"], expired = split_expired(flips, _today())
    return options, expired


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
