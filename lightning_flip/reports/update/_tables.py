"""The tables of an update, as text."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_flip.reports.text import PlainTable, shorten
from lightning_flip.reports.update.counts import (
    CalibrationErrors,
    FlipCells,
    FlipGroups,
    FlipMatrix,
    FlipRate,
    WorstFlips,
)
from lightning_flip.reports.update.floor import LEVEL, FloorRank, NoiseFloor

__all__ = [
    "calibration_sentence",
    "count_samples",
    "floor_answers",
    "floor_table",
    "groups_table",
    "header",
    "interval",
    "more",
    "pairs_table",
    "percent",
    "rates_table",
    "worst_table",
]

_RATES = {
    "old_accuracy": "old accuracy",
    "new_accuracy": "new accuracy",
    "old_error": "old error",
    "new_error": "new error",
    "negative_flip_rate": "negative flip rate (NFR)",
    "positive_flip_rate": "positive flip rate (PFR)",
    "relative_negative_flip_rate": "relative NFR",
    "negative_flip_impact": "negative flip impact (NFI)",
    "positive_flip_impact": "positive flip impact (PFI)",
    "trust_score": "trust score",
    "error_compatibility": "error compatibility",
    "churn": "churn",
}
# Longer than names of classes, since an id that is cut cannot be looked up.
_LONGEST_ID = 120
_LONGEST_PATH = 60


def rates_table(rates: Mapping[str, FlipRate], cells: FlipCells, confidence: float, decimals: int) -> PlainTable:
    """Every rate with its interval, and what it was counted among."""

    def row(name: str, rate: FlipRate) -> tuple[str, ...]:
        among = "-" if rate.count is None or rate.among is None else f"{rate.count:,} of {rate.among:,}"
        return _RATES[name], percent(rate.value, decimals), interval(rate.low, rate.high, decimals), among

    if rates["relative_negative_flip_rate"].high is None:
        intervals = "The intervals are Wilson's."
    elif int(cells.negative):
        intervals = "Its interval is a bootstrap; the others are Wilson's."
    else:
        intervals = "Its interval ends where NFR's does, in its unit; the others are Wilson's."
    notes = (f"Relative NFR = NFR / (old accuracy x new error): 100% is that of independent models. {intervals}",)
    return PlainTable(
        "",
        ("rate", "value", header(confidence), "samples"),
        tuple(row(name, rates[name]) for name in _RATES),
        spare=(3,),
        notes=notes,
    )


def calibration_sentence(found: CalibrationErrors | None, samples: int, decimals: int) -> str:
    """The calibration errors, and what they are not good for."""
    if found is None:
        return "Calibration error (ECE): unknown, as not both files have confidences."
    among = "" if found.samples == samples else f" on the {found.samples:,} samples with both confidences"
    return (
        f"Calibration error (ECE, {found.n_bins} bins){among}: {percent(found.old, decimals)} before,"
        f" {percent(found.new, decimals)} now; biased upward on few samples, so that the difference is not judged."
    )


def floor_table(floor: NoiseFloor, decimals: int, most_rows: int) -> PlainTable:
    """The models of a noise floor with their rates, and what these say about the update."""
    replacing = ["-", *(percent(rate, decimals) for rate in floor.rates[0, 1:].tolist())]
    columns = (floor.names, floor.accuracies.tolist(), replacing, floor.mean_rates.tolist())
    rows = [
        (shorten(name, _LONGEST_PATH), percent(accuracy, decimals), from_old, percent(mean, decimals))
        for name, accuracy, from_old, mean in zip(*columns, strict=True)
    ]
    times = "" if floor.times_mean is None else f", {floor.times_mean:.2f} times the mean"
    notes = [
        f"NFR between models of the new recipe, {len(floor.pairs)} ordered pairs on {floor.samples:,} samples: mean"
        f" {percent(floor.mean, decimals)}, from {percent(floor.lowest, decimals)} to"
        f" {percent(floor.highest, decimals)}. The update's NFR there is {percent(floor.update, decimals)}{times}.",
        *(f"{question} {answer}" for question, answer in floor_answers(floor, decimals).items()),
    ]
    return PlainTable(
        "Noise floor: the old model, the new one, and further seeds of its recipe",
        ("model", "accuracy", "NFR in the new one's place", "mean NFR to and from the others"),
        tuple(rows[:most_rows]),
        notes=(*more(len(rows), most_rows, "models"), *notes),
    )


def floor_answers(floor: NoiseFloor, decimals: int) -> dict[str, str]:
    """Question -> answer, for both ranks of a noise floor."""
    seed, reseed = floor.unlucky_seed, floor.more_than_reseed
    old, *recipe = floor.accuracies.tolist()
    if reseed.missing or reseed.comparable:
        second = _verdict(reseed, "the update flips more than another seed of the new recipe would")
    else:
        second = (
            f"No verdict: the old model's accuracy, {percent(old, decimals)}, is outside those of the new recipe,"
            f" {percent(min(recipe), decimals)} to {percent(max(recipe), decimals)}, which alone makes flips."
        )
    return {
        "An unlucky seed?": f"The new model's NFR is {_placed(seed, decimals)}."
        f" {_verdict(seed, 'other seeds of the new recipe break less')}",
        "More than a reseed?": f"The old model's mean NFR to and from the others is {_placed(reseed, decimals)}."
        f" {second}",
    }


def _placed(rank: FloorRank, decimals: int) -> str:
    return (
        f"{percent(rank.value, decimals)} (place {rank.place:,} of {rank.among:,}, p = {rank.p_value:.2g}; the others"
        f" have {percent(min(rank.others), decimals)} to {percent(max(rank.others), decimals)})"
    )


def _verdict(rank: FloorRank, claim: str) -> str:
    if rank.missing:
        return f"No verdict: it takes {rank.missing} more {'seed' if rank.missing == 1 else 'seeds'}."
    return f"Yes: {claim} (level {LEVEL:.0%})." if rank.verdict else f"Not shown (level {LEVEL:.0%})."


def groups_table(
    title: str, plural: str, groups: FlipGroups, confidence: float, decimals: int, most_rows: int
) -> PlainTable:
    """Accuracies and flips by group, the worst first."""
    cells = groups.cells
    rates = [cells.rate(name) for name in ("old_accuracy", "new_accuracy", "negative_flip_rate")]
    rows = [
        (
            shorten(groups.names[place]),
            f"{cells.total[place]:,}",
            *(percent(float(rate[place]), decimals) for rate in rates),
            interval(float(groups.low[place]), float(groups.high[place]), decimals),
            f"{cells.negative[place]:,}",
            f"{cells.positive[place]:,}",
        )
        for place in groups.worst_first()[:most_rows].tolist()
    ]
    headers = ("samples", "old acc", "new acc", "NFR", header(confidence), "negative flips", "positive flips")
    return PlainTable(
        f"By {title}, worst first",
        (title, *headers),
        tuple(rows),
        spare=(5, 7, 2, 3),
        notes=more(len(groups.names), most_rows, plural),
    )


def pairs_table(matrix: FlipMatrix, total: int, decimals: int, most_rows: int) -> PlainTable:
    """Right and wrong classes of the negative flips, which are `total` in number."""
    pairs = matrix.to_list()
    rows = [
        (
            shorten(pair["right"]),
            shorten(pair["wrong"]),
            f"{pair['flips']:,}",
            percent(int(pair["flips"]) / total, decimals),
        )
        for pair in pairs[:most_rows]
    ]
    return PlainTable(
        "Where negative flips go",
        ("right class", "new prediction", "flips", "share of negative flips"),
        tuple(rows),
        words=(0, 1),
        spare=(3,),
        notes=more(len(pairs), most_rows, "pairs of classes"),
    )


def worst_table(worst: WorstFlips, most_rows: int) -> PlainTable:
    """The worst negative flips, one per row."""
    flips = worst.flips[:most_rows]
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
        f"Worst negative flips, by {worst.order}",
        ("sample", "right class", "new prediction", "old confidence", "new confidence"),
        tuple(rows),
        words=(0, 1, 2),
        spare=(3, 4),
        notes=more(worst.total, len(flips), "negative flips"),
    )


def more(there: int, shown: int, what: str) -> tuple[str, ...]:
    """A line about the rows that are left out, if there are any."""
    return (f"... and {there - shown:,} more {what}.",) if there > shown else ()


def count_samples(count: int) -> str:
    """The number with its noun."""
    return f"{count:,} {'sample' if count == 1 else 'samples'}"


def percent(rate: float, decimals: int) -> str:
    """A share in percent."""
    return f"{100 * rate:.{decimals}f}%"


def header(confidence: float) -> str:
    """The header of a column of intervals."""
    return f"{100 * confidence:g}% interval"


def interval(low: float | None, high: float | None, decimals: int) -> str:
    """The ends of an interval in percent."""
    if low is None or high is None:
        return "unknown"
    return f"{100 * low:.{decimals}f} to {percent(high, decimals)}"
