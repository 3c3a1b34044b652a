"""What figures of several named runs share: panels side by side, names that fit, lines that can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from unicodedata import east_asian_width

from lightning_flip.reports.figures.drawing import COLORS, new_figure
from lightning_flip.reports.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PanelGrid", "as_named", "counted", "folded_text", "legend_below", "line_look", "panel_grid"]

_Kind = TypeVar("_Kind")

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_LINE = 0.17  # inches that a line of small text takes
_LETTERS = 13  # narrow letters that surely fit into an inch
_LONGEST = 60  # letters of a name that are shown


def as_named(named: _Kind | Mapping[str, _Kind], kind: type[_Kind]) -> dict[str, _Kind]:
    """Take one thing without a name, or several with names. Returns all of them by name; one without a name has "".

    Example:
        >>> as_named(3, int), as_named({"a": 3}, int)
        ({'': 3}, {'a': 3})
    """
    if isinstance(named, kind):
        return {"": named}
    if not isinstance(named, Mapping) or not all(isinstance(one, kind) for one in named.values()):
        raise TypeError(f"named must be a {kind.__name__}, or several of them by name; got {type(named).__name__}.")
    if not named:
        raise ValueError(f"named must hold at least one {kind.__name__}, got none.")
    return {str(name): one for name, one in named.items()}


def folded_text(label: str, inches: float) -> str:
    r"""Fold text that people chose into lines of a width; a very long one loses its middle.

    Returns printable lines, dollar signs escaped, since a pair of them would be read as a formula.

    Example:
        >>> folded_text("label smoothing, 0.2", 1.0)
        'label\nsmoothing,\n0.2'
    """
    text = shorten(label, _LONGEST) if len(printable(label)) > _LONGEST else printable(label)
    room = inches * _LETTERS * len(text) / max(1.0, sum(map(_breadth, text)))
    return "\n".join(wrap(text, max(8, int(room)))).replace("$", r"\$")


def counted(samples: int) -> str:
    """Say how many samples there are. Returns the number with its noun.

    Example:
        >>> counted(1), counted(12_345)
        ('1 sample', '12,345 samples')
    """
    return f"{samples:,} sample{'' if samples == 1 else 's'}"


class LineLook(NamedTuple):
    """How the line of one run is drawn.

    Attributes:
        color: differs up to 8 runs.
        linestyle: differs for neighbors, so that lines can be told apart without color.
    """

    color: str
    linestyle: Any


def line_look(place: int) -> LineLook:
    """Choose color and dashes of a run's line. Returns both; 40 runs differ.

    Example:
        >>> len({(look.color, look.linestyle) for look in map(line_look, range(40))})
        40
    """
    return LineLook(COLORS[place % len(COLORS)], _DASHES[place % len(_DASHES)])


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

    figure: Figure
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
    share_y: bool = False,
) -> PanelGrid:
    """Make a figure of panels, with room for titles and a legend of several lines.

    Returns figure and axes, with titles.

    Args:
        titles: a folded title for each panel.
        columns: panels in a row, at most.
        size: width and height of a panel in inches.
        margin: what the figure has beside them.
        heights: relative heights of the axes that stand below each other in a panel.
        legend: folded labels of the legend that :func:`legend_below` will draw.
        share_x: all axes have the same horizontal limits and ticks; for panels in one column.
        share_y: all axes have the same vertical limits.

    Example:
        >>> grid = panel_grid(["a", "b", "c"], 2, (3.0, 2.0))
        >>> len(grid.panels), grid.first, grid.lowest
        (3, [True, False, True], [False, True, True])
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}.")
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    width = size[0] * columns + margin[0]
    lines: float = rows * max(title.count("\n") + bool(title) for title in titles)
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


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put one legend below all panels, in as many columns as its labels leave room for."""
    from matplotlib.legend_handler import HandlerTuple

    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=_across(labels, figure.get_figwidth()),
        frameon=False,
        fontsize="small",
        handlelength=2.8,  # a whole period of the longest dashes
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )


def _breadth(letter: str) -> float:
    if east_asian_width(letter) in "WF":
        return 2.0
    return 1.5 if letter.isupper() or letter in "mw@%" else 1.0


def _across(labels: Sequence[str], inches: float) -> int:
    longest = max(sum(map(_breadth, line)) for label in labels for line in label.split("\n"))
    return max(1, min(len(labels), int(inches * _LETTERS / (longest + 8))))
