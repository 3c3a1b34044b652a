"""Why a limit passes, fails or is inconclusive, in a sentence or two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from lightning_flip.reports.gating._advice import advice_sentence
from lightning_flip.reports.gating._limits import GroupOutcome, Status, worst_status
from lightning_flip.reports.gating.measures import MEASURES
from lightning_flip.reports.text import quote

__all__ = ["ece_reason", "group_reason", "groups_reason", "level_of", "percent", "shown_limit", "watched_reason"]

# More names than these make a sentence unreadable; `to_dict` has them all.
_MOST_NAMES = 10
# A limit is shown as it was given, without the rounding of its binary number.
_LIMIT_DIGITS = 10
_LEAST_P = 1e-9

_Item = TypeVar("_Item")


def percent(rate: float, digits: int = 3) -> str:
    """A rate in percent.

    Example:
        >>> percent(0.01), percent(0.048702), percent(0.0), percent(1 / 3000), percent(0.012345, 10)
        ('1%', '4.87%', '0%', '0.0333%', '1.2345%')
    """
    return f"{100 * rate:.{digits}g}%"


def shown_limit(measure: str, value: float, digits: int = _LIMIT_DIGITS) -> str:
    """A limit, an estimate or a bound of a measure: a share in percent, another amount as it is."""
    return percent(value, digits) if MEASURES[measure].share else f"{value:.{digits}g}"


def group_reason(measure: str, group: GroupOutcome, limit: float, error: float | None) -> str:
    """Why the value of one group is within a limit, over it, or undecided; `error` is None for a fixed population.

    Example:
        >>> group = GroupOutcome("all samples", 0, 60, "inconclusive", 0.0, 0.0487, 1.0, 2185, 0.005)
        >>> print(group_reason("nfr", group, 0.01, 0.05))
        0 of 60 samples flipped (0%), which is consistent with true values from 0% to 4.87%: too few samples to decide
        on the 1% limit. A fresh test set of 2,185 samples would pass with a chance of 80% if the true rate is 0.5%.
    """

    def show(value: float, digits: int = 3) -> str:
        return shown_limit(measure, value, digits)

    about, wanted = MEASURES[measure], show(limit, _LIMIT_DIGITS)
    if group.could_flip == 0:
        return about.never.format(samples=group.samples)
    if group.estimate is None:
        return "There is nothing to count among: the new model makes no errors here."
    counted = f"{group.count:,.6g}" if isinstance(group.count, float) else f"{group.count:,}"
    among = f"{group.among:,.6g}" if isinstance(group.among, float) else f"{group.among:,}"
    seen = about.seen.format(count=counted, among=among, value=show(group.estimate))
    seen = seen[0].upper() + seen[1:]
    least = about.side == "least"
    if error is None:
        return f"{seen}; the limit for this set is at {about.side} {wanted}."
    if group.status == "inconclusive":
        if limit == 0 and about.share and group.count == 0:
            return f"{seen}, but {_never_zero(group.upper)}"
        fits = f"{seen}, which is consistent with true values from {show(group.lower)} to {show(group.upper)}"
        more = [_advice(group, limit)] if about.share and not least and measure != "accuracy_drop" else []
        return " ".join([f"{fits}: too few samples to decide on the {wanted} limit.", *more])
    high = (group.status == "pass") == least
    bound = f"at least {show(group.lower)}" if high else f"at most {show(group.upper)}"
    side = "within" if group.status == "pass" else "under" if least else "over"
    p_value = f"; {_p(group)}" if group.status == "fail" and group.p_value is not None else ""
    return f"{seen}; the true value is {bound} ({_sure(error)}{p_value}), {side} the limit of {wanted}."


def groups_reason(
    measure: str, groups: Sequence[GroupOutcome], limit: float, error: float | None, noun: tuple[str, str]
) -> str:
    """The classes or slices that are over a limit or undecided, with their counts.

    Example:
        >>> groups = [
        ...     GroupOutcome("cat", 9, 50, "fail", 0.09, 0.3, 0.002), GroupOutcome("dog", 0, 50, "pass", 0, 0.06)
        ... ]
        >>> print(groups_reason("nfr", groups, 0.06, 0.05, ("class", "classes")))
        1 of 2 classes is over the limit of 6%: cat (9 of 50, at least 9%, p = 0.002).
    """

    def show(value: float) -> str:
        return shown_limit(measure, value, 3)

    most = shown_limit(measure, limit)
    failed = sorted((group for group in groups if group.status == "fail"), key=lambda group: -group.lower)
    open_ = [group for group in groups if group.status == "inconclusive"]
    never = [group for group in open_ if group.could_flip == 0 or group.estimate is None]
    decidable = sorted((group for group in open_ if group not in never), key=lambda group: -(group.samples_needed or 0))
    many = f"{len(groups):,} {noun[len(groups) != 1]}"
    if worst_status([group.status for group in groups]) == "pass":
        closest = max(groups, key=lambda group: group.upper)
        bound = f"at most {show(closest.upper)}" + ("" if error is None else f", {_sure(error)}")
        return (
            f"{'The only ' + noun[0] + ' is' if len(groups) == 1 else 'All ' + many + ' are'} within the limit of "
            f"{most}; closest is {_counts(closest, bound)}."
        )
    sentences = []
    if failed:
        names = _list(
            failed, lambda group: _counts(group, ", ".join(filter(None, [f"at least {show(group.lower)}", _p(group)])))
        )
        sentences.append(
            f"{len(failed):,} of {many} {'is' if len(failed) == 1 else 'are'} over the limit of {most}: {names}."
        )
    if decidable and limit == 0 and all(group.count == 0 for group in decidable):
        sentences.append(
            f"No flips in {len(decidable):,} of {many}, but {_never_zero(max(group.upper for group in decidable))}"
        )
    elif decidable:
        names = _list(decidable, lambda group: _counts(group, _needs(group)))
        sentences.append(f"Too few samples to decide on {len(decidable):,} of {many} at a limit of {most}: {names}.")
    if never:
        names = _list(never, lambda group: f"{quote(group.title)} ({group.samples:,} samples)")
        sentences.append(f"In {len(never):,} of {many} {_NEVER.get(measure, 'nothing could count')}: {names}.")
    return " ".join(sentences)


_RIGHT_ON_NONE = "the old model is right on no sample, so that none could flip"
_NEVER = {
    "nfr": _RIGHT_ON_NONE,
    "accuracy_drop": _RIGHT_ON_NONE,
    "nfi": "the old model is right on no sample, or the new model makes no errors",
}


def watched_reason(kind: str, broken: Sequence[str], watched: int, already_wrong: int, allowed: int) -> str:
    """The samples of a list that the new model broke.

    Example:
        >>> print(watched_reason("must_not_flip", ["7", "a b"], 20, 1, 0))
        2 of 20 samples that must not flip are negative flips: 7, 'a b'. The old model had 1 of the 20 wrong already,
        which cannot flip.
    """
    rule, one, many = {
        "must_not_flip": ("must not flip", "is a negative flip", "are negative flips"),
        "must_be_right": ("must be right", "is wrong", "are wrong"),
    }[kind]
    if broken:
        verb = one if len(broken) == 1 else many
        said = [f"{len(broken):,} of {watched:,} samples that {rule} {verb}: {_list(broken, quote)}."]
    else:
        said = [f"None of {watched:,} samples that {rule} {one}."]
    if already_wrong and kind == "must_not_flip":
        said.append(f"The old model had {already_wrong:,} of the {watched:,} wrong already, which cannot flip.")
    if allowed:
        said.append(f"{allowed:,} more may flip by exception.")
    return " ".join(said)


def ece_reason(rise: float, limit: float, status: Status) -> str:
    """What a rise of the calibration error says, and why it cannot decide.

    Example:
        >>> print(ece_reason(0.009, 0.02, "pass"))
        The expected calibration error rose by 0.009, within the limit of 0.02. Its estimate is biased, so that this is
        a hint and no test.
    """
    side = "within" if status == "pass" else "over"
    return (
        f"The expected calibration error rose by {rise:.3g}, {side} the limit of {limit:.{_LIMIT_DIGITS}g}. Its"
        " estimate is biased, so that this is a hint and no test."
    )


def level_of(measure: str, groups: int, error: float, looks: int, clusters: str) -> str:
    """Which chance of error a decision has, in words; `error` is that of one look.

    Example:
        >>> print(level_of("nfr", 3, 0.05, 1, ""))
        A false pass and a false fail each have a chance of at most 5% (exact Clopper-Pearson bounds; to pass, each of 3
        groups has to; to fail, Holm's procedure over them).
    """
    ways = [MEASURES[measure].bound]
    if looks > 1:
        ways.append(f"{percent(error * looks)} spent over {looks} planned looks")
    if groups > 1:
        ways.append(f"to pass, each of {groups:,} groups has to; to fail, Holm's procedure over them")
    if clusters:
        ways.append(clusters)
    return f"A false pass and a false fail each have a chance of at most {percent(error)} ({'; '.join(ways)})."


def _p(group: GroupOutcome) -> str:
    if group.p_value is None:
        return ""
    return f"p = {group.p_value:.2g}" if group.p_value >= _LEAST_P else f"p < {_LEAST_P:g}"


def _sure(error: float) -> str:
    return f"{percent(1 - error)} sure"


def _advice(group: GroupOutcome, limit: float) -> str:
    needed = math.inf if group.samples_needed is None else group.samples_needed
    return "" if group.assumed_rate is None else advice_sentence(group.assumed_rate, needed, limit)


def _never_zero(upper: float) -> str:
    # Rounded up to what `percent` shows, so that the limit that is named is one that passes.
    step = 10.0 ** (math.floor(math.log10(upper)) - 2)
    return (
        "no number of samples shows that a rate is exactly 0. List samples that must not flip in must_not_flip, or set "
        f"a limit above 0: these samples pass {percent(math.ceil(upper / step) * step)}."
    )


def _counts(group: GroupOutcome, more: str) -> str:
    return f"{quote(group.title)} ({group.count:,} of {group.among:,}, {more})"


def _needs(group: GroupOutcome) -> str:
    if group.samples_needed is None or group.assumed_rate is None:
        return "too close to the limit"
    return f"needs about {group.samples_needed:,} if its rate is {percent(group.assumed_rate)}"


def _list(items: Sequence[_Item], write: Callable[[_Item], str]) -> str:
    more = len(items) - _MOST_NAMES
    return ", ".join(map(write, items[:_MOST_NAMES])) + (f" and {more:,} more" if more > 0 else "")
