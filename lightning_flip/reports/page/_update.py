"""The page of an old and a new model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from lightning_flip.reports.gating.decision import GateResult
from lightning_flip.reports.page._chart import chart, counted, percent, text, wide_and_narrow
from lightning_flip.reports.page._markup import Safe, element, joined
from lightning_flip.reports.page._parts import Page, Section, Sprite, missing, thumbnail
from lightning_flip.reports.text import shorten
from lightning_flip.reports.update.comparison import UpdateComparison
from lightning_flip.reports.update.counts import FlipGroups, FlipRate

__all__ = ["update_page"]

_MOST_GROUPS = 40
_LONGEST_ID, _LONGEST_TITLE = 80, 120
_RATES = (
    ("old_accuracy", "accuracy of the old model"),
    ("new_accuracy", "accuracy of the new model"),
    ("negative_flip_rate", "negative flip rate (right before, wrong now)"),
    ("positive_flip_rate", "positive flip rate (wrong before, right now)"),
    ("negative_flip_impact", "negative flips among the new model's errors"),
    ("churn", "samples with another prediction"),
)
_STATUS = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "? inconclusive"}


def update_page(
    comparison: UpdateComparison,
    *,
    verdict: GateResult | None = None,
    images: str | os.PathLike[str] | Callable[[str], Any] | None = None,
    redact_ids: bool = False,
    title: str | None = None,
) -> Page:
    """The page of an update.

    Args:
        comparison: its numbers.
        verdict: what a gate says about it; None: no gate was asked.
        images: a folder that ids are paths in, or what gives the picture for an id; None: no pictures.
        redact_ids: whether ids of samples are left out.
        title: heading; None: the names of both files.
    """
    sprite = None if images is None else _pictures(comparison, images)
    sections = [_cells_section(comparison)]
    if verdict is not None:
        sections.append(_gate_section(verdict))
    sections.append(_groups_section("classes", "Negative flip rate by class", comparison.classes, comparison))
    for number, (column, groups) in enumerate(comparison.slices.items()):
        heading = f"Negative flip rate by {shorten(column)}"
        sections.append(_groups_section(f"slice-{number}", heading, groups, comparison))
    sections.append(_worst_section(comparison, sprite, redact_ids=redact_ids))
    heading = f"{shorten(comparison.old_name, 50)} → {shorten(comparison.new_name, 50)}" if title is None else title
    left_out = (
        (comparison.only_old, "are in the old model's file alone"),
        (comparison.only_new, "are in the new model's file alone"),
        (comparison.outside_classes, "are of classes that only one of the models knows"),
    )
    words = f"labels{'' if redact_ids else ', sample ids'}{'' if sprite is None else ' and pictures'}"
    return Page(
        title=shorten(heading, _LONGEST_TITLE),
        lead=_lead(comparison),
        tiles=_tiles(comparison),
        sections=sections,
        sprite=sprite,
        warnings=[
            f"Whoever gets this file gets {words} of the data.",
            *(f"{counted(count, 'sample')} {reason} and are left out." for count, reason in left_out if count),
            *(() if sprite is None else sprite.notes),
        ],
    )


def _lead(comparison: UpdateComparison) -> list[Safe]:
    broken, mended = int(comparison.cells.negative), int(comparison.cells.positive)
    rate = comparison.rates["negative_flip_rate"]
    sentences = [
        joined(
            [
                element("strong", f"The update breaks {broken:,} of {counted(comparison.num_samples, 'sample')}"),
                f" that the old model had right ({_interval(rate)}), and mends {mended:,}.",
            ]
        )
    ]
    floor = comparison.floor
    if floor is not None:
        place = {"below": "less than", "within": "as much as", "above": "more than"}[floor.verdict]
        sentences.append(
            joined(
                f"That is {place} models flip that are said to be equally good: {_share(floor.lowest)} to"
                f" {_share(floor.highest)}, {_share(floor.mean)} on average."
            )
        )
    return sentences


def _tiles(comparison: UpdateComparison) -> list[tuple[str, str]]:
    rates = comparison.rates
    return [
        ("samples", f"{comparison.num_samples:,}"),
        ("old accuracy", _share(rates["old_accuracy"].value)),
        ("new accuracy", _share(rates["new_accuracy"].value)),
        ("negative flip rate", _share(rates["negative_flip_rate"].value)),
        ("noise floor", "not computed" if comparison.floor is None else _share(comparison.floor.mean)),
        ("mended", _share(rates["positive_flip_rate"].value)),
    ]


def _cells_section(comparison: UpdateComparison) -> Section:
    """The table of right and wrong, and the rates that follow."""
    cells = comparison.cells
    rows = [
        ("old right", (int(cells.both_right), ""), (int(cells.negative), "▼ ")),
        ("old wrong", (int(cells.positive), "▲ "), (int(cells.both_wrong), "")),
    ]
    table = _table(
        "Samples by whether the old and the new model have them right; ▼ broken, ▲ mended.",
        ("", "new right", "new wrong"),
        [(name, *(f"{mark}{count:,}" for count, mark in counts)) for name, *counts in rows],
    )
    rates = _table(
        f"Rates with {100 * comparison.confidence:g}% intervals.",
        ("rate", "value", "interval", "samples"),
        [(name, _share(rate.value), _interval(rate), _count(rate)) for name, rate in _known_rates(comparison)],
    )
    floor = comparison.floor
    if floor is None:
        below = missing(
            "The noise floor: how much models flip that are equally good. Give predictions of other seeds of the new"
            " model (--floor)."
        )
    else:
        apart = 100 * float(floor.accuracies.max() - floor.accuracies.min())
        below = element(
            "p",
            f"Noise floor of {counted(len(floor.names), 'model')} that are said to be equally good: negative flip rates"
            f" from {_share(floor.lowest)} to {_share(floor.highest)}, {_share(floor.mean)} on average; the update's"
            f" {_share(floor.update)} is {floor.verdict} these. Their accuracies are up to {apart:.1f} points apart.",
            class_="note",
        )
    test = "p < 0.0001" if comparison.mcnemar_p < 1e-4 else f"p = {comparison.mcnemar_p:.2g}"
    note = f"Exact McNemar test of equal accuracies: {test}."
    return Section("update", "Before and now", joined([table, rates, below]), note)


def _known_rates(comparison: UpdateComparison) -> list[tuple[str, FlipRate]]:
    return [(words, comparison.rates[name]) for name, words in _RATES]


def _gate_section(verdict: GateResult) -> Section:
    """The decision on each limit."""
    rows = [(one.name, _STATUS[one.status], one.reason) for one in verdict.outcomes]
    table = _table("The limits that were set.", ("limit", "decision", "reason"), rows)
    note = (
        f"The gate says {verdict.status}. For each limit, the chance of either mistake is at most"
        f" {100 * verdict.error:g}%."
    )
    return Section("gate", "Verdict of the gate", table, note)


def _groups_section(name: str, title: str, groups: FlipGroups, comparison: UpdateComparison) -> Section:
    """The negative flip rate of each group with its interval; dots and lines."""
    shown = groups.worst_first()[:_MOST_GROUPS].tolist()
    rows = [
        (
            shorten(groups.names[place], 24),
            int(groups.cells.negative[place]),
            int(groups.cells.total[place]),
            float(groups.low[place]),
            float(groups.high[place]),
        )
        for place in shown
    ]
    more = len(groups.names) - len(rows)
    below = element("p", f"{more:,} more groups are not shown.", class_="count") if more > 0 else ""
    charts = wide_and_narrow(
        _whiskers(name, title, rows, form="wide", width=560, left=170, right=92),
        _whiskers(name, title, rows, form="narrow", width=340, left=96, right=70),
    )
    note = (
        f"Dots: the share of negative flips among the samples of a group. Lines: {100 * comparison.confidence:g}%"
        " intervals (Wilson). The groups whose interval begins highest come first."
    )
    return Section(name, title, joined([charts, below]), note, half=True)


def _whiskers(
    name: str,
    title: str,
    rows: list[tuple[str, int, int, float, float]],
    *,
    form: str,
    width: int,
    left: int,
    right: int,
) -> Safe:
    """Rows of (name, count, total, low, high) as dots on lines."""
    step, top = 24, 6
    high = max((row[4] for row in rows), default=0.0) or 1.0
    base = top + step * len(rows)

    def x(share: float) -> float:
        return left + (width - left - right) * share / high

    marks: list[Safe] = []
    most = 4 if form == "narrow" else 6
    for tick in _ticks(high, most):
        marks.append(_line(x(tick), top, x(tick), base, "s-rule"))
        marks.append(text(x(tick), base + 16, f"{100 * tick:g}%", anchor="middle", class_="muted"))
    letters = left // 8
    for place, (group, count, total, low, upper) in enumerate(rows):
        y = top + step * (place + 0.5)
        marks += [
            text(left - 10, y + 4, shorten(group, letters), anchor="end"),
            _line(x(low), y, x(upper), y, "s-bad", 2.5),
            element("circle", cx=float(x(count / total)), cy=float(y), r=5, class_="f-bad"),
            text(width - right + 10, y + 4, f"{count:,} of {total:,}", class_="muted"),
        ]
    worst = f"; most in {rows[0][0]}, {rows[0][1]:,} of {rows[0][2]:,}" if rows else ""
    return chart(name, title, f"{counted(len(rows), 'group')}{worst}.", width, base + 24, *marks, form=form)


def _ticks(high: float, most: int) -> list[float]:
    """Round shares from 0 to high, at most about `most`.

    Example:
        >>> _ticks(0.21, 4), _ticks(1.0, 6)
        ([0.0, 0.1, 0.2], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    step = next((step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if high < step * most), 0.5)
    return [round(place * step, 3) for place in range(int(high / step + 1e-9) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, class_: str, width: float = 1) -> Safe:
    return element(
        "line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_, stroke_width=float(width)
    )


def _worst_section(comparison: UpdateComparison, sprite: Sprite | None, *, redact_ids: bool) -> Section:
    """The worst negative flips, with pictures if there are any."""
    worst = comparison.worst
    title = "Worst flips"
    if not worst.total:
        return Section("worst", title, element("p", "No sample is wrong now that was right before.", class_="missing"))
    if not worst.flips:
        return Section("worst", title, missing(f"None of the {counted(worst.total, 'negative flip')} were asked for."))
    rows = []
    for place, flip in enumerate(worst.flips):
        name = f"flip {place + 1}" if redact_ids else shorten(flip.sample_id, _LONGEST_ID)
        sure = ["-" if one is None else f"{one:.2f}" for one in (flip.old_confidence, flip.new_confidence)]
        picture = () if sprite is None else (thumbnail(sprite, place, name),)
        rows.append((*picture, name, shorten(flip.right), shorten(flip.wrong), *sure))
    headers = ("sample", "right, predicted before", "predicted now", "old confidence", "new confidence")
    table = _table("", (*(() if sprite is None else ("picture",)), *headers), rows)
    more = worst.total - len(worst.flips)
    below = element("p", f"{counted(more, 'more negative flip')} not shown.", class_="count") if more > 0 else ""
    note = f"Samples that the old model had right and the new one has wrong, ordered by {worst.order}."
    return Section("worst", title, joined([element("div", table, class_="scroll", tabindex=0), below]), note)


def _pictures(comparison: UpdateComparison, images: str | os.PathLike[str] | Callable[[str], Any]) -> Sprite | None:
    """Pictures of the worst flips, by their places in the list."""
    from lightning_flip.reports.page._thumbnails import folder_pictures, make_sprite

    names = {place: str(flip.sample_id) for place, flip in enumerate(comparison.worst.flips)}
    if callable(images):
        return make_sprite(names, lambda place: images(names[place]))
    return make_sprite(names, folder_pictures(images, dict(names)))


def _table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Safe:
    """A table whose first column with words names the rows."""
    body = []
    for row in rows:
        first = next(place for place, cell in enumerate(row) if not isinstance(cell, Safe))
        cells = [
            element("th", cell, scope="row") if place == first else element("td", cell)
            for place, cell in enumerate(row)
        ]
        body.append(element("tr", cells))
    head = [element("th", name, scope="col") if name else element("td", "") for name in headers]
    above = element("caption", caption) if caption else ""
    return element("table", above, element("thead", element("tr", head)), element("tbody", body), class_="plain")


def _share(value: float) -> str:
    return percent(value, 1)


def _interval(rate: FlipRate) -> str:
    return "unknown" if rate.low is None or rate.high is None else f"{100 * rate.low:.1f} to {100 * rate.high:.1f}%"


def _count(rate: FlipRate) -> str:
    return "-" if rate.count is None or rate.among is None else f"{rate.count:,} of {rate.among:,}"
