"""How often samples were forgotten, beside those that were never learned."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_flip.reports.dynamics import Forgetting
from lightning_flip.reports.page._chart import chart, text, wide_and_narrow
from lightning_flip.reports.page._markup import Safe, element

__all__ = ["forgetting_chart", "grouped"]

_WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9)  # numbers of events that share a bar


def forgetting_chart(found: Forgetting) -> Safe:
    """Bars of 0, 1, ... forgetting events, then never learned and never seen; wide and narrow."""
    return wide_and_narrow(_bars(found, "wide", 560, 280), _bars(found, "narrow", 350, 240))


def grouped(events: Sequence[int], most: int) -> list[tuple[str, int]]:
    """Counts of samples by their number of events from 0, in at most `most` groups of one width; 0 is by itself.

    Example:
        >>> grouped([9, 5, 3, 1, 0, 2], 4)
        [('0', 9), ('1-2', 8), ('3-4', 1), ('5', 2)]
    """
    width = next(width for width in _WIDTHS if len(events) - 1 <= width * (most - 1))
    groups = [("0", events[0])]
    for first in range(1, len(events), width):
        last = min(first + width, len(events)) - 1
        groups.append((str(first) if first == last else f"{first}-{last}", sum(events[first : last + 1])))
    return groups


def _bars(found: Forgetting, form: str, width: float, height: float) -> Safe:
    events = found.events.tolist() or [0]
    bars = [(name, count, "f-label") for name, count in grouped(events, 9 if form == "wide" else 6)]
    apart = [("never", "learned", found.never_learned, "f-bad")]
    if found.never_seen:
        apart.append(("never", "seen", found.never_seen, "f-other"))
    top, base, left, gap = 22.0, height - 52, 4.0, 18.0
    step = (width - 2 * left - gap) / (len(bars) + 1.35 * len(apart))
    largest = max([count for _, count, _ in bars] + [count for *_, count, _ in apart] + [1])
    drawn = [element("line", x1=left, x2=width - left, y1=base, y2=base, class_="s-line")]

    def bar(x: float, wide: float, count: int, class_: str) -> None:
        tall = (base - top) * count / largest
        drawn.append(
            element("rect", x=x + wide * 0.1, y=base - tall, width=wide * 0.8, height=tall, rx=2, class_=class_)
        )
        shown = f"{count:,}" if len(f"{count:,}") * 7 < wide else f"{count / 1000:.0f}k" if count >= 1000 else count
        drawn.append(text(x + wide / 2, base - tall - 6, shown, anchor="middle"))

    for place, (name, count, class_) in enumerate(bars):
        x = left + step * place
        bar(x, step, count, class_)
        drawn.append(text(x + step / 2, base + 18, name, anchor="middle", class_="muted"))
    drawn.append(text(left + step * len(bars) / 2, base + 40, "times forgotten", anchor="middle", class_="muted"))
    x = left + step * len(bars) + gap
    for above, below, count, class_ in apart:
        bar(x, step * 1.35, count, class_)
        drawn.append(text(x + step * 0.675, base + 18, above, anchor="middle", class_="muted"))
        drawn.append(text(x + step * 0.675, base + 34, below, anchor="middle", class_="muted"))
        x += step * 1.35
    learned = sum(events)
    words = (
        f"Of {learned:,} samples that were learned, {learned - events[0]:,} were forgotten at least once;"
        f" {found.never_learned:,} were never learned, {found.never_seen:,} never seen."
    )
    return chart("forgetting-chart", "Forgetting", words, width, height, drawn, form=form)
