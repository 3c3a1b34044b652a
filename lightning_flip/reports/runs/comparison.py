"""Several runs in one table, one row per method."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_flip._deprecate import renamed_keywords
from lightning_flip.reports.runs.summary import RunSummary, summarize_run
from lightning_flip.reports.text import PlainTable, printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Comparison", "Spread", "compare_runs", "parse_run"]

_COLUMNS = {
    "accuracy": "accuracy_last",
    "flipping_error": "flipping_error",
    "relative_flipping_error": "relative_flipping_error",
    "calibration_error": "calibration_error",
    "mislabelled_auroc": "mislabelled_auroc",
}


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over the runs that have a number.

    Attributes:
        mean: their mean.
        std: their sample standard deviation (divisor n - 1); None for a single run.

    Example:
        >>> Spread.over([0.25, None, 0.75])
        Spread(mean=0.5, std=0.3535533905932738)
    """

    mean: float
    std: float | None

    @classmethod
    def over(cls, values: Sequence[float | None]) -> Spread | None:
        """Summarize numbers; None ones are left out.

        Args:
            values: one number per run, or None if a run has none.

        Returns:
            The spread; None if no run has a number.

        Example:
            >>> Spread.over([0.5]), Spread.over([None])
            (Spread(mean=0.5, std=None), None)
        """
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


@dataclasses.dataclass(frozen=True)
class Comparison:
    r"""Runs grouped by label; returned by `compare_runs`.

    Attributes:
        groups: the runs' summaries by label, in the order in which the labels first came.
        accuracy_header: header of the accuracy column in tables.

    Example:
        >>> one = RunSummary(0.9, 0.92, 0.04, 0.4, 0.02, 0.05, None, 30, 500, 1.0)
        >>> two = RunSummary(0.92, 0.92, 0.02, 0.25, 0.02, 0.03, 0.99, 30, 500, 1.0)
        >>> comparison = Comparison({"plain": [one, two], "a|b": [one]}, "test acc")
        >>> print(comparison.to_markdown())
        | method | test acc | FE | RFE | ECE | mislabelled found (AUROC) |
        |:---|---:|---:|---:|---:|---:|
        | plain | 91.0 ± 1.4% | 3.0 ± 1.4% | 32.5 ± 10.6% | 4.0 ± 1.4% | 0.990 |
        | a\|b | 90.0% | 4.0% | 40.0% | 5.0% | - |
    """

    groups: dict[str, list[RunSummary]]
    accuracy_header: str = "test acc"

    def to_rows(self) -> list[dict[str, str | int | float | None]]:
        """One dict per label: `method`, `runs`, mean and `_std` of each number in [0, 1], None if unknown."""
        rows = []
        for label, summaries in self.groups.items():
            row: dict[str, str | int | float | None] = {"method": label, "runs": len(summaries)}
            for name, spread in self._spreads(summaries).items():
                row[name] = None if spread is None else spread.mean
                row[f"{name}_std"] = None if spread is None else spread.std
            rows.append(row)
        return rows

    def to_csv(self) -> str:
        """`to_rows` as CSV with a header, numbers in full precision, empty if unknown."""
        text = io.StringIO()
        names = ["method", "runs", *(f"{name}{end}" for name in _COLUMNS for end in ("", "_std"))]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"method": printable(str(row["method"]))} for row in self.to_rows())
        return text.getvalue()

    def to_markdown(self, decimals: int = 1) -> str:
        """The table in Markdown, without a last line break: percent, but areas under curves with three decimals.

        Args:
            decimals: decimals of the percentages.
        """
        return self._table(decimals).markdown()

    def render(self, console: Console, decimals: int = 1) -> None:
        """Print the table on a rich console.

        Args:
            console: where to print.
            decimals: decimals of the percentages.
        """
        table = self._table(decimals).rich()
        if console.measure(table, options=console.options.update(width=999)).maximum > console.width:
            table.padding = 0  # columns closer together, rather than labels in two lines
        console.print(table)

    def _repr_html_(self) -> str:
        return self._table(1).html()

    def _table(self, decimals: int) -> PlainTable:
        rows = []
        for label, summaries in self.groups.items():
            cells = [label]
            for name, spread in self._spreads(summaries).items():
                percent = name != "mislabelled_auroc"
                cells.append(_format(spread, decimals if percent else 3, percent))
            rows.append(tuple(cells))
        headers = ("method", self.accuracy_header, "FE", "RFE", "ECE", "mislabelled found (AUROC)")
        return PlainTable("", headers, tuple(rows))

    @staticmethod
    def _spreads(summaries: Sequence[RunSummary]) -> dict[str, Spread | None]:
        return {
            name: Spread.over([getattr(summary, field) for summary in summaries]) for name, field in _COLUMNS.items()
        }


@renamed_keywords(bins="n_bins")
def compare_runs(
    runs: Sequence[tuple[str, str | os.PathLike[str]]],
    split: str = "val",
    n_bins: int = 15,
    *,
    accuracy_header: str | None = None,
) -> Comparison:
    """Summarize runs and group those of the same label, e.g. the seeds of one method.

    Args:
        runs: (label, folder) of each run.
        split: the held-out split to compare on.
        n_bins: number of bins of the calibration error.
        accuracy_header: header of the accuracy column; `"<split> acc"` if None.

    Raises:
        ValueError: if there are no runs, or a label has the same folder twice (its spread would be too small).
        HistoryError: if a run cannot be read, or lacks the split.

    Example:
        >>> try:
        ...     compare_runs([])
        ... except ValueError as error:
        ...     print(error)
        runs must name at least one run, got none.
    """
    if not runs:
        raise ValueError("runs must name at least one run, got none.")
    seen: set[tuple[str, Path]] = set()
    groups: dict[str, list[RunSummary]] = {}
    for label, path in runs:
        place = (label, Path(path).resolve())
        if place in seen:
            raise ValueError(f"runs must name a folder once per label, but {label!r} has {path} twice.")
        seen.add(place)
        groups.setdefault(label, []).append(summarize_run(path, split, n_bins))
    return Comparison(groups, f"{split} acc" if accuracy_header is None else accuracy_header)


def parse_run(argument: str) -> tuple[str, Path]:
    """Read a run as the command line names it: `label=folder`, or a folder alone.

    Args:
        argument: what was given. A folder that exists is taken whole, also with `=` in its name; else the first `=`
            ends the label.

    Returns:
        Label and folder; the label of a folder alone is its name.

    Raises:
        ValueError: if the label or the folder is empty.

    Example:
        >>> label, folder = parse_run("FER=runs/fer/seed-0")
        >>> label, folder.as_posix()
        ('FER', 'runs/fer/seed-0')
        >>> parse_run("runs/plain")[0]
        'plain'
    """
    label, equals, folder = argument.partition("=")
    if not equals or Path(argument).is_dir():
        label, folder = Path(argument).resolve().name, argument
    if not label.strip() or not folder.strip():
        raise ValueError(f"A run must be given as label=folder or as a folder, got {argument!r}.")
    return label.strip(), Path(folder)


def _format(spread: Spread | None, decimals: int, percent: bool) -> str:
    if spread is None:
        return "-"
    scale, unit = (100.0, "%") if percent else (1.0, "")
    deviation = "" if spread.std is None else f" ± {spread.std * scale:.{decimals}f}"
    return f"{spread.mean * scale:.{decimals}f}{deviation}{unit}"
