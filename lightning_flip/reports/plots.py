"""Figures of a recorded run: the dataset map, flips over the epochs, who flips, forgetting, suspicious labels.

Each one is a matplotlib figure outside pyplot, which notebooks show, and has the numbers behind it as a
`pyarrow.Table` in its attribute `table`. Colors are never alone: markers, dashes, hatches, heights or numbers tell the
same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.dynamics import class_flips, flip_timeline, forgetting, sample_courses
from lightning_flip.reports.figures.canvas import (
    BLUE,
    GRAY,
    ORANGE,
    counted,
    folded_text,
    legend_below,
    new_figure,
    panel_grid,
    plain_axes,
    plain_text,
)
from lightning_flip.reports.pictures import picture_of
from lightning_flip.reports.text import shorten
from lightning_flip.stores import History
from lightning_flip.stores.history.suspects import Suspicion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis

    from lightning_flip.reports.figures._shown import ShownFigure
    from lightning_flip.reports.suspects import SuspectTable

__all__ = [
    "HistoryPlots",
    "plot_dataset_map",
    "plot_flips",
    "plot_forgetting",
    "plot_suspects",
    "plot_who_flips",
]

_WIDTH = 7.0  # inches
_MOST_POINTS = 20_000  # more are drawn as cells
_CELL = 0.34  # inches that the number in a cell of a matrix needs
_BAR = 0.3  # inches that a number above a bar needs
_MOST_BARS = 30
_MOST_PAIRS = 20
_PANEL = 1.55  # inches of a picture with its title
_MOST_CELLS = 40  # passes that a strip separates by white lines
_REGIONS = (
    (0.02, 0.88, "easy to learn", "left"),
    (0.99, 0.52, "ambiguous", "right"),
    (0.02, 0.24, "hard to learn", "left"),
)
_DARK = "#6b3400"  # edges and hatches on ORANGE
_LONGEST_TITLE = 400
_NOTHING_SEEN = "No pass saw a sample."


class HistoryPlots:
    """The figures of a recorded run; `History.plot` returns it.

    Each method is a function of `lightning_flip.reports` with the history as its first argument, and takes the same
    options: `run.plot.flips("train")` is `plot_flips(run, "train")`.

    Args:
        history: the run.

    Example:
        Two samples, two passes; the first sample is forgotten, the second one learned.

        >>> import tempfile
        >>> from lightning_flip.stores import read_history
        >>> from lightning_flip.stores.claims import claim
        >>> from lightning_flip.stores.history.parts import PartKey, write_part
        >>> from lightning_flip.stores.history.samples import write_samples
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = claim(folder.name)
        >>> _ = write_samples(folder.name, {"split": "train", "index": [0, 1], "target": [1, 0]})
        >>> for epoch, pred in enumerate([[1, 1], [0, 0]]):
        ...     measures = {"prob_label": np.full(2, 0.5), "logit_margin": np.zeros(2), "cross_entropy": np.ones(2)}
        ...     columns = {"global_step": np.full(2, epoch), "index": np.arange(2), "pred": np.array(pred)}
        ...     _ = write_part(folder.name, PartKey("train", epoch, 0, 0),
        ...                    columns | measures | {"best_other": np.array([0, 1])})
        >>> run = read_history(folder.name)
        >>> run.plot.flips("train").table.select(["right", "ever_right", "to_right", "to_wrong"]).to_pylist()[1]
        {'right': 1, 'ever_right': 2, 'to_right': 1, 'to_wrong': 1}
        >>> run.plot.who_flips("train").table.select(["right", "predicted", "flips"]).to_pylist()
        [{'right': 1, 'predicted': 0, 'flips': 1}]
        >>> run.plot.forgetting().table["samples"].to_pylist()
        [1, 1, 0, 0]
        >>> folder.cleanup()
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def __repr__(self) -> str:
        names = [name for name in vars(HistoryPlots) if not name.startswith("_")]
        return f"Figures of the run: {', '.join(f'{name}()' for name in names)}"

    def dataset_map(self, split: str = "train", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
        """Confidence over variability of each sample: see :func:`plot_dataset_map`."""
        return plot_dataset_map(self._history, split, loader, width=width)

    def flips(self, split: str = "val", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
        """Right, ever right and flips over the epochs: see :func:`plot_flips`."""
        return plot_flips(self._history, split, loader, width=width)

    def who_flips(self, split: str = "val", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
        """From which class to which samples flip: see :func:`plot_who_flips`."""
        return plot_who_flips(self._history, split, loader, width=width)

    def forgetting(self, split: str = "train", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
        """How often samples were forgotten: see :func:`plot_forgetting`."""
        return plot_forgetting(self._history, split, loader, width=width)

    def suspects(
        self,
        k: int = 12,
        split: str = "train",
        by: Suspicion = "label_score",
        loader: int = 0,
        *,
        images: Any = None,
        width: float = _WIDTH,
    ) -> ShownFigure:
        """The labels that are probably wrong, with pictures: see :func:`plot_suspects`."""
        return plot_suspects(self._history, k, split, by, loader, images=images, width=width)


def plot_dataset_map(history: History, split: str = "train", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
    """Draw each sample by the mean and the spread of its label's probability (Swayamdipta et al. 2020, Fig. 1).

    Samples whose label is almost certainly wrong are triangles. Of more than 20,000 samples the others are counted in
    cells, and the 20,000 worst triangles are drawn.

    Args:
        history: the run.
        split: which split.
        loader: which of its loaders.
        width: of the figure, in inches.

    Returns:
        The figure; `table` has a row per sample that was seen: `index`, `variability`, `confidence`,
        `is_label_issue`, `label_score`.

    Raises:
        HistoryError: if the split or loader was not recorded, or a part is damaged.
        ModuleNotFoundError: without matplotlib.
    """
    scores = history.label_scores(split, loader)
    seen = scores.filter(pc.greater(scores["visits"], 0))
    table = seen.select(["index", "variability", "confidence", "is_label_issue", "label_score"])
    if not table.num_rows:
        return _words(f"{split}: {_NOTHING_SEEN}", table, width)
    wrong = pc.sum(table["is_label_issue"]).as_py()
    facts = [f"{split}: {counted(table.num_rows)}", f"{wrong:,} almost certainly wrong"]
    if scores.num_rows > table.num_rows:
        facts.append(f"{scores.num_rows - table.num_rows:,} more never seen")
    if pc.max(seen["visits"]).as_py() == 1:
        facts.append("one visit each, so that the variability is 0")
    figure, axes = _single(", ".join(facts), width, 0.72 * width + 0.5)
    spread, mean = (_floats(table[name]) for name in ("variability", "confidence"))
    issue = np.asarray(table["is_label_issue"])
    others = np.flatnonzero(~issue & ~np.isnan(mean))
    worst = np.argsort(_floats(table["label_score"]), kind="stable")
    worst = worst[issue[worst]][:_MOST_POINTS]
    handles, labels = [], []
    if len(others) > _MOST_POINTS:
        cells = axes.hexbin(spread[others], mean[others], gridsize=40, bins="log", cmap="Blues", mincnt=1, linewidths=0)
        figure.colorbar(cells, ax=axes, label="other samples in a cell", aspect=30)
    elif len(others):
        size = 3.5 if len(others) < 2_000 else 1.8
        (points,) = axes.plot(spread[others], mean[others], "o", color=BLUE, ms=size, mew=0, alpha=0.5)
        handles, labels = [points], ["other"]
    if len(worst):
        (points,) = axes.plot(
            spread[worst], mean[worst], "^", color=ORANGE, ms=5 if len(worst) < 1_000 else 3, mew=0.4, mec=_DARK
        )
        handles, labels = [points, *handles], [f"almost certainly wrong{_part(len(worst), wrong)}", *labels]
    axes.set_xlim(-0.01, max(0.5, float(np.nanmax(spread))) + 0.01)
    axes.set_ylim(-0.02, 1.02)
    plain_axes(axes, x="variability of the label's probability", y="confidence: its mean")
    # Points are on a bow from the lower to the upper left corner: words are inside of it, and on its right.
    for x, y, text, side in _REGIONS:
        words = axes.text(x, y, text, transform=axes.transAxes, ha=side, va="center", fontsize="small", style="italic")
        words.set_bbox({"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1})
    if handles:
        legend_below(figure, handles, labels, markerscale=1.6)
    figure.table = table
    return figure


def plot_flips(history: History, split: str = "val", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
    """Draw how many samples are right, were ever right, and changed since the pass before.

    Args:
        history: the run.
        split: which split.
        loader: which of its loaders.
        width: of the figure, in inches.

    Returns:
        The figure; `table` has a row per pass, as `FlipTimeline` of `lightning_flip.reports.dynamics`.

    Raises:
        HistoryError: if the split or loader was not recorded, or a part is damaged.
        ModuleNotFoundError: without matplotlib.
    """
    found = flip_timeline(history, split, loader)
    if not found.seen.any():
        return _words(f"{split}: {_NOTHING_SEEN}", found.to_arrow(), width)
    known, seen = np.maximum(found.known, 1), np.maximum(found.seen, 1)
    right, ever = 100 * found.right / known, 100 * found.ever_right / known
    up, down = 100 * found.to_right / seen, 100 * found.to_wrong / seen
    lost = found.ever_right[-1] - found.right[-1]
    title = f"{split}: {lost:,} of {counted(int(found.known[-1]))} were right before and are wrong at the end"
    if len(found.epoch) == 1:
        title += "; one pass alone, so that nothing can flip"
    figure = new_figure(width, max(3.9, 0.6 * width + 1.0))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(_title(title, width), fontsize="medium")
    place, wide = _places(found.epoch)
    marker = "o" if len(place) < 3 * width else ""
    (now,) = upper.plot(place, right, "-", color=BLUE, marker=marker, ms=3.5, lw=1.8)
    (once,) = upper.plot(place, ever, "--", color="black", marker=marker, ms=2.5, lw=1.2)
    better = lower.bar(place, up, wide, color=BLUE)
    worse = lower.bar(place, -down, wide, color=ORANGE, hatch="////", edgecolor=_DARK, linewidth=0)
    lower.axhline(0, color="black", lw=0.8)
    lower.set_ylim(-1.1 * max(1.0, down.max()), 1.1 * max(1.0, up.max()))
    lower.set_xlim(place[0] - 0.6, place[-1] + 0.6)
    upper.set_ylim(0, 102)
    lower.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}%")
    upper.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    _whole_ticks(lower.xaxis, int(2 * width))
    plain_axes(upper, y="samples")
    plain_axes(lower, x="epoch", y="changed")
    labels = [f"right: {right[-1]:.1f}% at the end", f"ever right: {ever[-1]:.1f}%"]
    labels += ["up: wrong to right", "down: right to wrong"]
    legend_below(figure, [now, once, better, worse], labels)
    figure.table = found.to_arrow()
    return figure


def plot_who_flips(history: History, split: str = "val", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
    """Draw from which right class to which wrong one samples flipped, over the whole run.

    If not all classes fit, those with the most flips are drawn; if most flips are between others, the most frequent
    pairs of classes are.

    Args:
        history: the run.
        split: which split.
        loader: which of its loaders.
        width: of the figure, in inches.

    Returns:
        The figure; `table` has a row per pair of classes that occurs, the most frequent first: `right`, `right_name`,
        `predicted`, `predicted_name`, `flips`.

    Raises:
        HistoryError: if the split or loader was not recorded, or a part is damaged.
        ModuleNotFoundError: without matplotlib.
    """
    pairs = class_flips(history, split, loader)
    name = dict(enumerate(history.class_names or []))
    table = pa.table(
        {
            "right": pairs.first,
            "right_name": pa.array([name.get(one) for one in pairs.first.tolist()], pa.string()),
            "predicted": pairs.second,
            "predicted_name": pa.array([name.get(one) for one in pairs.second.tolist()], pa.string()),
            "flips": pairs.count,
        }
    )
    if not pairs.total:
        passes = len(history.passes(split))
        why = "with one pass nothing can flip" if passes == 1 else f"no sample flipped in {passes:,} passes"
        return _words(f"{split}: {why}.", table, width)
    flips = np.concatenate([pairs.count, pairs.count])
    total = np.bincount(np.concatenate([pairs.first, pairs.second]), flips)
    occurring = np.flatnonzero(total)
    most = min(len(occurring), max(2, int((width - 1.6) / _CELL)))
    classes, matrix = pairs.matrix(np.sort(np.argsort(-total, kind="stable")[:most]))
    title = f"{split}: {pairs.total:,} flips from right to wrong"
    if 2 * matrix.sum() < pairs.total:
        return _pair_bars(title, table, width)
    if most < len(occurring):
        title += f"; {matrix.sum():,} of them between the {most} of {len(occurring):,} classes that flip most"
    labels = [plain_text(shorten(name.get(one, one), 14)) for one in classes.tolist()]
    longest = 0.075 * max(map(len, labels))
    cells = _CELL * max(len(classes), 4)
    figure, axes = _single(title, width, cells + longest + 1.3)
    axes.imshow(np.where(matrix > 0, matrix, np.nan), cmap="Blues", vmin=0, vmax=1.3 * matrix.max(), aspect="auto")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        count = int(matrix[row, column])
        color = "white" if count > 0.75 * matrix.max() else "black"
        axes.text(column, row, _short(count), ha="center", va="center", color=color, fontsize=7.5)
    ticks = np.arange(len(classes))
    axes.set_xticks(ticks, labels, rotation=90, fontsize="small")
    axes.set_yticks(ticks, labels, fontsize="small")
    axes.set_xticks(ticks[1:] - 0.5, minor=True)
    axes.set_yticks(ticks[1:] - 0.5, minor=True)
    axes.grid(which="minor", color="#d7dbe0", lw=0.5)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted instead")
    axes.set_ylabel("was right")
    figure.table = table
    return figure


def plot_forgetting(history: History, split: str = "train", loader: int = 0, *, width: float = _WIDTH) -> ShownFigure:
    """Draw how many samples were forgotten how often: right at a visit, wrong at the next one (Toneva et al. 2019).

    Args:
        history: the run.
        split: which split.
        loader: which of its loaders.
        width: of the figure, in inches.

    Returns:
        The figure; `table` has the columns `state` (learned, never learned, never seen), `forgetting_events` (null
        unless learned) and `samples`.

    Raises:
        HistoryError: if the split or loader was not recorded, or a part is damaged.
        ModuleNotFoundError: without matplotlib.
    """
    found = forgetting(history.statistics(split, loader))
    events = found.events
    table = pa.table(
        {
            "state": ["learned"] * len(events) + ["never learned", "never seen"],
            "forgetting_events": pa.array([*range(len(events)), None, None], pa.int64()),
            "samples": [*events.tolist(), found.never_learned, found.never_seen],
        }
    )
    learned = int(events.sum())
    seen = learned + found.never_learned
    if not seen:
        return _words(f"{split}: {_NOTHING_SEEN}", table, width)
    forgotten = int(events[1:].sum())
    title = f"{split}: of {counted(seen)}, {forgotten:,} were forgotten at least once ({forgotten / seen:.1%})"
    title += f", {found.never_learned:,} were never right"
    if found.never_seen:
        title += f"; {found.never_seen:,} more were never seen"
    figure, axes = _single(title, width, 0.45 * width + 1.0)
    most = min(_MOST_BARS, max(4, int(2.2 * width)))
    bars, labels = events, [str(number) for number in range(len(events))]
    if len(events) > most:
        bars = np.append(events[: most - 1], events[most - 1 :].sum())
        labels = [*labels[: most - 1], f"{most - 1}+"]
    place = np.arange(len(bars))
    drawn = [axes.bar(place, bars, 0.8, color=BLUE)]
    drawn.append(axes.bar([len(bars) + 0.6], [found.never_learned], 0.8, color=ORANGE, hatch="////", edgecolor=_DARK))
    if (len(bars) + 2) * _BAR * max(1.0, len(_short(int(bars.max(initial=0)))) / 4) <= width - 1:
        for group in drawn:
            axes.bar_label(group, fmt=lambda count: _short(int(count)), fontsize="small", padding=1)
    axes.set_xticks([*place, len(bars) + 0.6], [*labels, "never\nright"], fontsize="small")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    plain_axes(axes, x="times forgotten", y="samples")
    axes.margins(x=0.02, y=0.12)
    figure.table = table
    return figure


def plot_suspects(
    history: History,
    k: int = 12,
    split: str = "train",
    by: Suspicion = "label_score",
    loader: int = 0,
    *,
    images: Any = None,
    width: float = _WIDTH,
) -> ShownFigure:
    """Draw the labels that are probably wrong: label, suggestion, score, predictions over the epochs, and pictures.

    A strip has a cell for each pass, low and blue if the label was predicted, high and orange for the suggestion, and
    between them and gray for another class.

    Args:
        history: the run.
        k: how many samples, at least 1.
        split: which split.
        by: what they are ranked by; see `History.suspects`.
        loader: which of the split's loaders.
        images: the dataset, or anything else that gives a picture of the sample at an index, alone, first in a tuple,
            or in a dict (see `lightning_flip.reports.picture_of`). None draws no pictures.
        width: of the figure, in inches.

    Returns:
        The figure; `table` has what `History.suspects` gives, and the `strip` in characters.

    Raises:
        ValueError: if k is under 1 or `by` is unknown.
        TypeError: if an item of `images` has no picture.
        HistoryError: if the split or loader was not recorded, or a part is damaged.
        ModuleNotFoundError: without matplotlib.
    """
    found: SuspectTable = history.suspects(k, split, by, loader)
    table = found.rows.append_column("strip", pa.array(found.strips, pa.string()))
    if not table.num_rows:
        return _words(f"{split}: no sample is a suspect by {by!r}.", table, width)
    rows = table.to_pylist()
    columns = min(len(rows), max(1, int(width / _PANEL)))
    across = (width - 0.2) / columns
    titles = [_suspect_title(row, across - 0.1) for row in rows]
    tall, heights = (0.0, (1.0,)) if images is None else (0.85 * across, (0.85 * across, 0.35))
    counts = _title(f"{split}: {found.counts()}", width)
    labels = ["low: the label was predicted", "between: another class", "high: the suggestion"]
    courses = sample_courses(history, found.position, split, loader)
    if (courses.pred < 0).any():
        labels.append("empty: not seen")
    grid = panel_grid(
        titles,
        columns,
        (across, tall + (0.72 if images is None else 0.45)),
        margin=(0.2, 0.35 + 0.2 * counts.count("\n")),
        heights=heights,
        legend=labels,
    )
    grid.figure.suptitle(counts, fontsize="medium")
    for panel, title in zip(grid.panels, titles, strict=True):
        panel[0].set_title(title, fontsize="small")
    suggestion = np.asarray(found.rows["predicted_label"].fill_null(-1))
    handles: list[Any] = []
    for place, (row, panel) in enumerate(zip(rows, grid.panels, strict=True)):
        if images is not None:
            picture = picture_of(images[row["index"]])
            panel[0].imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            panel[0].set_axis_off()
        handles = _draw_strip(panel[-1], courses.pred[place], courses.right[place], suggestion[place])
    from matplotlib.patches import Patch

    legend_below(grid.figure, [*handles, Patch(facecolor="white", edgecolor=GRAY)][: len(labels)], labels)
    grid.figure.table = table
    return grid.figure


def _pair_bars(title: str, table: pa.Table, width: float) -> ShownFigure:
    """The most frequent pairs of many classes."""
    rows = table.slice(0, _MOST_PAIRS).to_pylist()
    shown = sum(row["flips"] for row in rows)
    title += f"; the {len(rows)} most frequent of {table.num_rows:,} pairs of classes, with {shown:,} of them"
    letters = max(8, int(2.6 * width))
    labels = [
        " → ".join(plain_text(shorten(row[f"{kind}_name"] or row[kind], letters)) for kind in ("right", "predicted"))
        for row in rows
    ]
    figure, axes = _single(title, width, 0.24 * len(rows) + 1.4)
    bars = axes.barh(range(len(rows)), [row["flips"] for row in rows], color=BLUE)
    axes.set_yticks(range(len(rows)), labels)
    axes.bar_label(bars, fontsize="small", padding=2)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize="small")
    axes.margins(x=0.12)
    _whole_ticks(axes.xaxis, int(width))
    plain_axes(axes, x="flips", y="was right → predicted instead")
    figure.table = table
    return figure


def _suspect_title(row: dict[str, Any], inches: float) -> str:
    """Which sample, label and suggestion, and the score, in lines that fit."""
    letters = max(10, int(12 * inches))
    name = shorten(row["index"] if row["sample_id"] is None else row["sample_id"], letters)
    given, suggested = (
        "-" if row[f"{kind}_label"] is None else shorten(row[f"{kind}_name"] or row[f"{kind}_label"], letters - 2)
        for kind in ("given", "predicted")
    )
    words = f"{given} → {suggested}"
    pair = [words] if len(words) <= letters else [given, f"→ {suggested}"]
    score = "-" if row["label_score"] is None else f"{row['label_score']:.3f}"
    return "\n".join(plain_text(line) for line in (name, *pair, f"score {score}"))


def _draw_strip(axes: Axes, pred: npt.NDArray[Any], right: npt.NDArray[np.bool_], suggestion: int) -> list[Any]:
    """A cell for each pass; returns a handle for each kind of cell."""
    seen = pred >= 0
    suggested = seen & (pred == suggestion)
    kinds = ((right & ~suggested & seen, 0.4, BLUE), (seen & ~right & ~suggested, 0.7, GRAY), (suggested, 1.0, ORANGE))
    edges = np.arange(len(pred) + 1)
    handles = [axes.stairs(height * cells, edges, fill=True, color=color) for cells, height, color in kinds]
    if len(pred) <= _MOST_CELLS:
        axes.vlines(edges[1:-1], 0, 1, color="white", lw=0.8)
    axes.set_xlim(0, len(pred))
    axes.set_ylim(0, 1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    return handles


def _single(title: str, width: float, height: float) -> tuple[ShownFigure, Axes]:
    """A figure with one panel."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    figure.suptitle(_title(title, width), fontsize="medium")
    return figure, axes


def _whole_ticks(axis: XAxis, most: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(max(3, most), integer=True, min_n_ticks=1))


def _title(text: str, width: float) -> str:
    return folded_text(text, width - 0.6, longest=_LONGEST_TITLE)


def _words(text: str, table: pa.Table, width: float) -> ShownFigure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(width, 1.0)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, _title(text, width), ha="center", va="center", transform=axes.transAxes)
    figure.table = table
    return figure


def _places(epoch: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], float]:
    """Where each pass is drawn: passes of one epoch side by side; and how wide its bar is."""
    first = np.searchsorted(epoch, epoch)
    among = np.searchsorted(epoch, epoch, "right") - first
    place = np.asarray(epoch + (np.arange(len(epoch)) - first) / among, np.float64)
    gap = float(np.diff(place).min()) if len(place) > 1 else 1.0
    return place, 0.8 * gap


def _short(count: int) -> str:
    """A count in at most four letters."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count / size:.0f}{unit}"
    return str(count)


def _part(shown: int, there: int) -> str:
    return "" if shown == there else f" (the worst {shown:,} of {there:,})"


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
