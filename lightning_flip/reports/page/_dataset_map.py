"""The dataset map (Swayamdipta et al. 2020): variability and confidence of each sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.page._chart import chart, counted, text, wide_and_narrow
from lightning_flip.reports.page._markup import Safe, element

__all__ = ["map_chart", "small_map"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_BINS = 56
_LEVELS = 7
_MOST_VARIABLE = 0.5  # the largest standard deviation of values in [0, 1]


def map_chart(variability: Floats, confidence: Floats, wrong: Bools, *, replaced: bool) -> Safe:
    """Axes and bins of a map; wide and narrow.

    Args:
        variability: standard deviation of the label's probability, [N].
        confidence: its mean, [N]; NaN for a sample that is not drawn.
        wrong: whether the label is almost certainly wrong, [N].
        replaced: whether a script draws every sample in the place of the bins.
    """
    drawn = _bins(variability, confidence, wrong)
    words = _description(confidence, wrong)
    wide = _map(drawn, words, "wide", (560, 500), (54, 12, 496, 438), replaced)
    narrow = _map(drawn, words, "narrow", (360, 350), (40, 8, 312, 292), replaced)
    return wide_and_narrow(wide, narrow)


def small_map(name: str, title: str, variability: Floats, confidence: Floats, wrong: Bools) -> Safe:
    """A map for a row of several ones, of one form."""
    left, top, width, height = 30, 6, 340, 250
    drawn = [
        element("rect", x=left, y=top, width=width, height=height, class_="f-inset"),
        _placed(_bins(variability, confidence, wrong), (left, top, width, height)),
        text(left - 6, top + 10, "1", anchor="end", class_="muted"),
        text(left - 6, top + height, "0", anchor="end", class_="muted"),
        text(left, top + height + 16, "0", class_="muted"),
        text(left + width, top + height + 16, "0.5", anchor="end", class_="muted"),
        text(left + width / 2, top + height + 16, "variability", anchor="middle", class_="muted"),
    ]
    return chart(name, f"Dataset map of {title}", _description(confidence, wrong), 380, 276, drawn, form="small")


def _map(
    drawn: Safe, words: str, form: str, size: tuple[float, float], plot: tuple[float, float, float, float],
    replaced: bool,
) -> Safe:  # fmt: skip
    left, top, width, height = plot
    parts = [element("rect", x=left, y=top, width=width, height=height, class_="plot f-inset")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + height * (1 - share)
        parts.append(element("line", x1=left, x2=left + width, y1=y, y2=y, class_="s-line"))
        if share in (0, 0.5, 1):
            parts.append(
                text(
                    left - 7,
                    y + (10 if share == 1 else 0 if share == 0 else 4),
                    f"{share:g}",
                    anchor="end",
                    class_="muted",
                )
            )
        x = left + width * share
        parts.append(element("line", x1=x, x2=x, y1=top, y2=top + height, class_="s-line"))
        if share in (0, 0.5, 1):
            anchor = "start" if share == 0 else "end" if share == 1 else "middle"
            parts.append(text(x, top + height + 17, f"{share / 2:g}", anchor=anchor, class_="muted"))
    parts.append(element("g", _placed(drawn, plot), class_="bins-static" + (" replaced" if replaced else "")))
    parts.append(text(left + width / 2, top + height + 36, "variability →", anchor="middle", class_="muted"))
    side = 11 if form == "wide" else 8
    parts.append(
        text(side, top + height / 2, "confidence →", anchor="middle", class_="muted",
             transform=f"rotate(-90 {side:g} {top + height / 2:g})")
    )  # fmt: skip
    return chart("dataset-map", "Dataset map", words, *size, parts, form=form)


def _placed(drawn: Safe, plot: tuple[float, float, float, float]) -> Safe:
    left, top, width, height = plot
    return element("g", drawn, transform=f"translate({left:g} {top:g}) scale({width / _BINS:.5g} {height / _BINS:.5g})")


def _bins(variability: Floats, confidence: Floats, wrong: Bools) -> Safe:
    """Filled squares of one unit, from pale to strong by the logarithm of their count, in two colors."""
    there = np.isfinite(confidence) & np.isfinite(variability)
    column = np.clip(variability[there] / _MOST_VARIABLE * _BINS, 0, _BINS - 1).astype(np.int64)
    row = np.clip((1 - confidence[there]) * _BINS, 0, _BINS - 1).astype(np.int64)
    place = row * _BINS + column
    total = np.bincount(place, minlength=_BINS**2)
    mostly = np.bincount(place[wrong[there]], minlength=_BINS**2) * 2 > total
    if not total.any():
        return Safe("")
    level = np.ceil(_LEVELS * np.log1p(total) / np.log1p(total.max())).astype(np.int64)
    drawn = []
    for chosen, class_ in ((~mostly, "f-point"), (mostly, "f-suggestion")):
        for strength in range(1, _LEVELS + 1):
            cells = np.flatnonzero(chosen & (level == strength) & (total > 0)).tolist()
            if cells:
                path = "".join(f"M{cell % _BINS} {cell // _BINS}h1v1h-1z" for cell in cells)
                drawn.append(element("path", d=path, class_=class_, fill_opacity=0.25 + 0.75 * strength / _LEVELS))
    return Safe("".join(drawn))


def _description(confidence: Floats, wrong: Bools) -> str:
    there = np.isfinite(confidence)
    if not there.any():
        return "No sample was seen."
    low, middle, high = np.percentile(confidence[there], [25, 50, 75])
    return (
        f"{counted(int(there.sum()), 'sample')} by the mean (upwards) and the standard deviation (to the right) of the"
        f" label's probability over the epochs. Median confidence {middle:.2f}, quartiles {low:.2f} and {high:.2f}."
        f" {int(wrong[there].sum()):,} labels are almost certainly wrong."
    )
