"""The flags that say what a gate decides and how, and the policy that they and a policy file give."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning_flip.cli._arguments import parse_error, parse_limit, parse_share

if TYPE_CHECKING:
    from lightning_flip.reports.gating.policy import Policy

__all__ = ["add_policy_arguments", "check_policy", "fill_in", "read_given_policy"]

# What is limited; the first four also in each class and in each slice.
_SCOPED = {
    "max_nfr": "negative flip rate (NFR)",
    "max_nfi": "share of negative flips in the new model's errors",
    "max_churn": "share of changed predictions",
    "max_accuracy_drop": "drop of the accuracy",
}
_OVERALL = {
    "max_top_k_flips": "share of samples whose class the old model has in its top k, and the new one has not",
    "max_relative_nfr": "NFR relative to that of independent models",
    "max_flip_cost": "cost of flips per sample, by --cost",
    "max_confidence_drop": "mean drop of the right class's probability",
    "max_brier_increase": "mean rise of the Brier score",
    "max_nll_increase": "mean rise of the negative log-likelihood",
    "max_ece_increase": "rise of the calibration error (ECE); its estimate is biased, so that it only warns",
}
_AMOUNTS = ("max_flip_cost", "max_brier_increase", "max_nll_increase")
_BLOCKING = (
    *(f"{name}{scope}" for name in _SCOPED for scope in ("", "_per_class", "_per_slice")),
    *(name for name in _OVERALL if name != "max_ece_increase"),
    "min_old_accuracy",
)
_JOINING = ("slices", "allow_partial", "min_coverage", "drop_unlabelled", "shared_classes", "shared_argmax")
_KEYS = (
    *("must_not_flip", "must_be_right", "allowed_flips", "costs", "top_k"),
    *("error", "min_support", "population", "cluster", "design_effect", "looks", "inconclusive"),
    *_JOINING,
)
_COLUMNS = ("id", "target", "pred", "confidence")


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; every default is None, so that a flag that is given can be told from one that is not."""
    file = parser.add_argument_group(
        "policy",
        "A file with limits and all that follows but --old, --new and output; a flag\nreplaces the key of its name.",
    )
    file.add_argument("--policy", metavar="FILE", help="YAML; see the page 'Shipping an update'")
    file.add_argument(
        "--print-policy", action="store_true", help="print the policy that the flags give as YAML, and decide nothing"
    )
    limits = parser.add_argument_group(
        "limits",
        "LIMIT is at least one of these. A rate is a share, 0.01, or a percentage, 1%.\n"
        "The first four also exist for each class and, with --slice, for each slice:\n"
        "--max-nfr-per-class, --max-nfr-per-slice and so on.",
    )
    for name, meaning in (_SCOPED | _OVERALL).items():
        amount = name in _AMOUNTS
        limits.add_argument(
            _flag(name),
            metavar="NUMBER" if amount else "RATE",
            type=_limit_parser(name),
            help=f"largest {meaning}",
        )
        for scope in ("class", "slice") if name in _SCOPED else ():
            limits.add_argument(_flag(f"{name}_per_{scope}"), type=parse_limit, help=argparse.SUPPRESS)
    limits.add_argument(
        "--min-old-accuracy",
        metavar="RATE",
        type=parse_share,
        help="smallest accuracy of the old model",
    )
    limits.add_argument(
        "--warn",
        metavar="NAME=RATE",
        type=_parse_warning,
        action="append",
        help="limit that does not change the verdict, such as max_churn=5%%; may be repeated",
    )
    limits.add_argument("--top-k", metavar="K", type=_count(1), help="the k of --max-top-k-flips (default: 5)")
    limits.add_argument(
        "--cost",
        dest="costs",
        metavar="FILE",
        help="CSV with the columns old, new, cost: what a flip from one class to another costs",
    )
    samples = parser.add_argument_group("single samples", "Lists of ids: one per line, or a .json list.")
    samples.add_argument("--must-not-flip", metavar="FILE", help="ids that must not be negative flips")
    samples.add_argument("--must-be-right", metavar="FILE", help="ids that the new model must get right")
    samples.add_argument(
        "--allowed-flips",
        metavar="FILE",
        help="CSV with the columns id, reason, until: samples that may flip up to a day, such as 2027-03-31",
    )
    decision = parser.add_argument_group("decision")
    decision.add_argument(
        "--error",
        metavar="CHANCE",
        type=parse_error,
        help="accepted chance of a wrong decision (default: 0.05)",
    )
    decision.add_argument(
        "--min-support",
        metavar="N",
        type=_count(0),
        help="do not judge classes and slices of fewer samples (default: 0)",
    )
    decision.add_argument(
        "--population",
        choices=("sample", "fixed"),
        metavar="KIND",
        help="fixed: the samples are all there are, so that observed rates decide (default: sample)",
    )
    decision.add_argument(
        "--cluster", metavar="COLUMN", help="samples that share its value, such as a patient, are not independent"
    )
    decision.add_argument(
        "--design-effect",
        action="store_true",
        default=None,
        help="with --cluster: estimate how alike its samples are; less conservative, and approximate",
    )
    decision.add_argument(
        "--looks",
        metavar="K",
        type=_count(1),
        help="how often you will look at the growing data; they share --error (default: 1)",
    )
    decision.add_argument(
        "--inconclusive",
        choices=("fail", "warn", "pass"),
        metavar="AS",
        help="count inconclusive as fail (exit status 1), warn or pass (0), in place of 3",
    )


def read_given_policy(arguments: argparse.Namespace) -> Policy:
    """Read the policy file, if there is one, and let the flags that are given replace its keys."""
    from lightning_flip.reports.gating.policy import Policy, read_policy

    given: dict[str, Any] = {key: value for key in _KEYS if (value := getattr(arguments, key)) is not None}
    if "slices" in given:
        given["slices"] = tuple(dict.fromkeys(given["slices"]))
    given["block"] = {name: limit for name in _BLOCKING if (limit := getattr(arguments, name)) is not None}
    given["warn"] = dict(arguments.warn or ())
    if arguments.max_ece_increase is not None:
        given["warn"]["max_ece_increase"] = arguments.max_ece_increase
    names = {role: getattr(arguments, f"{role}_column") for role in _COLUMNS}
    given["columns"] = {role: (chosen[0], chosen[-1]) for role, chosen in names.items() if chosen}
    base = Policy() if arguments.policy is None else read_policy(arguments.policy)
    return base.replaced(given)


def fill_in(arguments: argparse.Namespace, policy: Policy) -> None:
    """Give the options for reading and joining the two files the values that the policy has, and what limits need."""
    from lightning_flip.reports.gating.decision import needed_scores

    for key in _JOINING:
        setattr(arguments, key, getattr(policy, key))
    arguments.slices = [*policy.slices, *([] if policy.cluster is None else [policy.cluster])]
    arguments.scores = needed_scores([*policy.block, *policy.warn], policy.top_k)
    for role, names in policy.columns.items():
        setattr(arguments, f"{role}_column", list(names))


def check_policy(policy: Policy) -> None:
    """Check that there is something to decide, and that no key waits for another one.

    Raises:
        ValueError: if not.
    """
    limits = {*policy.block, *policy.warn}
    if not limits and policy.must_not_flip is None and policy.must_be_right is None:
        raise ValueError(
            "nothing to decide on: give at least one limit, such as --max-nfr 1% or --must-not-flip FILE, or a --policy"
            " that has one"
        )
    of_slices = sorted(name for name in limits if name.endswith("_per_slice"))
    if of_slices and not policy.slices:
        raise ValueError(f"{_flag(of_slices[0])} needs --slice COLUMN, which says what the slices are")
    if policy.slices and not of_slices:
        raise ValueError("--slice needs a limit on the slices, such as --max-nfr-per-slice RATE")
    if ("max_flip_cost" in limits) != (policy.costs is not None):
        raise ValueError("--max-flip-cost NUMBER and --cost FILE need each other: a limit, and what flips cost")
    if policy.design_effect and policy.cluster is None:
        raise ValueError("--design-effect needs --cluster COLUMN, which says what samples belong together")
    if policy.top_k != 5 and "max_top_k_flips" not in limits:
        raise ValueError("--top-k needs --max-top-k-flips RATE, the limit that it is about")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _limit_parser(name: str) -> Callable[[str], float]:
    if name in _AMOUNTS:
        return _parse_amount
    return parse_share if name == "min_old_accuracy" else parse_limit


def _parse_amount(text: str) -> float:
    """Read a limit that is no share, from 0.

    Example:
        >>> _parse_amount("2.5")
        2.5
    """
    try:
        amount = math.nan if "_" in text else float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= 1e9:
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text!r}")
    return amount


def _parse_warning(text: str) -> tuple[str, float]:
    """Read the name and the value of a limit that only warns.

    Example:
        >>> _parse_warning("max_churn=5%"), _parse_warning("max-nll-increase=0.1")
        (('max_churn', 0.05), ('max_nll_increase', 0.1))
    """
    written, equals, limit = text.partition("=")
    name, known = written.strip().removeprefix("--").replace("-", "_"), (*_BLOCKING, "max_ece_increase")
    if not equals:
        raise argparse.ArgumentTypeError(
            f"must be the name of a limit and its rate, such as max_churn=5%, got {text!r}"
        )
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"limits are {', '.join(known)}"
        raise argparse.ArgumentTypeError(f"{written!r} is not a limit; {hint}")
    return name, _limit_parser(name)(limit)


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
            raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r}")
        return int(text)

    return parse
