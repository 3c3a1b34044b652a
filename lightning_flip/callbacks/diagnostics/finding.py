"""What a diagnostic finds, and its files: a table that grows with the epochs, and a figure for each of them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from lightning_flip.callbacks.diagnostics._figure_logging import log_figure
from lightning_flip.callbacks.log_keys import split_name
from lightning_flip.callbacks.run_folder import RunFolder
from lightning_flip.stores.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DiagnosticFiles", "Finding"]


@dataclass(frozen=True)
class Finding:
    """The result of one pass.

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
    """One diagnostic's files of a run: a table for each split, and figures if no logger takes them.

    ``val_TITLE.csv`` grows with the epochs, ``val_TITLE-epoch-0003.png`` is of one. A second loader's begin with
    ``val_1_``, and a name follows the title.

    Attributes:
        place: the run's folder, which is checked before a write; None if no fit runs.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = DiagnosticFiles(Path(folder), "scores")
        ...     for epoch in (0, 1, 1):
        ...         files.add(("val", 0), epoch, {"low": [0.1], "count": [7 + epoch]})
        ...     print(Path(folder, "val_scores.csv").read_text(), end="")
        epoch,low,count
        0,0.1,7
        1,0.1,8
    """

    def __init__(self, folder: Path, title: str, name: str = "") -> None:
        self.folder = folder
        self._title = f"{title}_{name}" if name else title
        self.place: RunFolder | None = None
        self._mine: set[Path] = set()
        self._begun: set[Path] = set()

    def begin(self, splits: Sequence[str], *, overwrite: bool) -> None:
        """Begin a run: tables of these splits that another run wrote are refused, unless they may be overwritten."""
        problem = "" if overwrite else self.against(splits)
        if problem:
            raise FileExistsError(problem)
        for path in self._tables(splits):
            path.unlink()
            self._begun.discard(path)

    def against(self, splits: Sequence[str]) -> str:
        """Why a run must not begin: tables of these splits that another one wrote; "" if there are none."""
        there = self._tables(splits)
        if not set(there) - self._mine:
            return ""
        return (
            f"{', '.join(map(str, there))}: already there, from another run. Choose another dirpath=, resume that "
            "run, or pass overwrite=True to replace it."
        )

    def _tables(self, splits: Sequence[str]) -> list[Path]:
        pattern = rf"({'|'.join(splits)})(_\d+)?_{re.escape(self._title)}\.csv"
        return [path for path in sorted(self.folder.glob("*.csv")) if splits and re.fullmatch(pattern, path.name)]

    def add(self, key: tuple[str, int], epoch: int, table: Mapping[str, Sequence[Any]]) -> None:
        """Add an epoch's rows to a table, or none if the folder is lost; rows of this and later epochs are replaced."""
        path = self.folder / f"{self.title(key)}.csv"
        if self.place is not None:
            self.place.check(*({path} & self._begun))
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
        self._mine.add(path)
        self._begun.add(path)

    def draw(self, trainer: pl.Trainer, key: tuple[str, int], epoch: int, figure: Figure, *, name: str) -> list[str]:
        """Give a figure to the Trainer's loggers, or write it; returns where it went."""
        if self.place is not None:
            self.place.check()
        path = self.folder / f"{self.title(key)}-epoch-{epoch:04d}.png"
        return log_figure(trainer, name, figure, step=trainer.global_step, path=path)

    def title(self, key: tuple[str, int]) -> str:
        """Name of a table and its figures, without a suffix."""
        return f"{split_name(*key)}_{self._title}"


def _known(cell: Any) -> Any:
    """NaN stays empty like None."""
    return None if isinstance(cell, float) and math.isnan(cell) else cell
