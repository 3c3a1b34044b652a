"""Rates with their intervals as dots on lines: of groups one below the other, and of an update beside its floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_flip.reports.page._chart import chart, text, wide_and_narrow
from lightning_flip.reports.page._markup import Safe, element
from lightning_flip.reports.text import shorten

__all__ = ["Whisker", "floor_chart", "rate", "whiskers_chart"]

_LETTER = 6.9  # width of an average letter
_STEPS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)
_LONGEST = {"wide": 24, "narrow": 9}  # letters of a name beside its line; narrow: a longer one stands above it


class Whisker(NamedTuple):
    """A group's name, rate and interval, and the counts behind them in words."""

    name: str
    value: float
    low: float
    high: float
    counts: str


def rate(value: float) -> str:
    """A share in percent: one decimal, two near 0% and 100%, which stand for themselves alone.

    Example:
        >>> rate(0.0312), rate(0.0031), rate(0), rate(1e-6), rate(0.9996), rate(1)
        ('3.1%', '0.31%', '0%', '<0.01%', '99.96%', '100%')
    """
    if value < 1e-12 or value > 1 - 1e-12:
        return "0%" if value < 0.5 else "100%"
    if 0.01 <= value <= 0.99:
        return f"{100 * value:.1f}%"
    return "<0.01%" if value < 5e-5 else ">99.99%" if value >= 1 - 5e-5 else f"{100 * value:.2f}%"


def whiskers_chart(id_: str, title: str, rows: Sequence[Whisker], overall: float) -> Safe:
    """One line per group, in order, with a dashed line at the rate of all samples; wide and narrow."""
    words = f"All samples: {rate(overall)}. " + "; ".join(
        f"{row.name} {rate(row.value)} ({rate(row.low)} to {rate(row.high)})" for row in rows[:3]
    )
    words += f"; and {len(rows) - 3} more." if len(rows) > 3 else "."
    return wide_and_narrow(
        _rows(id_, title, words, rows, overall, "wide", 560), _rows(id_, title, words, rows, overall, "narrow", 350)
    )


def _rows(
    id_: str, title: str, words: str, rows: Sequence[Whisker], overall: float, form: str, width: float
) -> Safe:  # fmt: skip
    most = _LONGEST[form]
    above = form == "narrow" and any(len(row.name) > most for row in rows)
    names = [row.name if above else shorten(row.name, most) for row in rows]
    right = 12.0 if above else max(len(row.counts) for row in rows) * _LETTER + 14
    left = 8.0 if above else max(len(name) for name in names) * _LETTER + 16
    high, top = (42.0, 22.0) if above else (26.0, 22.0)
    base, inside = top + high * len(rows), width - left - right
    step, end = _axis(max(overall, *(row.high for row in rows)), 6 if form == "wide" else 4)

    def at(value: float) -> float:
        return left + inside * value / end

    drawn = _scale(step, end, left, inside, top, base)
    drawn.append(
        element("line", x1=at(overall), x2=at(overall), y1=top, y2=base, class_="s-muted", stroke_dasharray="3 4")
    )
    drawn.append(_held(at(overall), 13, f"all {rate(overall)}", left, left + inside, "muted"))
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = top + high * place + (29 if above else 13)
        told = element("title", f"{row.name}: {rate(row.value)} ({rate(row.low)} to {rate(row.high)}), {row.counts}")
        if above:
            room = int((width - left) / _LETTER) - len(row.counts) - 3
            drawn.append(text(left, y - 11, shorten(name, room), class_="halo"))
            drawn.append(text(width - 4, y - 11, row.counts, anchor="end", class_="muted halo"))
        else:
            drawn.append(text(left - 12, y + 4, name, anchor="end"))
            drawn.append(text(width - 2, y + 4, row.counts, anchor="end", class_="muted"))
        drawn.append(_whisker(at(row.low), at(row.value), at(row.high), y, told))
    return chart(id_, title, words, width, base + 24, drawn, form=form)


def _whisker(low: float, value: float, high: float, y: float, told: Safe) -> Safe:
    return element(
        "g",
        told,
        element("line", x1=low, x2=high, y1=y, y2=y, class_="s-bad", stroke_width=2, stroke_linecap="round"),
        element("circle", cx=value, cy=y, r=4.5, class_="f-bad"),
    )


def floor_chart(id_: str, update: Whisker, pairs: Sequence[float]) -> Safe:
    """The rate of an update, a diamond with its interval, above the rates between models of the new recipe, dots."""
    words = f"{update.name}: {rate(update.value)} ({rate(update.low)} to {rate(update.high)})."
    if pairs:
        words += f" {len(pairs):,} rates between models of the new recipe: {rate(min(pairs))} to {rate(max(pairs))}."
    title = "Negative flip rate"
    return wide_and_narrow(
        _floor(id_, title, words, update, pairs, "wide", 560), _floor(id_, title, words, update, pairs, "narrow", 350)
    )


def _floor(
    id_: str, title: str, words: str, update: Whisker, pairs: Sequence[float], form: str, width: float
) -> Safe:  # fmt: skip
    left, right, top = 12.0, 20.0, 6.0
    inside, base = width - left - right, top + (112.0 if pairs else 56.0)
    step, end = _axis(max([update.high, *pairs]), 6 if form == "wide" else 4)

    def at(value: float) -> float:
        return left + inside * value / end

    drawn = _scale(step, end, left, inside, top, base)
    x, y = at(update.value), top + 38.0
    drawn.append(text(left, y - 20, f"{update.name}, {rate(update.value)}", class_="strong"))
    drawn.append(
        element(
            "g",
            element("title", words),
            element("line", x1=at(update.low), x2=at(update.high), y1=y, y2=y, class_="s-bad", stroke_width=2,
                    stroke_linecap="round"),
            element("path", d=f"M{x - 7:.2f} {y:g}L{x:.2f} {y - 7:g}L{x + 7:.2f} {y:g}L{x:.2f} {y + 7:g}z",
                    class_="f-bad"),
        )
    )  # fmt: skip
    if pairs:
        drawn.append(text(left, y + 36, f"between models of the new recipe, mean {rate(sum(pairs) / len(pairs))}"))
        places = sorted({round(at(value) * 2) / 2 for value in pairs})  # dots at one place are one dot
        drawn += [
            element("circle", cx=place, cy=y + 54, r=4.5, class_="f-label s-card", fill_opacity=0.75)
            for place in places
        ]
    return chart(id_, title, words, width, base + 24, drawn, form=form)


def _axis(highest: float, most: int) -> tuple[float, float]:
    """The distance of ticks, at most `most` after 0, and where the axis ends: at a tick, at most at 1."""
    step = next((size for size in _STEPS if highest <= size * most), 0.5)
    return step, min(max(math.ceil(highest / step - 1e-9), 1) * step, 1.0)


def _scale(step: float, end: float, left: float, inside: float, top: float, base: float) -> list[Safe]:
    drawn = []
    count = round(end / step)
    for tick in range(count + 1):
        x = left + inside * tick / count
        drawn.append(element("line", x1=x, x2=x, y1=top, y2=base, class_="s-rule" if tick else "s-line"))
        drawn.append(text(x, base + 17, f"{100 * end * tick / count:.3g}%", anchor="middle", class_="muted"))
    return drawn


def _held(x: float, y: float, words: str, left: float, right: float, class_: str) -> Safe:
    """A text around x that stays between left and right."""
    half = len(words) * _LETTER / 2
    return text(min(max(x, left + half - 4), max(right - half, left + half)), y, words, anchor="middle", class_=class_)
