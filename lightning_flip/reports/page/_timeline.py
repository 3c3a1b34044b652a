"""Charts of flips over epochs: of one run with bars for both directions, and of several runs in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.dynamics import FlipTimeline
from lightning_flip.reports.page._chart import chart, counted, percent, text, whole_ticks, wide_and_narrow
from lightning_flip.reports.page._markup import Safe, element, number

__all__ = ["flips_chart", "runs_chart"]

Floats = npt.NDArray[np.float64]
_MANY = 60  # of more passes, no gap between bars


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Places on a chart: of shares from 0 to 1 above, of bars below."""

    form: str
    width: float
    left: float
    right: float
    top: float = 14
    plot: float = 170
    gap: float = 34
    bars: float = 100

    @property
    def inside(self) -> float:
        return self.width - self.left - self.right

    @property
    def bars_top(self) -> float:
        return self.top + self.plot + self.gap

    def y(self, share: float) -> float:
        return self.top + self.plot * (1 - share)


_WIDE = _Frame("wide", 1040, 62, 92)
_NARROW = _Frame("narrow", 360, 40, 8, top=30, plot=150, bars=84)


def flips_chart(timeline: FlipTimeline) -> Safe:
    """Right now and ever right as lines, samples that changed as bars; wide and narrow."""
    return wide_and_narrow(_flips(timeline, _WIDE), _flips(timeline, _NARROW))


def runs_chart(runs: Sequence[tuple[str, FlipTimeline]], split: str) -> Safe:
    """Right now (solid) and ever right (dashed) of several runs in one chart; wide and narrow."""
    return wide_and_narrow(_runs(runs, split, _WIDE), _runs(runs, split, _NARROW))


def _flips(timeline: FlipTimeline, frame: _Frame) -> Safe:
    count = len(timeline.epoch)
    now, ever = _shares(timeline)
    step = frame.inside / max(count, 1)
    middles = [frame.left + step * (place + 0.5) for place in range(count)]
    zero = frame.bars_top + frame.bars * _share_above(timeline)
    scale = frame.bars / max(int(timeline.to_right.max(initial=0)) + int(timeline.to_wrong.max(initial=0)), 1)
    size = step * (0.72 if count <= _MANY else 1)
    drawn: list[Safe] = [_grid(frame)]
    drawn.append(_between(middles, now, ever, frame))
    drawn.append(_line(middles, ever, frame, "s-muted", dashed=True))
    drawn.append(_line(middles, now, frame, "s-label"))
    for place, middle in enumerate(middles):
        up, down = float(timeline.to_right[place]) * scale, float(timeline.to_wrong[place]) * scale
        x = middle - size / 2
        if up:
            drawn.append(element("rect", x=x, y=zero - up, width=size, height=up, class_="f-good"))
        if down:
            drawn.append(element("rect", x=x, y=zero, width=size, height=down, class_="f-bad"))
    drawn.append(
        element("line", x1=frame.left, x2=frame.width - frame.right, y1=float(zero), y2=float(zero), class_="s-muted")
    )
    drawn += _names_of_bars(frame, zero) + _highest(timeline, middles, zero, scale)
    drawn += _epochs(timeline.epoch.tolist(), middles, frame)
    drawn += _ends(middles, now, ever, frame)
    drawn += [_told(timeline, place, middle - step / 2, step, frame) for place, middle in enumerate(middles)]
    last, known = count - 1, int(timeline.known[-1]) if count else 0
    description = (
        f"After the last of {counted(count, 'pass', 'passes')}, {percent(timeline.right[last], known)} of"
        f" {counted(known, 'sample')} are right, and"
        f" {percent(timeline.ever_right[last], known)} were right at some"
        f" time. In total {int(timeline.to_wrong.sum()):,} changes to wrong, {int(timeline.to_right.sum()):,} to right."
        if count
        else "No pass was recorded."
    )
    height = frame.bars_top + frame.bars + 40
    return chart("flips-chart", "Flips over the epochs", description, frame.width, height, drawn, form=frame.form)


def _shares(timeline: FlipTimeline) -> tuple[Floats, Floats]:
    """Right now and ever right, as shares of the samples seen so far."""
    known = np.maximum(timeline.known, 1)
    return timeline.right / known, timeline.ever_right / known


def _share_above(timeline: FlipTimeline) -> float:
    up, down = int(timeline.to_right.max(initial=0)), int(timeline.to_wrong.max(initial=0))
    return up / (up + down) if up + down else 0.5


def _grid(frame: _Frame) -> Safe:
    drawn = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = frame.y(share)
        drawn.append(element("line", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y, class_="s-rule"))
        drawn.append(text(frame.left - 8, y + 4, f"{share:.0%}", anchor="end", class_="muted"))
    return element("g", drawn)


def _points(xs: Sequence[float], shares: Floats, frame: _Frame) -> list[str]:
    return [f"{number(x)} {number(frame.y(float(share)))}" for x, share in zip(xs, shares, strict=True)]


def _line(xs: Sequence[float], shares: Floats, frame: _Frame, class_: str, *, dashed: bool = False) -> Safe:
    points = _points(xs, shares, frame)
    if len(points) == 1:  # a single pass has no line
        x, y = points[0].split()
        return element("circle", cx=x, cy=y, r=4, class_=class_ + " f-card", stroke_width=2)
    return element(
        "path",
        d="M" + "L".join(points) if points else "M0 0",
        class_=f"f-none {class_}",
        stroke_width=1.6 if dashed else 2.4,
        stroke_dasharray="5 4" if dashed else None,
        stroke_linejoin="round",
        stroke_linecap="round",
    )


def _between(xs: Sequence[float], now: Floats, ever: Floats, frame: _Frame) -> Safe:
    if len(xs) < 2:
        return Safe("")
    there, back = _points(xs, ever, frame), _points(xs, now, frame)[::-1]
    return element("path", d="M" + "L".join([*there, *back]) + "Z", class_="f-muted", fill_opacity=0.12)


def _highest(timeline: FlipTimeline, middles: Sequence[float], zero: float, scale: float) -> list[Safe]:
    """The count of the highest bar of each direction: the scale of all of them."""
    drawn = []
    for counts, sign, style in ((timeline.to_right, -1, "f-good"), (timeline.to_wrong, 1, "f-bad")):
        most = int(counts.max(initial=0))
        if most:
            place = int(counts.argmax())
            y = zero + sign * most * scale + (-5 if sign < 0 else 13)
            drawn.append(text(middles[place], y, f"{most:,}", anchor="middle", class_=style))
    return drawn


def _names_of_bars(frame: _Frame, zero: float) -> list[Safe]:
    x = frame.left - 8
    top, bottom = max(frame.bars_top + 10, (frame.bars_top + zero) / 2 + 4), frame.bars_top + frame.bars
    words = ("▲ right", "▼ wrong") if frame.form == "wide" else ("▲", "▼")
    return [
        text(x, min(top, zero - 4), words[0], anchor="end", class_="f-good"),
        text(x, max(min((zero + bottom) / 2 + 4, bottom), zero + 13), words[1], anchor="end", class_="f-bad"),
    ]


def _epochs(epochs: Sequence[int], middles: Sequence[float], frame: _Frame) -> list[Safe]:
    y = frame.bars_top + frame.bars + 32
    shown = whole_ticks(epochs, 16 if frame.form == "wide" else 6)
    drawn = [text(middles[place], y, epochs[place], anchor="middle", class_="muted") for place in shown]
    if frame.form == "wide":
        drawn.append(text(frame.width - frame.right + 12, y, "epoch", class_="muted"))
    return drawn


def _ends(xs: Sequence[float], now: Floats, ever: Floats, frame: _Frame) -> list[Safe]:
    """What the lines are, at their right end; above the chart if it is narrow."""
    if not len(xs):
        return []
    words = f"ever {ever[-1]:.1%}", f"right {now[-1]:.1%}"
    if frame.form == "narrow":
        return [
            text(frame.left, 14, f"- - {words[0]}", class_="muted"),
            text(frame.width - frame.right, 14, f"— {words[1]}", anchor="end", class_="f-label strong"),
        ]
    above, below = frame.y(float(ever[-1])) + 4, frame.y(float(now[-1])) + 4
    if below - above < 15:
        middle = (above + below) / 2
        above, below = middle - 7.5, middle + 7.5
    x = frame.width - frame.right + 12
    return [text(x, above, words[0], class_="muted"), text(x, below, words[1], class_="f-label strong")]


def _told(timeline: FlipTimeline, place: int, x: float, width: float, frame: _Frame) -> Safe:
    """What a pointer over a pass shows."""
    total, known = timeline.samples, timeline.known[place]
    words = (
        f"epoch {int(timeline.epoch[place])}: right {percent(timeline.right[place], known)},"
        f" ever {percent(timeline.ever_right[place], known)}, {int(timeline.to_right[place]):,} to right,"
        f" {int(timeline.to_wrong[place]):,} to wrong"
    )
    if timeline.seen[place] < total:
        words += f"; {int(timeline.seen[place]):,} of {total:,} samples seen"
    height = frame.bars_top + frame.bars - frame.top
    return element("rect", element("title", words), x=x, y=frame.top, width=width, height=height, class_="hover")


def _runs(runs: Sequence[tuple[str, FlipTimeline]], split: str, frame: _Frame) -> Safe:
    frame = dataclasses.replace(frame, right=150 if frame.form == "wide" else 8, bars=0, gap=6)
    longest = max((len(timeline.epoch) for _, timeline in runs), default=0)
    step = frame.inside / max(longest, 1)
    drawn: list[Safe] = [_grid(frame)]
    ends = []
    labels = list(dict.fromkeys(name for name, _ in runs))  # runs of one label share a color
    for name, timeline in runs:
        place = labels.index(name)
        xs = [frame.left + step * (moment + 0.5) for moment in range(len(timeline.epoch))]
        now, ever = _shares(timeline)
        color = f"s-run-{place % 6}"
        drawn += [_line(xs, ever, frame, color, dashed=True), _line(xs, now, frame, color)]
        if len(xs):
            ends.append((frame.y(float(now[-1])) + 4, place, f"{name} {now[-1]:.1%}"))
    if frame.form == "wide":
        floor = -1e9
        for y, place, words in sorted(ends):
            floor = max(y, floor + 15)
            drawn.append(text(frame.width - frame.right + 12, floor, words, class_=f"strong f-run-{place % 6}"))
    drawn += _epochs(list(range(longest)), [frame.left + step * (moment + 0.5) for moment in range(longest)], frame)
    height = frame.bars_top + 44
    description = (
        f"Share of right samples of {split} per pass (solid), and of samples that were ever right (dashed): "
        + ("; ".join(words for _, _, words in ends) + " right at the end.")
    )
    return chart(
        "runs-chart", "Right now and ever right of each run", description, frame.width, height, drawn, form=frame.form
    )
