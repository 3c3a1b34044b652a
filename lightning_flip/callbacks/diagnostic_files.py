"""Where a diagnostic leaves what it found: a table that grows with the epochs, and a figure for each of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from lightning_flip.callbacks.figure_logging import log_figure
from lightning_flip.stores.atomic import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DiagnosticFiles", "Finding"]


@dataclass(frozen=True)
class Finding:
    """What a diagnostic says of one pass.

    Attributes:
        table: columns by name, equally long, of plain numbers, words and None.
        report: the same as an object of ``lightning_flip.reports``, which its functions draw; several of one kind in
            one dict.
        draw: makes the figure; None for none.
        scalars: numbers to log, by name.
    """

    table: Mapping[str, Sequence[Any]]
    report: Any
    draw: Callable[[], Figure] | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)


class DiagnosticFiles:
    """One diagnostic's files of a run: ``TITLE.csv``, and ``TITLE-epoch-0003.png`` where no logger takes figures.

    Args:
        folder: where they lie; made when something is written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = DiagnosticFiles(Path(folder))
        ...     for epoch in (0, 1, 1):
        ...         files.add("val_scores", epoch, {"low": [0.1], "count": [7 + epoch]})
        ...     print(Path(folder, "val_scores.csv").read_text(), end="")
        epoch,low,count
        0,0.1,7
        1,0.1,8
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, titles: Sequence[str], *, overwrite: bool) -> None:
        """Begin a run: there must be no table of another one.

        Args:
            titles: of the tables that may be written.
            overwrite: remove what is there.

        Raises:
            FileExistsError: if a table is there and may not be removed.
        """
        there = [path for path in (self._table(title) for title in titles) if path.exists()]
        if there and not overwrite:
            raise FileExistsError(
                f"{', '.join(map(str, there))}: already there, from another run. Choose another dirpath=, resume that "
                "run, or pass overwrite=True to replace it."
            )
        for path in there:
            path.unlink()

    def add(self, title: str, epoch: int, table: Mapping[str, Sequence[Any]]) -> None:
        """Add an epoch's rows to a table, whole or not at all; rows of this and later epochs are replaced.

        Args:
            title: the table's name.
            epoch: counted from 0.
            table: columns by name.
        """
        path = self._table(title)
        rows = [dict(zip(table, map(_known, cells), strict=True)) for cells in zip(*table.values(), strict=True)]
        kept: list[dict[str, Any]] = []
        names = ["epoch", *table]
        if path.exists():
            with path.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                kept = [row for row in reader if int(row["epoch"]) < epoch]
                names += [name for name in reader.fieldnames or () if name not in names]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")  # None, and columns that an epoch lacks, stay empty
        writer.writeheader()
        writer.writerows([*kept, *({"epoch": epoch, **row} for row in rows)])
        write_text(path, text.getvalue())

    def draw(self, trainer: pl.Trainer, title: str, epoch: int, figure: Figure) -> list[str]:
        """Hand a figure to the Trainer's loggers, or write it.

        Args:
            trainer: the running Trainer.
            title: its name.
            epoch: counted from 0.
            figure: the figure.

        Returns:
            Where it went.
        """
        path = self.folder / f"{title}-epoch-{epoch:04d}.png"
        return log_figure(trainer, title, figure, step=trainer.global_step, path=path)

    def _table(self, title: str) -> Path:
        return self.folder / f"{title}.csv"


def _known(cell: Any) -> Any:
    """NaN stays empty like None: what is not known is no number."""
    return None if isinstance(cell, float) and math.isnan(cell) else cell
