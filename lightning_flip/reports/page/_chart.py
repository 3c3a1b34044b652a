"""The frame of a chart, its axes, and numbers in words."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_flip.reports.page._markup import Safe, element

__all__ = ["chart", "counted", "percent", "text", "whole_ticks", "wide_and_narrow"]


def chart(name: str, title: str, description: str, width: float, height: float, *children: object, form: str) -> Safe:
    """An SVG that is as wide as its column.

    `name` is unique on the page. `form` is "wide" or "narrow": the style shows the one that fits its column.
    """
    ids = f"{name}-{form}"
    return element(
        "svg",
        element("title", title, id=f"{ids}-title"),
        element("desc", description, id=f"{ids}-desc"),
        children,
        class_=f"chart {form}",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=f"{ids}-title {ids}-desc",
    )


def wide_and_narrow(wide: Safe, narrow: Safe) -> Safe:
    """Two forms of one chart."""
    return Safe(wide + narrow)


def text(
    x: float, y: float, words: object, *, anchor: str = "start", class_: str | None = None, **more: object
) -> Safe:
    """A line of text; `anchor` is start, middle or end."""
    return element(
        "text", words, x=float(x), y=float(y), text_anchor=None if anchor == "start" else anchor, class_=class_, **more
    )


def whole_ticks(values: Sequence[int], most: int) -> list[int]:
    """Positions of at most `most` evenly spaced members of a sequence, the first one included.

    Example:
        >>> whole_ticks(range(16), 8)
        [0, 2, 4, 6, 8, 10, 12, 14]
    """
    count = len(values)
    if not count:
        return []
    step = next(size for size in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 10**9) if count <= size * most)
    return list(range(0, count, step))


def percent(part: float, whole: float) -> str:
    """A share in percent, with one decimal unless it is 0 or all; "-" of nothing.

    Example:
        >>> percent(1, 3), percent(0, 3), percent(3, 3), percent(1, 100_000), percent(99_999, 100_000), percent(0, 0)
        ('33.3%', '0%', '100%', '<0.1%', '>99.9%', '-')
    """
    if not whole:
        return "-"
    share = 100 * part / whole
    if share in (0, 100):
        return f"{share:.0f}%"
    return "<0.1%" if share < 0.05 else ">99.9%" if share >= 99.95 else f"{share:.1f}%"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "sample"), counted(1200, "sample"), counted(2, "class", "classes")
        ('1 sample', '1,200 samples', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
