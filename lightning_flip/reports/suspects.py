"""The labels of a run that are probably wrong, as a table for terminals and notebooks, in Markdown and in CSV."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.pictures import picture_of, png_of
from lightning_flip.reports.shown_table import ShownTable
from lightning_flip.reports.text import PlainTable, shorten
from lightning_flip.stores import History, HistoryError, PassRows
from lightning_flip.stores.history.suspects import Suspicion
from lightning_flip.stores.spreadsheets import csv_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["SuspectTable", "epoch_strips", "find_suspects"]

# One cell per epoch. The suggestion is higher than the label, so that no color is needed.
_UNSEEN, _LABEL, _OTHER, _SUGGESTION = range(4)
_CELLS = "·▁▄█"
_LONGEST_STRIP = 40
_MOST_SHOWN = 50  # rows in a notebook
_THUMBNAIL = 48  # pixels of the longer side
_LEGEND = (
    "Strip, from the first epoch to the last: ▁ the label was predicted, █ the suggestion, ▄ another class, · not seen."
)
# Which sample it is; behind it come the columns that a reviewer fills in.
_IDENTIFYING = ("index", "sample_id", "path", "given_label", "given_name")


class SuspectTable(ShownTable):
    """The most suspicious samples of a run, and how many there are; `History.suspects` returns it.

    Args:
        rows: the samples, the most suspicious first.
        scores: what `History.label_scores` gives.
        history: the run.
        split: the split of the samples.
        loader: its loader.
        images: a picture of each sample of the split, or an item with one, by index; see `picture_of`.

    Attributes:
        rows: the samples as a `pyarrow.Table`.
        scored: samples that have a score.
        surely_wrong: samples whose label is almost certainly wrong (`is_label_issue`).
        disagreeing: samples whose averaged prediction is another class (`disagrees`).
    """

    def __init__(
        self, rows: pa.Table, scores: pa.Table, history: History, split: str, loader: int, images: Any = None
    ) -> None:
        super().__init__(rows)
        self.scored: int = scores.num_rows - scores["label_score"].null_count
        self.surely_wrong: int = pc.sum(scores["is_label_issue"]).as_py()
        self.disagreeing: int = pc.sum(scores["disagrees"]).as_py()
        self._history, self._place, self._images = history, (split, loader), images

    @cached_property
    def position(self) -> npt.NDArray[np.int64]:
        """Place of each row among the samples of the split, [R]."""
        place = np.searchsorted(
            np.asarray(self._history.samples(*self._place)["index"]), np.asarray(self.rows["index"])
        )
        return place.astype(np.int64)

    @cached_property
    def strips(self) -> tuple[str, ...]:
        """What each sample was predicted as over the epochs, in characters."""
        suggestion = np.asarray(pc.fill_null(self.rows["predicted_label"], -1))
        return tuple(epoch_strips(self._history.visits(*self._place), self.position, suggestion))

    @cached_property
    def epochs(self) -> int:
        """Epochs that the scores are made of."""
        return len(self._history.chosen_epochs(self._place[0]))

    @property
    def all_epochs(self) -> int:
        """Epochs that were recorded."""
        return len({epoch for epoch, _ in self._history.passes(self._place[0])})

    def counts(self) -> str:
        """How many labels are wrong, as far as that is known without the truth."""
        return (
            f"{self.surely_wrong:,} of {self.scored:,} labels are almost certainly wrong; {self.disagreeing:,} disagree"
            f" with the sample's averaged prediction (scores of {self.epochs} of {self.all_epochs} epochs)."
        )

    def table(self, decimals: int = 3, most_rows: int | None = None) -> PlainTable:
        """The rows as text, all of them or the first ones, which a line below says."""
        cells = []
        for row, strip in zip(self.first_rows(most_rows).to_pylist(), self.strips, strict=False):
            score = row["label_score"]
            cells.append(
                (
                    shorten(row["index"] if row["sample_id"] is None else row["sample_id"]),
                    _class(row["given_label"], row["given_name"]),
                    _class(row["predicted_label"], row["predicted_name"]),
                    "-" if score is None else f"{score:.{decimals}f}",
                    "yes" if row["is_label_issue"] else "",
                    f"{row['times_right']}/{row['visits']}",
                    str(row["forgetting_events"]),
                    strip,
                )
            )
        headers = ("sample", "label", "suggestion", "score", "almost certain", "right", "forgotten", "strip")
        notes = (*self.more_rows(most_rows), self.counts(), _LEGEND)
        words, spare, drawn = (0, 1, 2, 4, 7), (6, 5, 4), (7,)
        return PlainTable("", headers, tuple(cells), words, spare, notes, drawn)

    def _repr_html_(self) -> str:
        table = self.table(most_rows=_MOST_SHOWN)
        if self._images is None:
            return table.html()
        shown = self.first_rows(_MOST_SHOWN)["index"].to_pylist()
        return table.html([png_of(picture_of(self._images[index]), _THUMBNAIL) for index in shown])

    def to_markdown(self, decimals: int = 3) -> str:
        """The table and the counts in Markdown."""
        return self.table(decimals).markdown()

    def render(self, console: Console, decimals: int = 3) -> None:
        """Print the table and the counts on a rich console."""
        self.table(decimals).print(console)

    def to_csv(self) -> str:
        """Every column of the rows, in full precision; text that a spreadsheet would run as a formula gets a quote.

        Two more columns are empty, for a reviewer: `review` (right, wrong or unsure) and `corrected_label`.
        """
        rows = self.rows.to_pylist()
        others = [name for name in self.rows.column_names if name not in _IDENTIFYING]
        header = [*_IDENTIFYING, "review", "corrected_label", *others]
        return csv_text(header, ([row.get(name) for name in header] for row in rows))


def find_suspects(
    history: History, k: int = 20, split: str = "train", by: Suspicion = "label_score", loader: int = 0
) -> SuspectTable:
    """Rank the samples of a run by how wrong their labels look; arguments as in `History.suspects`.

    Raises:
        ValueError: if `k` is under 1.
        HistoryError: if the history cannot be read, or lacks the split.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    rows: SuspectTable = history.suspects(k, split, by, loader)
    if not rows.num_rows:
        raise HistoryError(
            f"No sample of split {split!r}, loader {loader}, is a suspect by {by!r}. Ask for another split, or for"
            " by='label_score', which ranks every sample that was seen."
        )
    return rows


def epoch_strips(
    passes: Iterable[PassRows],
    position: npt.NDArray[np.integer],
    suggestion: npt.NDArray[np.integer],
    longest: int = _LONGEST_STRIP,
) -> list[str]:
    """What samples were predicted as, one character per pass: the label, the suggestion or another class.

    Args:
        passes: the passes in order.
        position: place of each sample among those of the split, [R].
        suggestion: class that is suggested in place of the label, [R]; -1 for none.
        longest: of more passes, neighbors share a character, which is the most frequent one of them.

    Returns:
        R texts of one length.

    Example:
        >>> one = np.array([0])
        >>> passes = [PassRows(epoch, 0, one, one + pred, one == pred, {}) for epoch, pred in enumerate([2, 1, 0])]
        >>> epoch_strips(passes, np.array([0, 5]), np.array([1, 1]))
        ['▄█▁', '···']
    """
    states = []
    for rows in passes:
        state = np.full(len(position), _UNSEEN)
        last = rows.is_last
        where, pred, right = rows.position[last], rows.pred[last], rows.correct[last]
        place = np.minimum(np.searchsorted(where, position), max(len(where) - 1, 0))
        if len(where):
            seen = where[place] == position
            told = np.where(pred[place] == suggestion, _SUGGESTION, np.where(right[place], _LABEL, _OTHER))
            state[seen] = told[seen]
        states.append(state)
    matrix = np.array(states, np.int64).reshape(len(states), len(position))
    groups = np.array_split(matrix, min(len(matrix), longest)) if len(matrix) else []
    shown = np.array([_most_frequent(group) for group in groups], np.int64).reshape(len(groups), len(position))
    return ["".join(_CELLS[state] for state in column) for column in shown.T.tolist()]


def _most_frequent(group: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The most frequent state of each column [passes, R]; of equal ones the higher one, which is the worse one."""
    counts = np.stack([(group == state).sum(axis=0) for state in range(len(_CELLS))])
    most: npt.NDArray[np.int64] = len(_CELLS) - 1 - counts[::-1].argmax(axis=0)
    return most


def _class(label: int | None, name: str | None) -> str:
    """A class by its name, else by its number."""
    return "-" if label is None else shorten(str(label) if name is None else name, 24)
