"""An update of a model, compared with the model that it replaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_flip.reports.intervals import mcnemar_exact
from lightning_flip.reports.update._flip_cells import count_cells
from lightning_flip.reports.update._flip_groups import (
    flip_matrix,
    flips_by_class,
    flips_by_slice,
)
from lightning_flip.reports.update._flip_rates import flip_rates
from lightning_flip.reports.update._numbers import UpdateNumbers
from lightning_flip.reports.update._text import print_tables, write_markdown
from lightning_flip.reports.update.joining import JoinedPredictions, Source, join_predictions
from lightning_flip.reports.update.noise_floor_joining import join_floor, refuse_repeated_sources
from lightning_flip.reports.update.worst_flips import worst_flips

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["UpdateComparison", "compare", "compare_joined"]


@dataclasses.dataclass(frozen=True)
class UpdateComparison(UpdateNumbers):
    """What an update changed; `compare` makes it.

    Attributes:
        old_name: where the old model's predictions came from.
        new_name: where the new model's predictions came from.
        cells: counts of samples that both have right, negative flips, positive flips, and that both have wrong.
        rates: every rate with its interval; see `flip_rates` in `lightning_flip.reports.update._flip_rates`.
        confidence: the chance that each interval covers.
        mcnemar_p: p value of McNemar's exact test of equal accuracies.
        classes: the same by right class.
        slices: the same by the values of each slice column.
        worst: the worst negative flips.
        matrix: right and wrong class of the negative flips.
        floor: rates between equally good models; None where none were given.
        old_parameters: the old model's number of parameters; None where unknown.
        new_parameters: the new model's.
        only_old: samples left out since the new model's file lacks them.
        only_new: samples left out since the old model's file lacks them.
        outside_classes: samples left out since one of the models does not know their class.

    Example:
        >>> import pyarrow as pa
        >>> codes = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]])
        >>> update = compare_joined(JoinedPredictions(pa.array(["a", "b", "c", "d"]), ("cat", "dog"), *codes))
        >>> update.rates["negative_flip_rate"].value, update.num_samples, update.matrix.to_list()
        (0.25, 4, [{'right': 'dog', 'wrong': 'cat', 'flips': 1}])
    """

    def to_dict(self) -> dict[str, object]:
        """Every number, ready for `json.dumps`: shares in [0, 1], None where there is no number, never NaN."""
        return {
            "old": {"name": self.old_name, "parameters": self.old_parameters},
            "new": {"name": self.new_name, "parameters": self.new_parameters},
            "samples": self.num_samples,
            "left_out": {
                "only_old": self.only_old,
                "only_new": self.only_new,
                "outside_classes": self.outside_classes,
            },
            "cells": {name: int(count) for name, count in self.cells._asdict().items()},
            "confidence": self.confidence,
            "rates": {name: dataclasses.asdict(rate) for name, rate in self.rates.items()},
            "mcnemar_p": self.mcnemar_p,
            "noise_floor": None if self.floor is None else self.floor.to_dict(),
            "classes": self.classes.to_list(),
            "slices": {column: groups.to_list() for column, groups in self.slices.items()},
            "worst_flips": {"order": self.worst.order, "total": self.worst.total, "flips": self.worst.to_list()},
            "flip_matrix": self.matrix.to_list(),
        }

    def to_markdown(self, decimals: int = 2, most_rows: int = 20) -> str:
        """The tables in Markdown, e.g. for a pull request.

        Args:
            decimals: decimals of percentages.
            most_rows: how many rows a table has at most; a line says how many more there are.

        Returns:
            Lines without a last line break.
        """
        return write_markdown(self, decimals, most_rows)

    def render(self, console: Console, decimals: int = 2, most_rows: int = 20) -> None:
        """Print the tables on a rich console.

        Args:
            console: where to print.
            decimals: decimals of percentages.
            most_rows: how many rows a table has at most; a line says how many more there are.
        """
        print_tables(self, console, decimals, most_rows)


def compare(
    old: Source,
    new: Source,
    *,
    allow_partial: bool = False,
    shared_classes: bool = False,
    shared_argmax: bool = False,
    slices: Sequence[str] = (),
    floor: Source | Sequence[Source] = (),
    confidence: float = 0.95,
    worst: int = 20,
) -> UpdateComparison:
    """Compare a new model with the old one, sample by sample.

    Args:
        old: the old model's predictions, or the path of a file that `read_predictions` reads.
        new: the new model's.
        allow_partial: compare the samples that both files have; without it, a sample that one lacks is an error.
        shared_classes: compare the samples whose class both models know.
        shared_argmax: with `shared_classes`: each model answers with its best among the classes that both know.
        slices: further columns, by whose values flips are counted too.
        floor: predictions of models that are as good as the new one (its other seeds), one file each. The negative
            flip rates between every ordered pair of them, the new one included, say what chance alone makes.
        confidence: the chance that each interval covers, between 0 and 1.
        worst: how many of the worst negative flips to list at most.

    Returns:
        The comparison.

    Raises:
        PredictionError: when files cannot be read or do not belong together; see `join_predictions`. Also when the
            new model's file is among `floor`, or a file is there twice.
        ValueError: when `confidence` is not between 0 and 1, or `worst` is negative.
        ModuleNotFoundError: when scipy is not installed.

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
    floor = [*floor] if isinstance(floor, Sequence) and not isinstance(floor, str) else [floor]
    refuse_repeated_sources([new, *floor])
    options = {"allow_partial": allow_partial, "shared_classes": shared_classes, "shared_argmax": shared_argmax}
    joined = join_predictions(old, new, slices=slices, **options)
    compared = compare_joined(joined, confidence=confidence, worst=worst)
    return dataclasses.replace(compared, floor=join_floor(joined, old, floor, **options)) if floor else compared


def compare_joined(joined: JoinedPredictions, *, confidence: float = 0.95, worst: int = 20) -> UpdateComparison:
    """Compare a new model with the old one where their predictions are joined already.

    Args:
        joined: what both models said about the same samples.
        confidence: the chance that each interval covers, between 0 and 1.
        worst: how many of the worst negative flips to list at most.

    Returns:
        The comparison, by class and by each of `joined.slices`; without a noise floor.

    Raises:
        ValueError: when `confidence` is not between 0 and 1, or `worst` is negative.
        ModuleNotFoundError: when scipy is not installed.

    Example:
        >>> import pyarrow as pa
        >>> codes = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]])
        >>> joined = JoinedPredictions(pa.array(["a", "b", "c", "d"]), ("cat", "dog"), *codes)
        >>> compare_joined(joined).rates["trust_score"]
        FlipRate(value=0.6666666666666666, low=..., high=..., count=2, among=3)
    """
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
        old_parameters=joined.old_parameters,
        new_parameters=joined.new_parameters,
        only_old=joined.only_old,
        only_new=joined.only_new,
        outside_classes=joined.outside_classes,
    )
