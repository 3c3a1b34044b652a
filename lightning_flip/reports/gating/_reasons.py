"""Why a limit passes, fails or is inconclusive, in a sentence or two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from lightning_flip.reports.gating._limits import GroupOutcome, worst_status
from lightning_flip.reports.text import quote

__all__ = ["accuracy_reason", "all_samples_reason", "groups_reason", "must_not_flip_reason", "percent"]

# More names than these make a sentence unreadable; `to_dict` has them all.
_MOST_NAMES = 10
# A limit is shown as it was given, without the rounding of its binary number.
_LIMIT_DIGITS = 10

_Item = TypeVar("_Item")


def percent(rate: float, digits: int = 3) -> str:
    """A rate in percent.

    Example:
        >>> percent(0.01), percent(0.048702), percent(0.0), percent(1 / 3000), percent(0.012345, 10)
        ('1%', '4.87%', '0%', '0.0333%', '1.2345%')
    """
    return f"{100 * rate:.{digits}g}%"


def all_samples_reason(group: GroupOutcome, limit: float, error: float) -> str:
    """Why the rate over all samples is within a limit, over it, or undecided.

    Example:
        >>> print(all_samples_reason(GroupOutcome("all samples", 0, 60, "inconclusive", 0.0, 0.0487, 299), 0.01, 0.05))
        0 of 60 samples flipped (0%), which is consistent with true rates from 0% to 4.87%: too few samples to decide on
        the 1% limit. At this rate, about 299 samples would be enough.
    """
    most = percent(limit, _LIMIT_DIGITS)
    seen = f"{group.flips:,} of {group.samples:,} samples flipped ({percent(group.rate)})"
    if group.could_flip == 0:
        return f"The old model is right on none of {group.samples:,} samples, so that none could flip."
    if group.status == "pass":
        bound, side = f"at most {percent(group.upper)}", "within"
    if group.status == "fail":
        bound, side = f"at least {percent(group.lower)}", "over"
    if group.status != "inconclusive":
        return f"{seen}; the true rate is {bound} ({_sure(error)}), {side} the limit of {most}."
    if limit == 0:
        return f"{seen}, but {_never_zero(group.upper)}"
    fits = f"{seen}, which is consistent with true rates from {percent(group.lower)} to {percent(group.upper)}"
    if group.samples_needed is None:
        return f"{fits}: this rate is too close to the limit of {most} for any number of samples to decide."
    return (
        f"{fits}: too few samples to decide on the {most} limit. At this rate, about {group.samples_needed:,} samples "
        "would be enough."
    )


def groups_reason(groups: Sequence[GroupOutcome], limit: float, error: float, noun: tuple[str, str]) -> str:
    """The classes or slices that are over a limit or undecided, with their counts.

    Example:
        >>> groups = [GroupOutcome("cat", 9, 50, "fail", 0.09, 0.3), GroupOutcome("dog", 0, 50, "pass", 0.0, 0.06)]
        >>> print(groups_reason(groups, 0.06, 0.05, ("class", "classes")))
        1 of 2 classes is over the limit of 6%: cat (9 of 50, at least 9%).
    """
    most = percent(limit, _LIMIT_DIGITS)
    failed = sorted((group for group in groups if group.status == "fail"), key=lambda group: -group.lower)
    open_ = [group for group in groups if group.status == "inconclusive"]
    never_right = [group for group in open_ if group.could_flip == 0]
    open_ = sorted((group for group in open_ if group.could_flip != 0), key=_most_needed)
    many = f"{len(groups):,} {noun[len(groups) != 1]}"
    if worst_status([group.status for group in groups]) == "pass":
        closest = max(groups, key=lambda group: group.upper)
        return (
            f"{'The only ' + noun[0] + ' is' if len(groups) == 1 else 'All ' + many + ' are'} within the limit of "
            f"{most}; closest is {_counts(closest, f'at most {percent(closest.upper)}, {_sure(error)}')}."
        )
    sentences = []
    if failed:
        names = _list(failed, lambda group: _counts(group, f"at least {percent(group.lower)}"))
        sentences.append(
            f"{len(failed):,} of {many} {'is' if len(failed) == 1 else 'are'} over the limit of {most}: {names}."
        )
    if open_ and limit == 0:
        sentences.append(
            f"No flips in {len(open_):,} of {many}, but {_never_zero(max(group.upper for group in open_))}"
        )
    elif open_:
        names = _list(open_, lambda group: _counts(group, _needs(group)))
        sentences.append(f"Too few samples to decide on {len(open_):,} of {many} at a limit of {most}: {names}.")
    if never_right:
        names = _list(never_right, lambda group: f"{quote(group.title)} ({group.samples:,} samples)")
        sentences.append(
            f"In {len(never_right):,} of {many} the old model is right on no sample, so that none could flip: {names}."
        )
    return " ".join(sentences)


def must_not_flip_reason(flipped: Sequence[str], watched: int, already_wrong: int) -> str:
    """The samples that must not flip and did.

    Example:
        >>> print(must_not_flip_reason(["7", "a b"], 20, 1))
        2 of 20 samples that must not flip are negative flips: 7, 'a b'. The old model had 1 of the 20 wrong already,
        which cannot flip.
    """
    if flipped:
        verb = "is a negative flip" if len(flipped) == 1 else "are negative flips"
        first = f"{len(flipped):,} of {watched:,} samples that must not flip {verb}: {_list(flipped, quote)}."
    else:
        first = f"None of {watched:,} samples that must not flip is a negative flip."
    if not already_wrong:
        return first
    return f"{first} The old model had {already_wrong:,} of the {watched:,} wrong already, which cannot flip."


def _sure(error: float) -> str:
    return f"{percent(1 - error)} sure"


def accuracy_reason(right: int, samples: int, least: float, low: float, high: float, status: str) -> str:
    """Whether the old model is accurate enough for a comparison with it to mean something.

    Example:
        >>> print(accuracy_reason(90, 100, 0.8, 0.836, 0.945, "pass"))
        The old model is right on 90 of 100 samples (90%); its true accuracy is at least 83.6%, and must be at least
        80%.
    """
    seen = f"The old model is right on {right:,} of {samples:,} samples ({percent(right / samples)})"
    wanted = percent(least, _LIMIT_DIGITS)
    if status == "inconclusive":
        return (
            f"{seen}, which is consistent with true accuracies from {percent(low)} to {percent(high)}: too few samples"
            f" to tell whether it is {wanted}."
        )
    bound = f"at least {percent(low)}" if status == "pass" else f"at most {percent(high)}"
    return f"{seen}; its true accuracy is {bound}, and must be at least {wanted}."


def _never_zero(upper: float) -> str:
    # Rounded up to what `percent` shows, so that the limit that is named is one that passes.
    step = 10.0 ** (math.floor(math.log10(upper)) - 2)
    return (
        "no number of samples shows that a rate is exactly 0. List samples that must not flip in must_not_flip, or set "
        f"a limit above 0: these samples pass {percent(math.ceil(upper / step) * step)}."
    )


def _counts(group: GroupOutcome, more: str) -> str:
    return f"{quote(group.title)} ({group.flips:,} of {group.samples:,}, {more})"


def _needs(group: GroupOutcome) -> str:
    if group.samples_needed is None:
        return "too close to the limit for any number of samples"
    return f"needs about {group.samples_needed:,}"


def _most_needed(group: GroupOutcome) -> float:
    return -math.inf if group.samples_needed is None else -group.samples_needed


def _list(items: Sequence[_Item], write: Callable[[_Item], str]) -> str:
    more = len(items) - _MOST_NAMES
    return ", ".join(map(write, items[:_MOST_NAMES])) + (f" and {more:,} more" if more > 0 else "")
