"""``gate``: may the new model replace the old one?"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_flip.cli._arguments import add_prediction_arguments, check_join, join_options, read_pair
from lightning_flip.cli._gate_policy import add_policy_arguments, check_policy, fill_in, read_given_policy
from lightning_flip.cli._outputs import (
    PRINT,
    CommandError,
    CommandParser,
    Status,
    UsageError,
    check_outputs,
    complain,
    deliver,
    say,
    terminal_width,
    told,
)
from lightning_flip.stores.files import write_text

if TYPE_CHECKING:
    from lightning_flip.reports.gating.policy import Policy
    from lightning_flip.reports.update.counts import WorstFlip, WorstFlips

__all__ = ["add_gate", "report_gate_error"]

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
# As many as a terminal shows beside the verdict; `compare --worst` lists more.
_FLIPS_SHOWN = 5
_LISTS = ("must_not_flip", "must_be_right")


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
    outputs = parser.add_argument_group("output", "Beside the report on the terminal; - prints it instead.")
    outputs.add_argument(
        "--junit", metavar="FILE", help="JUnit XML, one test case per limit, for continuous integration"
    )
    outputs.add_argument("--json", metavar="FILE", help="every number and every name, as JSON")
    outputs.add_argument("--markdown", metavar="FILE", help="for the comment on a pull request")

    def run(arguments: argparse.Namespace) -> Status:
        with told():
            policy = read_given_policy(arguments)
        fill_in(arguments, policy)
        try:
            _check(arguments, policy)
        except ValueError as error:
            parser.error(str(error))
        if arguments.print_policy:
            with told():
                say(policy.to_yaml())
            return Status.PASS
        return _gate_update(arguments, policy)

    parser.set_defaults(run=run, misused=parser.error)


def _gate_update(arguments: argparse.Namespace, policy: Policy) -> Status:
    """Decide, write the requested files, and print the report; MISUSE if a file cannot be written."""
    from lightning_flip.reports import gate, gate_json, gate_junit, gate_markdown, gate_text, join_predictions
    from lightning_flip.reports.gating.lists import unlisted_flips, without_header
    from lightning_flip.reports.update.counts import worst_flips

    with told():
        options, warnings = _gate_options(policy)
        joined = join_predictions(*read_pair(arguments), **join_options(arguments))
        for name in _LISTS:
            if name in options:
                options[name] = without_header(options[name], joined.ids, policy.columns.get("id", ()))
        warnings += unlisted_flips(options["costs"], joined) if "costs" in options else []
    with told(ValueError):
        result = gate(joined, **options)
        worst = worst_flips(joined, _FLIPS_SHOWN)
    result = dataclasses.replace(result, warnings=(*result.warnings, *warnings))
    arrived = deliver(
        {
            "--junit": (arguments.junit, partial(gate_junit, result)),
            "--json": (arguments.json, partial(gate_json, result)),
            "--markdown": (arguments.markdown, partial(gate_markdown, result)),
        }
    )
    if PRINT in (arguments.junit, arguments.json, arguments.markdown):
        complain(f"{result.status}: {arguments.old} -> {arguments.new}")
    else:
        say("\n".join([gate_text(result, terminal_width()), *_flip_lines(worst)]))
    return Status(result.exit_code) if arrived else Status.MISUSE


def report_gate_error(words: Sequence[str], message: str) -> None:
    """Replace the output files that a command line names by ones that state an error, so that no old verdict stays.

    Nothing is written if the words do not tell which files these are, or if one of them would overwrite an input. Of a
    policy that cannot be read, every file is an input that it mentions outside of comments.
    """
    from lightning_flip.reports.gating.output import error_json, error_junit, error_markdown

    parser = CommandParser(add_help=False, allow_abbrev=False)
    writers = {"--junit": error_junit, "--json": error_json, "--markdown": error_markdown}
    for option in (
        *writers,
        "--old",
        "--new",
        "--policy",
        "--must-not-flip",
        "--must-be-right",
        "--allowed-flips",
        "--cost",
    ):
        parser.add_argument(option)
    try:
        given = {
            f"--{name.replace('_', '-')}": value for name, value in vars(parser.parse_known_args(words)[0]).items()
        }
        outputs = {option: given[option] for option in writers}
        inputs = [value for option, value in given.items() if option not in writers and value]
        named = (
            _files_of(given["--policy"], [place for place in outputs.values() if place]) if given["--policy"] else []
        )
        check_outputs(outputs, [*inputs, *named])
    except (UsageError, ValueError):
        return
    for option, place in outputs.items():
        if place == PRINT:
            say(writers[option](message))
        elif place is not None:
            with contextlib.suppress(OSError):  # an output that cannot be written may be the error
                write_text(place, writers[option](message))


def _files_of(policy: str, outputs: Sequence[str]) -> list[str]:
    """The files that a policy names; if it cannot be read, those outputs that it mentions."""
    from lightning_flip.reports.gating.policy import read_policy

    try:
        with told():
            return read_policy(policy).files
    except CommandError:
        with contextlib.suppress(OSError):
            text = re.sub(r"#.*", "", Path(policy).read_bytes().decode("utf-8", "replace"))
            return [place for place in outputs if os.path.basename(place) in text]
    return []


def _check(arguments: argparse.Namespace, policy: Policy) -> None:
    missing = [f"--{name}" for name in ("old", "new") if getattr(arguments, name) is None]
    if missing and not arguments.print_policy:
        raise ValueError(f"the following arguments are required: {', '.join(missing)}")
    check_policy(policy)
    check_join(arguments)
    outputs = {f"--{option}": getattr(arguments, option) for option in ("junit", "json", "markdown")}
    inputs = [arguments.old, arguments.new, arguments.policy, *policy.files]
    check_outputs(outputs, [path for path in inputs if path is not None])


def _gate_options(policy: Policy) -> tuple[dict[str, Any], list[str]]:
    """What `gate` is called with, and a warning of exceptions that have expired."""
    from lightning_flip.reports.gating.lists import read_allowed_flips, read_costs, read_ids, split_expired
    from lightning_flip.reports.gating.policy import Policy

    options: dict[str, Any] = {**policy.block, "warn": dict(policy.warn)}
    options |= {
        name: getattr(policy, name) for name in ("error", "top_k", "min_support", "population", "cluster", "looks")
    }
    options |= {name: read_ids(path) for name in _LISTS if (path := getattr(policy, name)) is not None}
    if policy.costs is not None:
        options["costs"] = read_costs(policy.costs)
    listed = policy.allowed_flips
    flips = read_allowed_flips(listed) if isinstance(listed, str) else listed
    options["allowed_flips"], expired = split_expired(flips, _today())
    return {name: value for name, value in options.items() if value not in ({}, getattr(Policy, name, None))}, expired


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _flip_lines(worst: WorstFlips) -> list[str]:
    """A heading and one line per flip; nothing if there is no flip."""
    from lightning_flip.reports.text import quote

    if not worst.flips:
        return []
    named = [(quote(flip.sample_id), flip) for flip in worst.flips]
    width = max(len(name) for name, _ in named)
    heading = f"worst {len(worst.flips):,} of {worst.total:,} negative flips, by {worst.order}:"
    return [heading, *(f"  {name:{width}}  {_change(flip)}" for name, flip in named)]


def _change(flip: WorstFlip) -> str:
    from lightning_flip.reports.text import quote

    sides = ((flip.right, flip.old_confidence), (flip.wrong, flip.new_confidence))
    return " -> ".join(
        quote(str(label)) + ("" if confidence is None else f" ({confidence:.3f})") for label, confidence in sides
    )
