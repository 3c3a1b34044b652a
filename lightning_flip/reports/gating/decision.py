"""The gate: limits on what an update breaks, decided on bounds of the true values."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.gating._limits import GroupOutcome, Status, judge_groups, worst_status
from lightning_flip.reports.gating._reasons import ece_reason, group_reason, groups_reason, level_of, watched_reason
from lightning_flip.reports.gating._tables import MARKS, evidence, flips_sentence, limits_table
from lightning_flip.reports.gating._watched import WatchedKind, find_places, find_watched, texts
from lightning_flip.reports.gating.measures import MEASURES, Evidence, tally_groups
from lightning_flip.reports.text import html_report, quote
from lightning_flip.reports.update.counts import FlipRate, calibration_errors, count_cells, flip_rates
from lightning_flip.reports.update.join import JoinedPredictions, Source, join_predictions

if TYPE_CHECKING:
    import pandas

__all__ = ["LIMITS", "GateResult", "JoinOptions", "LimitOutcome", "Limits", "gate", "needed_scores"]

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Tier = Literal["block", "warn"]

_EXIT_CODES: dict[Status, int] = {"pass": 0, "fail": 1, "inconclusive": 3}
_NOUNS = {"class": ("class", "classes"), "slice": ("slice", "slices")}
_ECE = "max_ece_increase"
_MOST_NAMED = 5


class Limits(TypedDict, total=False):
    """Limits on an update; None or absent for none. Rates are shares, in [0, 1].

    Those that end in `_per_class` and `_per_slice` hold for the samples of each class (the right class, not the
    predicted one) and of each value of each slice column.
    """

    #: Negative flips among all samples: negative flip rate.
    max_nfr: float | None
    max_nfr_per_class: float | None
    max_nfr_per_slice: float | None
    #: Negative flips among the errors of the new model: negative flip impact.
    max_nfi: float | None
    max_nfi_per_class: float | None
    max_nfi_per_slice: float | None
    #: Samples whose predicted class changed.
    max_churn: float | None
    max_churn_per_class: float | None
    max_churn_per_slice: float | None
    #: Accuracy of the old model less that of the new one.
    max_accuracy_drop: float | None
    max_accuracy_drop_per_class: float | None
    max_accuracy_drop_per_slice: float | None
    #: Samples whose label was among the `top_k` best classes of the old model and is not among those of the new one.
    max_top_k_flips: float | None
    #: Negative flip rate by that of two models with independent errors.
    max_relative_nfr: float | None
    #: Mean of `costs` over all samples, 0 for a sample that is no negative flip.
    max_flip_cost: float | None
    #: Mean decrease of the probability of the right class.
    max_confidence_drop: float | None
    #: Mean increase of the Brier score, from 0 to 2.
    max_brier_increase: float | None
    #: Mean increase of the negative log-likelihood; probabilities below 1e-4 count as that.
    max_nll_increase: float | None
    #: Increase of the expected calibration error; can only warn.
    max_ece_increase: float | None
    #: Smallest accuracy of the old model. What it has wrong cannot flip, so that a poor one passes every other limit.
    min_old_accuracy: float | None


class JoinOptions(TypedDict, total=False):
    """Options of `join_predictions`."""

    allow_partial: bool
    shared_classes: bool
    shared_argmax: bool
    slices: Any
    drop_unlabelled: bool
    min_coverage: float


class _Options(Limits, JoinOptions):
    """Whatever `gate` takes by name besides its own arguments."""


#: The names of all limits.
LIMITS = tuple(Limits.__annotations__)


@dataclasses.dataclass(frozen=True)
class LimitOutcome:
    """The decision on one limit.

    Attributes:
        name: a name of `LIMITS`, `"must_not_flip"` or `"must_be_right"`.
        status: `"pass"`, `"fail"` or `"inconclusive"`.
        reason: why, in a sentence or two; labels and ids in it are shortened and free of control characters.
        limit: what is accepted at most (for `min_old_accuracy`, at least); None for lists of samples.
        groups: the groups that were compared with the limit: all samples, each class, or each value of each slice
            column; empty for lists of samples and for `max_ece_increase`.
        watched: how many samples the list names; None for the other limits.
        already_wrong: how many of these the old model had wrong; None for the other limits.
        flipped: ids of those that flipped, or for `must_be_right` are wrong.
        tier: `"block"` if the verdict depends on it, `"warn"` if it is only reported.
        level: which chance of error the decision has, in words.
        unjudged: how many groups had too few samples to be judged.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "fail", "...", watched=2, already_wrong=0, flipped=("7",))
        >>> outcome.to_dict()["flipped"], outcome.measure
        (['7'], None)
    """

    name: str
    status: Status
    reason: str
    limit: float | None = None
    groups: tuple[GroupOutcome, ...] = ()
    watched: int | None = None
    already_wrong: int | None = None
    flipped: tuple[str, ...] = ()
    tier: Tier = "block"
    level: str = ""
    unjudged: int = 0

    @property
    def measure(self) -> str | None:
        """What is limited, one of `MEASURES`; None for lists of samples and for `max_ece_increase`."""
        measure = self.name.partition("_per_")[0].partition("_")[2]
        return measure if measure in MEASURES else None

    def to_dict(self) -> dict[str, Any]:
        """The outcome in the types of JSON: a limit and groups, or the counts and ids of a list of samples."""
        about = {key: getattr(self, key) for key in ("name", "status", "reason", "tier")}
        if self.limit is None:
            return about | {
                "watched": self.watched,
                "already_wrong": self.already_wrong,
                "flipped": list(self.flipped),
            }
        groups = [group.to_dict() for group in self.groups]
        return about | {"limit": self.limit, "level": self.level, "unjudged": self.unjudged, "groups": groups}


@dataclasses.dataclass(frozen=True)
class GateResult:
    """The decision on an update; `gate` returns it.

    Attributes:
        outcomes: one per limit, at least one.
        error: the chance of each of the two mistakes that each limit's bounds allow, over all looks.
        samples: how many samples were compared.
        flips: how many of them are negative flips.
        left_out: how many rows joining left out, by reason (`only_old`, `only_new`, `outside_classes`, `unlabelled`),
            without zeros.
        old_name: where the old model's predictions came from.
        new_name: where the new model's predictions came from.
        rates: accuracy of the old and the new model with intervals, `old_accuracy` and `new_accuracy`; the count of the
            first is that of the samples that could flip.
        warnings: what makes the verdict doubtful, in sentences.
        policy: what was asked.
        inconclusive: what a verdict that is inconclusive counts as: `"fail"`, `"warn"` or `"pass"`; None for a status
            of its own.

    Example:
        >>> outcome = LimitOutcome("must_not_flip", "pass", "...", watched=2, already_wrong=0)
        >>> result = GateResult((outcome,), 0.05, 100, 3)
        >>> result.status, result.exit_code
        ('pass', 0)
    """

    outcomes: tuple[LimitOutcome, ...]
    error: float
    samples: int
    flips: int
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    old_name: str = "old"
    new_name: str = "new"
    rates: Mapping[str, FlipRate] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    policy: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inconclusive: Literal["fail", "warn", "pass"] | None = None

    @property
    def blocking(self) -> tuple[LimitOutcome, ...]:
        """The limits that the verdict depends on."""
        return tuple(outcome for outcome in self.outcomes if outcome.tier == "block")

    @property
    def advisory(self) -> tuple[LimitOutcome, ...]:
        """The limits that are only reported."""
        return tuple(outcome for outcome in self.outcomes if outcome.tier == "warn")

    @property
    def status(self) -> Status:
        """`"fail"` when any blocking limit fails, else `"inconclusive"` when any is open, else `"pass"`."""
        return worst_status([outcome.status for outcome in self.blocking])

    @property
    def exit_code(self) -> int:
        """Exit status of the command line: 0 pass, 1 fail, 3 inconclusive (2 is for wrong usage).

        `inconclusive` replaces the 3.
        """
        if self.status == "inconclusive" and self.inconclusive is not None:
            return int(self.inconclusive == "fail")
        return _EXIT_CODES[self.status]

    def _repr_html_(self) -> str:
        flips = flips_sentence(self.flips, self.samples, self.left_out)
        names = f"{quote(self.old_name)} → {quote(self.new_name)}"
        facts = evidence(self.rates, self.samples, self.warnings)
        heading = f"{MARKS[self.status]} Update gate: {self.status}"
        return html_report([f"{names}: {flips}", *facts, limits_table(self.outcomes)], heading)

    def to_dict(self) -> dict[str, Any]:
        """Everything in the types of JSON: lists, dicts, text, numbers and None."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "old": self.old_name,
            "new": self.new_name,
            "error": self.error,
            "samples": self.samples,
            "negative_flips": self.flips,
            "negative_flip_rate": self.flips / self.samples,
            **{name: dataclasses.asdict(rate) for name, rate in self.rates.items()},
            "could_flip": self.rates["old_accuracy"].count if self.rates else None,
            "warnings": list(self.warnings),
            "left_out": dict(self.left_out),
            "policy": dict(self.policy),
            "limits": [outcome.to_dict() for outcome in self.outcomes],
        }

    def to_frame(self) -> pandas.DataFrame:
        """One row for each limit and group, as a pandas table: `limit`, `status`, `group`, `count`, `among`, ...

        Limits without groups have one row without these numbers. Needs pandas.
        """
        import pandas

        rows: list[dict[str, Any]] = []
        for outcome in self.outcomes:
            about = {"limit": outcome.name, "tier": outcome.tier, "status": outcome.status, "at_most": outcome.limit}
            groups = [
                dataclasses.asdict(group) | {"group": group.title, "estimate": group.estimate}
                for group in outcome.groups
            ]
            rows += [about | group for group in groups] or [about]
        return pandas.DataFrame(rows).drop(columns=["name", "column"], errors="ignore")


def gate(
    old: Source | JoinedPredictions,
    new: Source | None = None,
    *,
    must_not_flip: Iterable[str | int] | None = None,
    must_be_right: Iterable[str | int] | None = None,
    warn: Mapping[str, float] | None = None,
    allowed_flips: Mapping[str, str] | None = None,
    costs: Mapping[tuple[str | int, str | int], float] | None = None,
    top_k: int = 5,
    min_support: int = 0,
    population: Literal["sample", "fixed"] = "sample",
    cluster: str | None = None,
    design_effect: bool = False,
    looks: int = 1,
    error: float = 0.05,
    inconclusive: Literal["fail", "warn", "pass"] | None = None,
    **options: Unpack[_Options],
) -> GateResult:
    r"""Decide whether a new model breaks too much of what the old one had right.

    A negative flip is a sample that the old model has right and the new one wrong; the negative flip rate (NFR) is
    their share of all samples (Yan et al., 2021, "Positive-Congruent Training", Eq. 2). Samples are assumed to be
    drawn independently from those the model will meet, and each limit is a claim about all of these. A limit passes if
    the upper bound of the true value is at most the limit, fails if the lower bound is over it, and is inconclusive
    otherwise; the outcome then tells how many samples would decide. A limit is inconclusive, too, where nothing could
    count, such as flips where the old model is right on no sample. Gating on bounds is our own; the paper reports rates
    alone.

    Whatever the true values are, the chance to pass although one is over its limit is at most `error`, and so is the
    chance that a limit fails although it holds in all of its groups (`judge_groups` tells how that holds over many
    groups, `LimitOutcome.level` which bounds are approximate). Limits are not corrected for each other: to *pass* a
    gate of several limits is wrong with a chance of at most `error` still, to *fail* it with a chance of at most
    `error` times their number.

    Args:
        old: the old model's predictions: a table of pandas, polars or Arrow, the path of a file that `read_predictions`
            reads, or a `PredictionSet`; or both models' joined predictions.
        new: the new model's predictions; None with joined ones.
        must_not_flip: ids of samples that must not be negative flips, as text or integers; a single flip fails. Ids
            that the old model had wrong cannot flip; the outcome counts them.
        must_be_right: ids of samples that the new model must have right, whatever the old one did.
        warn: further limits by their names, which are reported and do not change the verdict.
        allowed_flips: id -> reason of negative flips that are known and do not count, neither for rates and costs of
            flips nor for lists of samples.
        costs: (right class, predicted class) -> cost of such a negative flip, at least 0, for `max_flip_cost`. A pair
            that is not there costs nothing.
        top_k: the number of best classes of `max_top_k_flips`.
        min_support: classes and slices with fewer samples are not judged; the outcome counts them.
        population: `"sample"`, or `"fixed"` if the samples are all there are: observed values decide, without bounds.
        cluster: a column whose values tell which samples belong together, such as the patient. Its clusters count
            instead of the samples, which is conservative.
        design_effect: with `cluster`, estimate how much the samples of a cluster agree (Korn and Graubard, 1998), for
            shares of at least 40 clusters that count. Less conservative, and approximate.
        looks: how often you plan to look at such data until you decide; each look gets `error / looks`.
        error: the chance of each mistake, between 0 and 0.5.
        inconclusive: what an inconclusive verdict counts as in `GateResult.exit_code`.
        **options: limits, by the names in `Limits`, and options of `join_predictions`, such as `slices`.

    Returns:
        The result. A limit of 0 fails at the first flip and is inconclusive without one, since no number of samples
        shows that a rate is exactly 0; `must_not_flip` is the limit for chosen samples.

    Raises:
        ValueError: if no limit is given, an argument is outside its range, there are no samples, a limit per slice
            comes without slices, ids of a list are not among the samples, or costs belong to no class.
        TypeError: if an argument is unknown, a list of ids is one text or holds other types, or if `new` is missing, or
            comes with joined predictions.
        PredictionError: if the predictions cannot be read or joined, or do not hold what a limit needs.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> import pyarrow as pa
        >>> right = np.zeros(500, np.int64)
        >>> ids = pa.array([str(position) for position in range(500)])
        >>> joined = JoinedPredictions(ids, labels=(0, 1), target=right, old_pred=right, new_pred=right)
        >>> result = gate(joined, max_nfr=0.01, max_nfr_per_class=0.005, must_not_flip=["3", "7"])
        >>> [outcome.status for outcome in result.outcomes], result.status, result.exit_code
        (['pass', 'inconclusive', 'pass'], 'inconclusive', 3)
        >>> print(result.outcomes[1].reason)
        Too few samples to decide on 1 of 1 class at a limit of 0.5%: 0 (0 of 500, needs about 4,374 if its rate is ...

        Tables need no joining:

        >>> table = pa.table({"sample_id": ids, "target": right, "pred": right})
        >>> gate(table, table, max_nfr=0.01).status
        'pass'
    """
    block, joining = _split(options)
    limits: list[tuple[str, float, Tier]] = [(name, limit, "block") for name, limit in block.items()]
    limits += [(name, limit, "warn") for name, limit in (warn or {}).items()]
    lists: dict[WatchedKind, Iterable[str | int]] = {}
    if must_not_flip is not None:
        lists["must_not_flip"] = must_not_flip
    if must_be_right is not None:
        lists["must_be_right"] = must_be_right
    _check(limits, lists, error, looks, min_support, top_k, population, costs)
    joined = _joined(old, new, joining, [name for name, _, _ in limits], cluster, top_k)
    if not joined.num_samples:
        raise ValueError("joined must have at least one sample, got none.")
    allowed = {str(one): reason for one, reason in (allowed_flips or {}).items()}
    places = find_places(joined, texts("allowed_flips", allowed))
    waived = np.zeros(joined.num_samples, bool)
    waived[places[places >= 0]] = True
    waived &= joined.negative_flips
    found = Evidence(
        joined,
        waived,
        None if cluster is None else _clusters(joined, cluster),
        design_effect,
        {(str(right), str(wrong)): cost for (right, wrong), cost in (costs or {}).items()},
        top_k,
    )
    how = _How(error / looks, looks, population == "fixed", min_support, cluster)
    outcomes = [_judge(name, limit, tier, found, how) for name, limit, tier in limits]
    outcomes += [_judge_list(kind, ids, found) for kind, ids in lists.items()]
    left_out = {name: getattr(joined, name) for name in ("only_old", "only_new", "outside_classes", "unlabelled")}
    rates = flip_rates(count_cells(joined.old_right, joined.new_right), 0)
    asked = {"error": error, "looks": looks, "population": population, "cluster": cluster, "min_support": min_support}
    return GateResult(
        tuple(outcomes),
        error,
        joined.num_samples,
        int(joined.negative_flips.sum()),
        {name: count for name, count in left_out.items() if count},
        joined.old_name,
        joined.new_name,
        {name: rates[name] for name in ("old_accuracy", "new_accuracy")},
        (*joined.warnings, *_about_allowed(allowed, places, waived), *_about_limits(outcomes, inconclusive)),
        {"block": block, "warn": dict(warn or {}), **asked},
        inconclusive,
    )


@dataclasses.dataclass(frozen=True)
class _How:
    """How limits are decided."""

    error: float
    looks: int
    fixed: bool
    min_support: int
    cluster: str | None

    def level(self, measure: str, groups: int, design_effect: bool) -> str:
        """Which chance of error a decision has, in words."""
        if self.fixed:
            return "The samples are all there are: the observed value decides, without an interval."
        clusters = ""
        if self.cluster is not None:
            way = "the observed variance between clusters where enough flipped, approximately" if design_effect else ""
            clusters = f"clusters of {quote(self.cluster)} count, not samples{'; ' if way else ''}{way}"
        return level_of(measure, groups, self.error, self.looks, clusters)


def _split(options: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Limits that are given, and options of joining; anything else is unknown."""
    known = {*LIMITS, *JoinOptions.__annotations__}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"gate() got an unknown argument {name!r}{f'; did you mean {near[0]}?' if near else '.'}")
    limits = {name: options[name] for name in LIMITS if options.get(name) is not None}
    return limits, {name: value for name, value in options.items() if name not in LIMITS}


def _check(
    limits: list[tuple[str, float, Tier]],
    lists: Mapping[WatchedKind, Any],
    error: float,
    looks: int,
    min_support: int,
    top_k: int,
    population: str,
    costs: Mapping[Any, float] | None,
) -> None:
    if not limits and not lists:
        raise ValueError(f"At least one limit must be given: {', '.join(LIMITS)}, must_not_flip or must_be_right.")
    for name, limit, tier in limits:
        if name not in LIMITS:
            near = difflib.get_close_matches(name, LIMITS, n=1)
            raise ValueError(f"warn must name limits, got {name!r}{f'; did you mean {near[0]}?' if near else '.'}")
        if name == _ECE and tier == "block":
            raise ValueError(f"{_ECE} can only warn, since its estimate is biased; pass warn={{{_ECE!r}: {limit}}}.")
        amount = name in ("max_flip_cost", "max_brier_increase", "max_nll_increase", "max_relative_nfr")
        if not 0.0 <= limit <= (np.inf if amount else 1.0):
            wanted = "at least 0" if amount else "in [0, 1], a share and no percentage"
            raise ValueError(f"{name} must be {wanted}, got {limit}.")
        if name == "max_flip_cost" and not costs:
            raise ValueError("max_flip_cost needs costs: (right class, predicted class) -> cost of such a flip.")
    if not 0.0 < error < 0.5:
        raise ValueError(f"error must be between 0 and 0.5, got {error}.")
    for name, number, least in (("looks", looks, 1), ("min_support", min_support, 0), ("top_k", top_k, 1)):
        if not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}.")
    if population not in ("sample", "fixed"):
        raise ValueError(f'population must be "sample" or "fixed", got {population!r}.')


def _joined(
    old: Source | JoinedPredictions,
    new: Source | None,
    joining: dict[str, Any],
    limits: list[str],
    cluster: str | None,
    top_k: int,
) -> JoinedPredictions:
    if not isinstance(old, JoinedPredictions):
        if new is None:
            raise TypeError("new must be given: the new model's predictions, to be joined with the old model's.")
        slices = joining.pop("slices", ())
        columns = dict.fromkeys([*([slices] if isinstance(slices, str) else slices), *([cluster] if cluster else [])])
        return join_predictions(old, new, slices=list(columns), scores=needed_scores(limits, top_k), **joining)
    if new is not None or joining:
        extra = ["new", *joining] if new is not None else [*joining]
        raise TypeError(f"old holds both models' joined predictions, so {', '.join(extra)} cannot be given.")
    return old


def needed_scores(limits: Iterable[str], top_k: int = 5) -> list[str]:
    """The scores of `join_predictions` that limits are decided on.

    Example:
        >>> needed_scores(["max_nfr", "max_nll_increase", "max_top_k_flips"], top_k=3)
        ['nll', 'in_top_3']
    """
    found = (MEASURES[_parts(name)[0]].scores for name in limits if name != _ECE)
    return list(dict.fromkeys(score.replace("_k", f"_{top_k}") for needed in found for score in needed))


def _parts(name: str) -> tuple[str, str]:
    """Measure and grouping of a limit.

    Example:
        >>> _parts("max_nfr_per_class"), _parts("min_old_accuracy")
        (('nfr', 'class'), ('old_accuracy', ''))
    """
    limited, _, per = name.partition("_per_")
    return limited.partition("_")[2], per


def _clusters(joined: JoinedPredictions, cluster: str) -> Integers:
    if cluster not in joined.slices:
        raise ValueError(f"cluster must be a column that the predictions were joined with as a slice, got {cluster!r}.")
    names, codes = joined.slice_codes(cluster)
    if "" in names:
        missing = int((codes == names.index("")).sum())
        raise ValueError(f"cluster {quote(cluster)} must have a value for every sample, but {missing:,} have none.")
    return codes


def _judge(name: str, limit: float, tier: Tier, found: Evidence, how: _How) -> LimitOutcome:
    """Compare all samples, the classes, or the slices of all columns with one limit."""
    if name == _ECE:
        errors = calibration_errors(found.joined)
        if errors is None:
            raise ValueError(f"{_ECE} needs confidences of both models, but a file has none.")
        rise = errors.new - errors.old
        status: Status = "pass" if rise <= limit else "fail"
        return LimitOutcome(name, status, ece_reason(rise, limit, status), limit, tier=tier, level="A hint, no test.")
    measure, per = _parts(name)
    groupings = list(_groupings(found.joined, per, how.cluster)) if per else []
    if per and not groupings:
        raise ValueError(
            f"{name} needs slices, but the predictions were joined without any. Name at least one column of the files"
            " as a slice when joining them."
        )
    tally = tally_groups(measure, found, [(codes, len(names)) for _, names, codes in groupings] or None, how.error)
    titles = [(column, name) for column, names, _ in groupings for name in names] or [(None, "all samples")]
    judged = (tally.samples >= max(how.min_support, 1)) if per else np.ones(1, bool)
    unjudged = int(((tally.samples > 0) & ~judged).sum())
    error = None if how.fixed else how.error
    if not judged.any():
        reason = f"None of {unjudged:,} {_NOUNS[per][1]} has the {how.min_support:,} samples that min_support asks for."
        return LimitOutcome(name, "inconclusive", reason, limit, tier=tier, unjudged=unjudged)
    titles = [title for title, keep in zip(titles, judged.tolist(), strict=True) if keep]
    groups = judge_groups(
        [str(title) for _, title in titles],
        tally.keep(judged),
        limit,
        how.error,
        columns=[column for column, _ in titles],
        side=MEASURES[measure].side,
        fixed=how.fixed,
    )
    if per:
        reason = groups_reason(measure, groups, limit, error, _NOUNS[per])
        if unjudged:
            few = (
                f"{unjudged:,} with under {how.min_support:,} samples {'was' if unjudged == 1 else 'were'} not judged."
            )
            reason = f"{reason} {few}"
    else:
        reason = group_reason(measure, groups[0], limit, error)
    status = worst_status([group.status for group in groups])
    level = how.level(measure, len(groups), found.design_effect)
    return LimitOutcome(name, status, reason, limit, groups, tier=tier, level=level, unjudged=unjudged)


def _groupings(
    joined: JoinedPredictions, per: str, cluster: str | None
) -> Iterator[tuple[str | None, tuple[int | str, ...], Integers]]:
    """Column, names of groups, and the group of each sample."""
    if per == "class":
        yield None, joined.labels, joined.target
    else:
        for column in joined.slices:
            if column != cluster:
                yield column, *joined.slice_codes(column)


def _judge_list(kind: WatchedKind, ids: Iterable[str | int], found: Evidence) -> LimitOutcome:
    joined = found.joined
    watched, rows = find_watched(joined, kind, ids)
    marks: Bools = joined.negative_flips if kind == "must_not_flip" else ~joined.new_right
    broken = tuple(one for one, row in zip(watched, rows.tolist(), strict=True) if marks[row] and not found.waived[row])
    allowed = int((marks & found.waived)[rows].sum())
    wrong = int((~joined.old_right[rows]).sum())
    return LimitOutcome(
        kind,
        "fail" if broken else "pass",
        watched_reason(kind, broken, len(watched), wrong, allowed),
        watched=len(watched),
        already_wrong=wrong,
        flipped=broken,
        level="Every sample of the list is checked.",
    )


def _about_allowed(allowed: Mapping[str, str], places: Integers, waived: Bools) -> Iterator[str]:
    used = [
        f"{quote(one)} ({quote(reason)})"
        for (one, reason), place in zip(allowed.items(), places.tolist(), strict=True)
        if place >= 0 and waived[place]
    ]
    if used:
        what = "negative flip is" if len(used) == 1 else "negative flips are"
        yield f"{len(used):,} {what} allowed by exception and not counted: {_first(used)}."
    idle = [quote(one) for one, place in zip(allowed, places.tolist(), strict=True) if place < 0 or not waived[place]]
    if idle:
        yield f"{len(idle):,} of {len(allowed):,} exceptions belong to no negative flip and can go: {_first(idle)}."


def _about_limits(outcomes: list[LimitOutcome], inconclusive: str | None) -> Iterator[str]:
    blocking = [outcome.status for outcome in outcomes if outcome.tier == "block"]
    if not blocking:
        yield "No limit blocks: all of them only warn, so that this gate passes whatever they say."
    if worst_status(blocking) == "inconclusive" and inconclusive is not None:
        yield f"The verdict is inconclusive, and counts as {inconclusive}."


def _first(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
