"""What the tables of an update say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_flip.reports._plain_table import PlainTable, shorten
from lightning_flip.reports.update._flip_groups import FlipGroups

if TYPE_CHECKING:
    from lightning_flip.reports.update._flip_rates import FlipRate
    from lightning_flip.reports.update._numbers import UpdateNumbers
    from lightning_flip.reports.update.noise_floor import NoiseFloor

__all__ = ["summary_lines", "update_tables"]

_RATES = {
    "old_accuracy": "old accuracy",
    "new_accuracy": "new accuracy",
    "old_error": "old error",
    "new_error": "new error",
    "negative_flip_rate": "negative flip rate (NFR)",
    "positive_flip_rate": "positive flip rate (PFR)",
    "relative_negative_flip_rate": "relative NFR",
    "negative_flip_impact": "negative flip impact (NFI)",
    "trust_score": "trust score",
    "churn": "churn",
}
# Longer than names of classes, since an id that is cut cannot be looked up.
_LONGEST_ID = 120
_LONGEST_PATH = 60
_VERDICTS = {"below": "below all of these", "within": "within these", "above": "above all of these"}


def summary_lines(update: UpdateNumbers, decimals: int) -> list[str]:
    """Say in a few lines what was compared, and whether the accuracy changed. Returns sentences, not escaped."""
    old, new = update.rates["old_accuracy"].value, update.rates["new_accuracy"].value
    test = f"p = {update.mcnemar_p:.2g}" if update.mcnemar_p >= 1e-4 else "p < 0.0001"
    lines = [
        f"{_samples(update.num_samples)}. Accuracy {_percent(old, decimals)} before, {_percent(new, decimals)} now"
        f" ({100 * (new - old):+.{decimals}f} points; exact McNemar test of no change: {test})."
    ]
    if update.old_parameters is not None and update.new_parameters is not None:
        lines.append(f"Parameters: {update.old_parameters:,} before, {update.new_parameters:,} now.")
    left_out = (
        (update.only_old, "in the old model's file alone"),
        (update.only_new, "in the new model's file alone"),
        (update.outside_classes, "of classes that only one of the models knows"),
    )
    lines.extend(f"Left out: {_samples(count)} {reason}." for count, reason in left_out if count)
    return lines


def update_tables(update: UpdateNumbers, decimals: int, most_rows: int) -> list[PlainTable]:
    """Lay an update out in tables.

    Returns rates, noise floor, classes, slices, the flip matrix as a list, and the worst flips. Tables without rows are
    left out.
    """
    if most_rows < 1:
        raise ValueError(f"most_rows must be at least 1, got {most_rows}.")
    interval = f"{100 * update.confidence:g}% interval"
    tables = [_rates(update, decimals, interval)]
    if update.floor is not None:
        tables.append(_floor(update.floor, decimals, most_rows))
    groups = [("right class", "classes", update.classes)]
    groups += [(shorten(column), f"values of {shorten(column)}", found) for column, found in update.slices.items()]
    tables.extend(_groups(*group, decimals, most_rows, interval) for group in groups)
    if update.worst.total:
        tables.append(_pairs(update, decimals, most_rows))
    if update.worst.flips:
        tables.append(_worst(update, most_rows))
    return tables


def _rates(update: UpdateNumbers, decimals: int, interval: str) -> PlainTable:
    def cells(name: str, rate: FlipRate) -> tuple[str, ...]:
        among = "-" if rate.count is None or rate.among is None else f"{rate.count:,} of {rate.among:,}"
        return _RATES[name], _percent(rate.value, decimals), _interval(rate.low, rate.high, decimals), among

    if update.rates["relative_negative_flip_rate"].high is None:
        intervals = "The intervals are Wilson's."
    elif int(update.cells.negative):
        intervals = "Its interval is a bootstrap; the others are Wilson's."
    else:
        intervals = "Its interval ends where NFR's does, in its unit; the others are Wilson's."
    notes = (f"Relative NFR = NFR / (old accuracy x new error): 100% is that of independent models. {intervals}",)
    return PlainTable(
        "",
        ("rate", "value", interval, "samples"),
        tuple(cells(name, update.rates[name]) for name in _RATES),
        spare=(3,),
        notes=notes,
    )


def _floor(floor: NoiseFloor, decimals: int, most_rows: int) -> PlainTable:
    others = len(floor.names) - 1
    rows = [
        (shorten(name, _LONGEST_PATH), _percent(accuracy, decimals), _percent(replaces / others, decimals))
        for name, accuracy, replaces in zip(floor.names, floor.accuracies, floor.rates.sum(axis=0), strict=True)
    ]
    times = "" if floor.times_mean is None else f", {floor.times_mean:.2f} times the mean"
    apart = 100 * float(floor.accuracies.max() - floor.accuracies.min())
    notes = [
        f"NFR between these models, {others * len(rows)} ordered pairs on {floor.samples:,} samples: mean"
        f" {_percent(floor.mean, decimals)}, from {_percent(floor.lowest, decimals)} to"
        f" {_percent(floor.highest, decimals)}. The update's NFR there, {_percent(floor.update, decimals)}, is"
        f" {_VERDICTS[floor.verdict]}{times}.",
        f"Their accuracies lie up to {apart:.{decimals}f} points apart; the less, the more the floor is chance alone.",
    ]
    return PlainTable(
        "Noise floor: models said to be as good as the new one",
        ("model", "accuracy", "mean NFR where it replaces another"),
        tuple(rows[:most_rows]),
        notes=(*_more(len(rows), most_rows, "models"), *notes),
    )


def _groups(title: str, plural: str, groups: FlipGroups, decimals: int, most_rows: int, interval: str) -> PlainTable:
    cells = groups.cells
    rates = [cells.rate(name) for name in ("old_accuracy", "new_accuracy", "negative_flip_rate")]
    rows = [
        (
            shorten(groups.names[place]),
            f"{cells.total[place]:,}",
            *(_percent(float(rate[place]), decimals) for rate in rates),
            _interval(float(groups.low[place]), float(groups.high[place]), decimals),
            f"{cells.negative[place]:,}",
            f"{cells.positive[place]:,}",
        )
        for place in groups.worst_first()[:most_rows].tolist()
    ]
    headers = ("samples", "old acc", "new acc", "NFR", interval, "negative flips", "positive flips")
    return PlainTable(
        f"By {title}, worst first",
        (title, *headers),
        tuple(rows),
        spare=(5, 7, 2, 3),
        notes=_more(len(groups.names), most_rows, plural),
    )


def _pairs(update: UpdateNumbers, decimals: int, most_rows: int) -> PlainTable:
    pairs = update.matrix.to_list()
    rows = [
        (
            shorten(pair["right"]),
            shorten(pair["wrong"]),
            f"{pair['flips']:,}",
            _percent(int(pair["flips"]) / update.worst.total, decimals),
        )
        for pair in pairs[:most_rows]
    ]
    return PlainTable(
        "Where negative flips go",
        ("right class", "new prediction", "flips", "share of negative flips"),
        tuple(rows),
        words=2,
        spare=(3,),
        notes=_more(len(pairs), most_rows, "pairs of classes"),
    )


def _worst(update: UpdateNumbers, most_rows: int) -> PlainTable:
    flips = update.worst.flips[:most_rows]
    rows = [
        (
            shorten(flip.sample_id, _LONGEST_ID),
            shorten(flip.right),
            shorten(flip.wrong),
            *("-" if sure is None else f"{sure:.3f}" for sure in (flip.old_confidence, flip.new_confidence)),
        )
        for flip in flips
    ]
    return PlainTable(
        f"Worst negative flips, by {update.worst.order}",
        ("sample", "right class", "new prediction", "old confidence", "new confidence"),
        tuple(rows),
        words=3,
        spare=(3, 4),
        notes=_more(update.worst.total, len(flips), "negative flips"),
    )


def _more(there: int, shown: int, what: str) -> tuple[str, ...]:
    return (f"... and {there - shown:,} more {what}.",) if there > shown else ()


def _samples(count: int) -> str:
    return f"{count:,} {'sample' if count == 1 else 'samples'}"


def _percent(rate: float, decimals: int) -> str:
    return f"{100 * rate:.{decimals}f}%"


def _interval(low: float | None, high: float | None, decimals: int) -> str:
    if low is None or high is None:
        return "unknown"
    return f"{100 * low:.{decimals}f} to {_percent(high, decimals)}"
