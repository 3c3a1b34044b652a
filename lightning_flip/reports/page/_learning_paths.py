"""Learning paths on the simplex of label, suggestion and all other classes, where the run recorded them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.page._chart import chart, text
from lightning_flip.reports.page._listing import Listing, packed
from lightning_flip.reports.page._markup import Safe, element, number
from lightning_flip.stores import HistoryError, read_paths

__all__ = ["simplex"]

Floats = npt.NDArray[np.float64]

_LEFT, _TOP, _SIDE = 14.0, 20.0, 176.0
_HEIGHT = _SIDE * math.sqrt(3) / 2
_BUTTONS = 12


def simplex(listing: Listing) -> tuple[Safe, Safe, dict[str, object] | None]:
    """The triangle with the path of the first listed sample, buttons of others, and all paths for the script.

    All are empty if the run recorded no path of a listed sample.
    """
    folder, index = listing.numbers.folder / "paths", listing.index[: listing.detailed]
    if not folder.is_dir():
        return Safe(""), Safe(""), None
    try:
        found = read_paths(folder, samples=index.tolist())
    except HistoryError:  # nothing of these samples, or two modes; the page is about other things
        return Safe(""), Safe(""), None
    suggestion = listing.of("predicted_label")[: listing.detailed].astype(int)
    label = listing.of("given_label")[: listing.detailed].astype(int)
    classes = found.path.shape[2]
    paths: dict[str, list[str]] = {}
    drawn = ""
    for row in np.flatnonzero(np.isin(index, found.index)).tolist():
        if not (0 <= label[row] < classes and 0 <= suggestion[row] < classes):
            continue
        probs = np.asarray(found.of(int(index[row]))[1], np.float64)
        sides = probs[:, [label[row], suggestion[row]]]
        if not np.isfinite(sides).all():
            continue
        paths[str(row)] = packed(sides * 250)
        if row == 0:
            drawn = _path(sides)
    if not paths:
        return Safe(""), Safe(""), None
    corners = [
        text(_LEFT - 12, _TOP + _HEIGHT + 16, "label", class_="f-label"),
        text(_LEFT + _SIDE + 12, _TOP + _HEIGHT + 16, "suggestion", anchor="end", class_="f-suggestion"),
        text(_LEFT + _SIDE / 2, _TOP - 7, "other classes", anchor="middle", class_="muted"),
    ]
    triangle = f"M{_LEFT:g} {_TOP + _HEIGHT:.2f}h{_SIDE:g}L{_LEFT + _SIDE / 2:g} {_TOP:g}z"
    dot = element("marker", element("circle", cx=3, cy=3, r=3, class_="f-text"), id="simplex-end", viewBox="0 0 6 6",
                  refX=3, refY=3, markerWidth=5, markerHeight=5)  # fmt: skip
    path = element(
        "path", d=drawn or "M0 0", id="simplex-path", class_="f-none s-text", stroke_width=1.6,
        stroke_linejoin="round", marker_end="url(#simplex-end)",
    )  # fmt: skip
    picture = chart(
        "simplex", "Learning path", "The predictions on the sample over time, between its label, the suggestion and all"
        " other classes. A dot marks the last one.", _SIDE + 28, _TOP + _HEIGHT + 22,
        [element("path", d=triangle, class_="f-inset s-line"), dot, path, corners], form="simplex",
    )  # fmt: skip
    jumps = [
        element("button", str(int(index[int(row)])), type="button", class_="jump", data_row=row)
        for row in list(paths)[:_BUTTONS]
    ]
    buttons = element("div", element("span", "samples with a learning path:"), jumps, class_="controls needs-script")
    hidden = "" if drawn else " hidden"
    return element("div", picture, id="simplex", class_="simplex" + hidden), buttons, {"paths": paths}


def _path(sides: Floats) -> str:
    """A path through the triangle; the script draws the same one."""
    points = []
    for label, suggestion in sides.tolist():
        rest = max(0.0, 1 - label - suggestion)
        points.append(f"{number(_LEFT + _SIDE * (suggestion + rest / 2))} {number(_TOP + _HEIGHT * (1 - rest))}")
    return "M" + "L".join(points)
