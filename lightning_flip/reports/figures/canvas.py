"""What figures share: panels side by side outside pyplot, colors and dashes, legends, and names that fit."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from unicodedata import east_asian_width

from lightning_flip.reports.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_flip.reports.figures._shown import ShownFigure

__all__ = [
    "BLUE",
    "COLORS",
    "GRAY",
    "GREEN",
    "ORANGE",
    "RED",
    "LineLook",
    "PanelGrid",
    "counted",
    "folded_text",
    "legend_below",
    "line_look",
    "new_figure",
    "note",
    "panel_grid",
    "plain_axes",
    "plain_text",
    "titled",
]

BLUE, RED, GREEN, VIOLET, OCHER, GRAY = "#1f6fb2", "#c8442c", "#2f8f5b", "#8a5bb0", "#b0862a", "#9aa3ad"
ORANGE = "#e8862e"  # what a label is suspected to be; lighter than BLUE, the label
COLORS = (RED, BLUE, GREEN, VIOLET, OCHER, "#3b8ea5", "#7a4b3a", "#4c566a")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_LINE = 0.17  # height of a line of small text, in inches
_LETTERS = 13  # narrow letters that surely fit into an inch
_LONGEST = 60  # letters of a name that are shown


def new_figure(width: float, height: float) -> ShownFigure:
    """Make a figure of some inches outside pyplot: no window opens, nothing has to be closed, and notebooks show it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures need matplotlib, which is not installed; run pip install 'lightning-flip[report]'."
        ) from error
    from lightning_flip.reports.figures._shown import ShownFigure

    return ShownFigure(figsize=(width, height), layout="constrained")


class PanelGrid(NamedTuple):
    """A figure with a place for every panel; places that are left over are blank.

    Attributes:
        figure: the figure.
        panels: for each panel its axes from top to bottom.
        first: for each panel, whether it is the first one of its row.
        last: for each panel, whether it is the last one of its row.
        full: for each panel, whether its row has no blank place.
        lowest: for each panel, whether there is none below it.
    """

    figure: ShownFigure
    panels: list[list[Axes]]
    first: list[bool]
    last: list[bool]
    full: list[bool]
    lowest: list[bool]


def panel_grid(
    titles: Sequence[str],
    columns: int,
    size: tuple[float, float],
    *,
    margin: tuple[float, float] = (0.5, 0.3),
    heights: Sequence[float] = (1.0,),
    legend: Sequence[str] = (),
    share_x: bool = False,
    share_y: bool | Literal["row"] = False,
) -> PanelGrid:
    """Make a figure of panels, with room for titles and a legend of several lines.

    Args:
        titles: a folded title for each panel.
        columns: panels in a row, at most.
        size: width and height of a panel in inches.
        margin: what the figure has beside them.
        heights: relative heights of the axes that stand below each other in a panel.
        legend: folded labels of the legend that :func:`legend_below` will draw.
        share_x: all axes have the same horizontal limits and ticks; for panels in one column.
        share_y: all axes, or those of one row, have the same vertical limits.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}.")
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    width = size[0] * columns + margin[0]
    lines: float = sum(
        max(title.count("\n") + bool(title) for title in titles[row * columns : (row + 1) * columns])
        for row in range(rows)
    )
    lines += sum(label.count("\n") + 1 for label in legend) / _across(legend, width) if legend else 0
    figure = new_figure(width, size[1] * rows + margin[1] + _LINE * lines)
    each = len(heights)
    axes = figure.subplots(
        each * rows, columns, squeeze=False, height_ratios=[*heights] * rows, sharex=share_x, sharey=share_y
    )
    panels = []
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        panel = list(axes[each * row : each * (row + 1), column])
        if place < len(titles):
            panels.append(panel)
            panel[0].set_title(titles[place], fontsize="medium")
            continue
        for blank in panel:
            blank.set_axis_off()
    count = len(panels)
    return PanelGrid(
        figure,
        panels,
        first=[place % columns == 0 for place in range(count)],
        last=[place % columns == columns - 1 or place == count - 1 for place in range(count)],
        full=[(place // columns + 1) * columns <= count for place in range(count)],
        lowest=[place + columns >= count for place in range(count)],
    )


def plain_axes(axes: Axes, *, x: str = "", y: str = "") -> None:
    """Label axes, and take off the lines above and on the right."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def note(axes: Axes, text: str) -> None:
    """Write a number, such as a correlation, into the upper left corner."""
    axes.text(0.04, 0.97, text, transform=axes.transAxes, va="top", fontsize="small")


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], **options: Any) -> None:
    """Put one legend below all panels, in as many columns as its labels leave room for."""
    from matplotlib.legend_handler import HandlerTuple

    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=_across(labels, figure.get_figwidth()),
        frameon=False,
        fontsize="small",
        **{"handlelength": 2.8} | options,  # a whole period of the longest dashes
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )


class LineLook(NamedTuple):
    """How the line of one run is drawn.

    Attributes:
        color: differs up to 8 runs.
        linestyle: differs for neighbors, so that lines can be told apart without color.
    """

    color: str
    linestyle: Any


def line_look(place: int) -> LineLook:
    """Color and dashes of a run's line; those of 40 runs differ."""
    return LineLook(COLORS[place % len(COLORS)], _DASHES[place % len(_DASHES)])


def plain_text(label: Any) -> str:
    r"""One printable line; dollar signs are escaped, as a pair of them would be read as a formula.

    Example:
        >>> plain_text("cost in $")
        'cost in \\$'
    """
    return printable(str(label)).replace("$", r"\$")


def folded_text(label: str, inches: float, longest: int = _LONGEST) -> str:
    r"""Printable text in lines of a width, dollar signs escaped; one of more letters than `longest` loses its middle.

    Example:
        >>> folded_text("label smoothing, 0.2", 1.0)
        'label\nsmoothing,\n0.2'
    """
    text = shorten(label, longest) if len(printable(label)) > longest else printable(label)
    room = inches * _LETTERS * len(text) / max(1.0, sum(map(_breadth, text)))
    return "\n".join(wrap(text, max(8, int(room)))).replace("$", r"\$")


def titled(name: str, numbers: str, inches: float) -> str:
    """A panel's title: the folded name of its run, if there is one, and a line of numbers."""
    return "\n".join(filter(None, [folded_text(name, inches), numbers]))


def counted(samples: int) -> str:
    """The number of samples with its noun."""
    return f"{samples:,} sample{'' if samples == 1 else 's'}"


def _breadth(letter: str) -> float:
    if east_asian_width(letter) in "WF":
        return 2.0
    return 1.5 if letter.isupper() or letter in "mw@%" else 1.0


def _across(labels: Sequence[str], inches: float) -> int:
    longest = max(sum(map(_breadth, line)) for label in labels for line in label.split("\n"))
    return max(1, min(len(labels), int(inches * _LETTERS / (longest + 8))))
