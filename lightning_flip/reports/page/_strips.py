"""The strip of a sample, one cell per pass, and its probability over the passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.page._chart import chart, text, whole_ticks, wide_and_narrow
from lightning_flip.reports.page._markup import Safe, element, joined, number

__all__ = ["KINDS", "course_chart", "strip", "strip_kinds", "strip_legend"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_UNSEEN, _LABEL, _OTHER, _SUGGESTION = range(4)
#: Kinds of cells: style and height. Heights differ, so that no color is needed: low is the label, high the suggestion.
KINDS = {_LABEL: ("f-label", 4), _OTHER: ("f-other", 8), _SUGGESTION: ("f-suggestion", 12)}
_HIGH = 12
_FEW = 60  # of more passes, no gap between cells
_NAMED = 20  # of more passes, cells have no name below


def strip_kinds(pred: Integers, label: Integers, suggestion: Integers) -> npt.NDArray[np.int64]:
    """What each cell shows: 0 not seen, 1 the label, 2 another class, 3 the suggestion.

    Args:
        pred: predicted class, [R, P]; -1 if not seen.
        label: [R], -1 if unknown.
        suggestion: [R], -1 for none.

    Example:
        >>> strip_kinds(np.array([[0, 1, 2, -1]]), np.array([0]), np.array([1])).tolist()
        [[1, 3, 2, 0]]
    """
    kinds = np.where(pred == suggestion[:, None], _SUGGESTION, np.where(pred == label[:, None], _LABEL, _OTHER))
    return np.where(pred < 0, _UNSEEN, kinds)


def strip(kinds: npt.NDArray[np.int64]) -> Safe:
    """The strip of a sample from the kinds of its cells, [P]."""
    counts = [int((kinds == kind).sum()) for kind in (_LABEL, _SUGGESTION, _OTHER, _UNSEEN)]
    words = f"{counts[0]} times the label, {counts[1]} times the suggestion, {counts[2]} times another class"
    words += f", {counts[3]} times not seen" if counts[3] else ""
    return element(
        "svg",
        _cells(kinds, 0.0, 0.0, float(len(kinds)), float(_HIGH)),
        class_="strip",
        viewBox=f"0 0 {max(len(kinds), 1)} {_HIGH}",
        width=min(len(kinds) * 16, 480),
        preserveAspectRatio="none",
        role="img",
        aria_label=words,
    )


def strip_legend() -> Safe:
    """What the cells mean."""
    words = {_LABEL: "the label was predicted", _SUGGESTION: "the suggestion", _OTHER: "another class"}
    keys = [
        element(
            "span",
            element(
                "svg",
                element(
                    "rect", x=2, y=_HIGH - KINDS[kind][1] + 1, width=10, height=KINDS[kind][1], class_=KINDS[kind][0]
                ),
                class_="key",
                viewBox="0 0 14 14",
                aria_hidden="true",
            ),
            words[kind],
        )
        for kind in words
    ]
    return element("p", element("span", "Strip, one cell per epoch:"), keys, class_="legend")


def course_chart(prob: Floats, kinds: Integers, names: Sequence[str], epochs: Sequence[int]) -> Safe:
    """The probability of a sample's label over the passes, [P], above its strip; wide and narrow.

    The script draws other samples into it: groups of the class "course" say where they are.
    """
    wide = _course(prob, kinds, names, epochs, "wide", 1180, 210, 44, 10)
    return wide_and_narrow(wide, _course(prob, kinds, names, epochs, "narrow", 360, 200, 34, 4))


def _course(
    prob: Floats, kinds: Integers, names: Sequence[str], epochs: Sequence[int], form: str, width: float, height: float,
    left: float, right: float,
) -> Safe:  # fmt: skip
    top, base = 12.0, height - 66.0
    inside, count = width - left - right, max(len(prob), 1)
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = base - (base - top) * share
        drawn.append(element("line", x1=left, x2=width - right, y1=y, y2=y, class_="s-rule"))
        drawn.append(text(left - 8, y + 4, f"{share:g}", anchor="end", class_="muted"))
    line = _line(prob, left, inside, top, base)
    drawn.append(
        element(
            "g",
            element("path", d=line, class_="line f-none s-label", stroke_width=2.4, stroke_linejoin="round",
                    stroke_linecap="round"),
            element("g", _cells(kinds, left, base + 10, inside, 18.0), class_="cells"),
            element("g", _names(names, left, inside, base + 42) if form == "wide" else "", class_="names"),
            class_="course",
            data_plot=f"{left:g} {inside:g} {top:g} {base:g}",
        )
    )  # fmt: skip
    for place in whole_ticks(epochs, 20 if form == "wide" else 6):
        x = left + inside * (place + 0.5) / count
        drawn.append(text(x, height - 4, epochs[place], anchor="middle", class_="muted"))
    description = "Line: the probability of the label in each epoch. Cells below: the predicted class."
    return chart("course", "Probability of the label over the epochs", description, width, height, drawn, form=form)


def _line(prob: Floats, left: float, inside: float, top: float, base: float) -> str:
    """A path with gaps where the sample was not seen; a visit alone is a short dash."""
    path, pen = [], False
    step = inside / max(len(prob), 1)
    for place, value in enumerate(prob.tolist()):
        if value != value:
            pen = False
            continue
        x, y = left + step * (place + 0.5), base - (base - top) * value
        path.append(f"{'L' if pen else 'M'}{number(x)} {number(y)}" + ("" if pen else "h.1"))
        pen = True
    return "".join(path) or "M0 0"


def _names(names: Sequence[str], left: float, inside: float, y: float) -> list[Safe]:
    if len(names) > _NAMED:
        return []
    step = inside / max(len(names), 1)
    most = max(int(step / 7), 2)
    return [
        text(left + step * (place + 0.5), y, name if len(name) <= most else name[: most - 1] + "…", anchor="middle",
             class_="muted")
        for place, name in enumerate(names)
    ]  # fmt: skip


def _cells(kinds: Integers, left: float, top: float, width: float, height: float) -> Safe:
    """One path per kind; the script draws the same ones."""
    step = width / max(len(kinds), 1)
    wide = step * (0.86 if len(kinds) <= _FEW else 1)
    paths = []
    for kind, (class_, high) in KINDS.items():
        tall = height * high / _HIGH
        places = np.flatnonzero(kinds == kind).tolist()
        path = "".join(
            f"M{number(left + step * place)} {number(top + height)}v{number(-tall)}h{number(wide)}v{number(tall)}z"
            for place in places
        )
        paths.append(element("path", d=path or "M0 0", class_=class_))
    return joined(paths)
