"""An update of a model, compared with the model that it replaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_flip.reports.intervals import mcnemar_exact
from lightning_flip.reports.text import PlainTable, escape_markdown, html_report, shorten
from lightning_flip.reports.update import _tables
from lightning_flip.reports.update.counts import (
    CalibrationErrors,
    FlipCells,
    FlipGroups,
    FlipMatrix,
    FlipRate,
    WorstFlips,
    calibration_errors,
    count_cells,
    flip_matrix,
    flip_rates,
    flips_by_class,
    flips_by_slice,
    worst_flips,
)
from lightning_flip.reports.update.floor import NoiseFloor, join_floor, refuse_repeated_sources
from lightning_flip.reports.update.join import JoinedPredictions, Source, join_predictions

if TYPE_CHECKING:
    import pandas
    from rich.console import Console

__all__ = ["UpdateComparison", "compare", "compare_joined"]


@dataclasses.dataclass(frozen=True)
class UpdateComparison:
    """What an update changed; `compare` returns it.

    Attributes:
        old_name: where the old model's predictions came from.
        new_name: where the new model's predictions came from.
        cells: counts of samples that both have right, negative flips, positive flips, and that both have wrong.
        rates: every rate with its interval; see `flip_rates` in `lightning_flip.reports.update.counts`.
        confidence: the chance that each interval covers.
        mcnemar_p: p value of McNemar's exact test of equal accuracies.
        classes: accuracies and flips by right class.
        slices: the same by the values of each slice column.
        worst: the worst negative flips.
        matrix: right and wrong class of the negative flips.
        calibration: calibration errors of both models; None if not both files have confidences.
        floor: rates between the new model and further seeds of its recipe; None if none were given.
        old_parameters: the old model's number of parameters; None if unknown.
        new_parameters: the new model's.
        only_old: samples left out because the new model's file lacks them.
        only_new: samples left out because the old model's file lacks them.
        outside_classes: samples left out because one of the models does not know their class.
        unlabelled: samples left out because they have no target.
        warnings: what makes the comparison doubtful, in sentences.

    Example:
        >>> import pyarrow as pa
        >>> codes = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]])
        >>> update = compare_joined(JoinedPredictions(pa.array(["a", "b", "c", "d"]), ("cat", "dog"), *codes))
        >>> update.rates["negative_flip_rate"].value, update.num_samples, update.matrix.to_list()
        (0.25, 4, [{'right': 'dog', 'wrong': 'cat', 'flips': 1}])
    """

    old_name: str
    new_name: str
    cells: FlipCells
    rates: Mapping[str, FlipRate]
    confidence: float
    mcnemar_p: float
    classes: FlipGroups
    slices: Mapping[str, FlipGroups]
    worst: WorstFlips
    matrix: FlipMatrix
    calibration: CalibrationErrors | None = None
    floor: NoiseFloor | None = None
    old_parameters: int | None = None
    new_parameters: int | None = None
    only_old: int = 0
    only_new: int = 0
    outside_classes: int = 0
    unlabelled: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """The number of samples that both models are judged on."""
        return int(self.cells.total)

    def to_dict(self) -> dict[str, object]:
        """Every number, ready for `json.dumps`: shares in [0, 1], None for unknown numbers, never NaN."""
        return {
            "old": {"name": self.old_name, "parameters": self.old_parameters},
            "new": {"name": self.new_name, "parameters": self.new_parameters},
            "samples": self.num_samples,
            "left_out": {
                "only_old": self.only_old,
                "only_new": self.only_new,
                "outside_classes": self.outside_classes,
                "unlabelled": self.unlabelled,
            },
            "warnings": list(self.warnings),
            "cells": {name: int(count) for name, count in self.cells._asdict().items()},
            "confidence": self.confidence,
            "rates": {name: dataclasses.asdict(rate) for name, rate in self.rates.items()},
            "mcnemar_p": self.mcnemar_p,
            "calibration_errors": None if self.calibration is None else dataclasses.asdict(self.calibration),
            "noise_floor": None if self.floor is None else self.floor.to_dict(),
            "classes": self.classes.to_list(),
            "slices": {column: groups.to_list() for column, groups in self.slices.items()},
            "worst_flips": {"order": self.worst.order, "total": self.worst.total, "flips": self.worst.to_list()},
            "flip_matrix": self.matrix.to_list(),
        }

    def to_frame(self) -> pandas.DataFrame:
        """One row for each rate, as a pandas table: `rate`, `value`, `low`, `high`, `count`, `among`. Needs pandas."""
        import pandas

        return pandas.DataFrame([{"rate": name} | dataclasses.asdict(rate) for name, rate in self.rates.items()])

    def to_markdown(self, decimals: int = 2, most_rows: int = 20) -> str:
        """The tables in Markdown, e.g. for a pull request, without a last line break.

        Args:
            decimals: decimals of percentages.
            most_rows: how many rows a table has at most; a line says how many more there are.
        """
        summary = map(escape_markdown, self._summary(decimals))
        tables = (table.markdown() for table in self._all_tables(decimals, most_rows))
        return "\n\n".join([f"### {escape_markdown(self._heading())}", *summary, *tables])

    def render(self, console: Console, decimals: int = 2, most_rows: int = 20) -> None:
        """Print the tables on a rich console.

        In a narrow console names take several lines, and some columns are left out, which a line names.

        Args:
            console: where to print.
            decimals: decimals of percentages.
            most_rows: how many rows a table has at most; a line says how many more there are.
        """
        from rich.text import Text  # a str would be read as markup

        console.print(Text(self._heading(), style="bold"))
        for line in self._summary(decimals):
            console.print(Text(line))
        for table in self._all_tables(decimals, most_rows):
            console.print()
            table.print(console)

    def _repr_html_(self) -> str:
        return html_report([*self._summary(2), *self._all_tables(2, 20)], self._heading())

    def _heading(self) -> str:
        return f"Update: {shorten(self.old_name, 60)} → {shorten(self.new_name, 60)}"

    def _summary(self, decimals: int) -> list[str]:
        """What was compared, and whether the accuracy changed."""
        old, new = self.rates["old_accuracy"].value, self.rates["new_accuracy"].value
        test = f"p = {self.mcnemar_p:.2g}" if self.mcnemar_p >= 1e-4 else "p < 0.0001"
        lines = [
            f"{_tables.count_samples(self.num_samples)}. Accuracy {_tables.percent(old, decimals)} before,"
            f" {_tables.percent(new, decimals)} now ({100 * (new - old):+.{decimals}f} points; exact McNemar test of no"
            f" change: {test}).",
            _tables.calibration_sentence(self.calibration, self.num_samples, decimals),
        ]
        if self.old_parameters is not None and self.new_parameters is not None:
            lines.append(f"Parameters: {self.old_parameters:,} before, {self.new_parameters:,} now.")
        left_out = (
            (self.only_old, "in the old model's file alone"),
            (self.only_new, "in the new model's file alone"),
            (self.outside_classes, "of classes that only one of the models knows"),
            (self.unlabelled, "without a target"),
        )
        lines.extend(f"Left out: {_tables.count_samples(count)} {reason}." for count, reason in left_out if count)
        lines.extend(f"Warning: {shorten(text, 400)}" for text in self.warnings)
        return lines

    def _all_tables(self, decimals: int, most_rows: int) -> list[PlainTable]:
        """The tables, without those that have no rows."""
        if most_rows < 1:
            raise ValueError(f"most_rows must be at least 1, got {most_rows}.")
        tables = [_tables.rates_table(self.rates, self.cells, self.confidence, decimals)]
        if self.floor is not None:
            tables.append(_tables.floor_table(self.floor, decimals, most_rows))
        groups = [("right class", "classes", self.classes)]
        groups += [(shorten(column), f"values of {shorten(column)}", found) for column, found in self.slices.items()]
        tables.extend(_tables.groups_table(*group, self.confidence, decimals, most_rows) for group in groups)
        if self.worst.total:
            tables.append(_tables.pairs_table(self.matrix, self.worst.total, decimals, most_rows))
        if self.worst.flips:
            tables.append(_tables.worst_table(self.worst, most_rows))
        return tables


def compare(
    old: Source,
    new: Source,
    *,
    allow_partial: bool = False,
    shared_classes: bool = False,
    shared_argmax: bool = False,
    slices: Sequence[str] = (),
    drop_unlabelled: bool = False,
    min_coverage: float = 0.0,
    floor: Source | Sequence[Source] = (),
    confidence: float = 0.95,
    worst: int = 20,
    n_bins: int = 15,
) -> UpdateComparison:
    """Compare a new model with the old one, sample by sample.

    Args:
        old: the old model's predictions: a table of pandas, polars or Arrow, the path of a file that `read_predictions`
            reads, or a `PredictionSet`.
        new: the new model's.
        allow_partial: compare the samples that both files have; without it, a sample that one lacks is an error.
        shared_classes: compare the samples whose class both models know.
        shared_argmax: with `shared_classes`, each model predicts its best among the classes that both know.
        slices: further columns, by whose values flips are counted too.
        drop_unlabelled: leave out samples without a target.
        min_coverage: with `allow_partial`, the share of each file's samples that both files have to have.
        floor: predictions of further seeds of the new model's recipe, one file each. The negative flip rates between
            every ordered pair of them, the new one included, are those of chance alone.
        confidence: the chance that each interval covers, between 0 and 1.
        worst: how many of the worst negative flips to list at most.
        n_bins: number of bins of the calibration errors.

    Raises:
        PredictionError: if files cannot be read or do not belong together; see `join_predictions`. Also if a file of
            `floor` is the old or the new model's, comes twice, or predicts the same everywhere as another model.
        ValueError: if `confidence` is not between 0 and 1, `worst` is negative, or `n_bins` is under 1.
        ModuleNotFoundError: if scipy is not installed.

    Example:
        >>> import pyarrow as pa
        >>> from lightning_flip.stores import PredictionSet
        >>> rows = {"sample_id": ["a", "b", "c", "d"], "target": [0, 1, 1, 0]}
        >>> old = PredictionSet.from_table(pa.table(rows | {"pred": [0, 1, 1, 1]}), "old")
        >>> new = PredictionSet.from_table(pa.table(rows | {"pred": [0, 0, 1, 0]}), "new")
        >>> update = compare(old, new)
        >>> update.rates["negative_flip_rate"].value, update.rates["positive_flip_rate"].value
        (0.25, 0.25)
        >>> [flip.sample_id for flip in update.worst.flips]
        ['b']
    """
    further: list[Any] = [*floor] if isinstance(floor, list | tuple) else [floor]
    if further:
        refuse_repeated_sources([old, new, *further])
    options: dict[str, Any] = {
        "allow_partial": allow_partial,
        "shared_classes": shared_classes,
        "shared_argmax": shared_argmax,
        "drop_unlabelled": drop_unlabelled,
        "min_coverage": min_coverage,
    }
    joined = join_predictions(old, new, slices=slices, **options)
    compared = compare_joined(joined, confidence=confidence, worst=worst, n_bins=n_bins)
    return dataclasses.replace(compared, floor=join_floor(joined, old, further, **options)) if further else compared


def compare_joined(
    joined: JoinedPredictions, *, confidence: float = 0.95, worst: int = 20, n_bins: int = 15
) -> UpdateComparison:
    """Compare joined predictions, by class and by each of `joined.slices`, without a noise floor."""
    cells = count_cells(joined.old_right, joined.new_right)
    changed = int(np.count_nonzero(joined.old_pred != joined.new_pred))
    return UpdateComparison(
        old_name=joined.old_name,
        new_name=joined.new_name,
        cells=cells,
        rates=flip_rates(cells, changed, confidence=confidence),
        confidence=confidence,
        mcnemar_p=float(mcnemar_exact(int(cells.negative), int(cells.positive))),
        classes=flips_by_class(joined, confidence),
        slices={column: flips_by_slice(joined, column, confidence) for column in joined.slices},
        worst=worst_flips(joined, worst),
        matrix=flip_matrix(joined),
        calibration=calibration_errors(joined, n_bins),
        old_parameters=joined.old_parameters,
        new_parameters=joined.new_parameters,
        only_old=joined.only_old,
        only_new=joined.only_new,
        outside_classes=joined.outside_classes,
        unlabelled=joined.unlabelled,
        warnings=joined.warnings,
    )
