"""A chain of updates: what each of them broke, and what flips back and forth."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lightning_flip.reports.text import PlainTable, escape_markdown, html_report, shorten
from lightning_flip.reports.update import _chain_tables, _tables
from lightning_flip.reports.update.counts import FlipCells, FlipRate, count_cells, share
from lightning_flip.reports.update.join import JoinedPredictions, Source, as_predictions, join_predictions
from lightning_flip.stores import PredictionError

if TYPE_CHECKING:
    import pandas
    from rich.console import Console

__all__ = ["ChainComparison", "ChainStep", "SampleCourse", "compare_chain"]

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
_RATES = ("old_accuracy", "new_accuracy", "negative_flip_rate", "positive_flip_rate")


class ChainStep(NamedTuple):
    """An update from one version to another.

    Attributes:
        old_name: the version before it.
        new_name: the version after it.
        cells: counts of samples that both have right, negative flips, positive flips, and that both have wrong.
        rates: both accuracies, the negative and the positive flip rate, each with Wilson's interval.
    """

    old_name: str
    new_name: str
    cells: FlipCells
    rates: Mapping[str, FlipRate]


class SampleCourse(NamedTuple):
    """A sample through all versions.

    Attributes:
        sample_id: which sample.
        right: whether each version has it right, the oldest first.
    """

    sample_id: str
    right: tuple[bool, ...]

    @property
    def flips(self) -> int:
        """How often it turned from right to wrong or back."""
        return sum(one != other for one, other in itertools.pairwise(self.right))


@dataclasses.dataclass(frozen=True)
class ChainComparison:
    """What a chain of updates changed; `compare_chain` returns it.

    Attributes:
        names: the V versions, the oldest first.
        ids: [N] text, the samples that all versions are judged on.
        right: [V, N], whether each version has each sample right.
        left_out: [V], samples of each version's file that are not judged: they are not in all files, have no target, or
            are of a class that not all versions know.
        confidence: the chance that each interval covers.
        worst: the samples that flip back and forth, those with the most flips first; ordered by id if equal.
        warnings: what makes the comparison doubtful, in sentences.

    Example:
        >>> right = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]], bool)
        >>> course = SampleCourse("a", (True, False, True))
        >>> chain = ChainComparison(("v1", "v2", "v3"), pa.array(["a", "b", "c"]), right, (0, 0, 0), 0.95, (course,))
        >>> [int(step.cells.negative) for step in chain.steps], int(chain.first_to_last.cells.negative)
        ([1, 1], 1)
        >>> chain.flips.tolist(), chain.back_and_forth, chain.broken_and_wrong
        ([2, 1, 1], 1, 1)
    """

    names: tuple[str, ...]
    ids: pa.Array | pa.ChunkedArray
    right: Bools
    left_out: tuple[int, ...]
    confidence: float
    worst: tuple[SampleCourse, ...]
    warnings: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def steps(self) -> tuple[ChainStep, ...]:
        """The V - 1 updates, each from one version to the next."""
        return tuple(self._step(place, place + 1) for place in range(len(self.names) - 1))

    @property
    def first_to_last(self) -> ChainStep:
        """The update from the oldest to the newest version."""
        return self._step(0, len(self.names) - 1)

    @property
    def flips(self) -> Integers:
        """[N], how often each sample turned from right to wrong or back."""
        return _count_flips(self.right)

    @property
    def back_and_forth(self) -> int:
        """How many samples turned at least twice."""
        return int(np.count_nonzero(self.flips > 1))

    @property
    def broken_and_wrong(self) -> int:
        """How many samples some version had right and the newest has wrong."""
        return int(np.count_nonzero(self.right.any(axis=0) & ~self.right[-1]))

    def _step(self, old: int, new: int) -> ChainStep:
        cells = count_cells(self.right[old], self.right[new])
        rates = {name: share(cells, name, self.confidence) for name in _RATES}
        return ChainStep(self.names[old], self.names[new], cells, rates)

    def to_dict(self) -> dict[str, object]:
        """Every number, ready for `json.dumps`: shares in [0, 1], None for unknown numbers, never NaN."""
        steps = self.steps
        return {
            "models": [
                {"name": name, "left_out": count} for name, count in zip(self.names, self.left_out, strict=True)
            ],
            "samples": self.num_samples,
            "warnings": list(self.warnings),
            "confidence": self.confidence,
            "updates": [_step_dict(step) for step in steps],
            "first_to_last": _step_dict(self.first_to_last),
            "negative_flip_rates_added": sum(int(step.cells.negative) for step in steps) / self.num_samples,
            "samples_by_flips": np.bincount(self.flips, minlength=len(self.names)).tolist(),
            "back_and_forth": self.back_and_forth,
            "broken_and_wrong_now": self.broken_and_wrong,
            "worst": [
                {"sample_id": course.sample_id, "flips": course.flips, "right": list(course.right)}
                for course in self.worst
            ],
        }

    def to_frame(self) -> pandas.DataFrame:
        """One row for each update, as a pandas table. Needs pandas.

        The columns are `old`, `new`, `samples`, `old_accuracy`, `new_accuracy`, `negative_flip_rate`, its interval's
        ends `low` and `high`, `positive_flip_rate`, `broken` and `fixed`.
        """
        import pandas

        rows = []
        for step in self.steps:
            negative = step.rates["negative_flip_rate"]
            values = {name: step.rates[name].value for name in _RATES}
            rows.append(
                {"old": step.old_name, "new": step.new_name, "samples": self.num_samples}
                | values
                | {"low": negative.low, "high": negative.high}
                | {"broken": int(step.cells.negative), "fixed": int(step.cells.positive)}
            )
        return pandas.DataFrame(rows)

    def to_markdown(self, decimals: int = 2, most_rows: int = 20) -> str:
        """The tables in Markdown, without a last line break.

        Args:
            decimals: decimals of percentages.
            most_rows: how many samples are listed at most; a line says how many more there are.
        """
        lines = map(escape_markdown, self._summary(decimals))
        tables = (table.markdown() for table in self._all_tables(decimals, most_rows))
        return "\n\n".join([f"### {escape_markdown(self._heading())}", *lines, *tables])

    def render(self, console: Console, decimals: int = 2, most_rows: int = 20) -> None:
        """Print the tables on a rich console.

        Args:
            console: where to print.
            decimals: decimals of percentages.
            most_rows: how many samples are listed at most; a line says how many more there are.
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
        return f"{len(self.names) - 1} updates: {shorten(self.names[0], 60)} → {shorten(self.names[-1], 60)}"

    def _summary(self, decimals: int) -> list[str]:
        """What was compared, the first version with the last, and what flips more than once."""
        first, steps = self.first_to_last, self.steps
        negative = first.rates["negative_flip_rate"]
        added = sum(step.rates["negative_flip_rate"].value for step in steps)
        old, new = (_tables.percent(first.rates[name].value, decimals) for name in ("old_accuracy", "new_accuracy"))
        lines = [
            f"{_tables.count_samples(self.num_samples)}, {len(self.names)} versions. Accuracy {old} in the first, {new}"
            " in the last.",
            f"First to last: NFR {_tables.percent(negative.value, decimals)} ({_tables.header(self.confidence)}"
            f" {_tables.interval(negative.low, negative.high, decimals)}), {int(first.cells.negative):,} broken,"
            f" {int(first.cells.positive):,} fixed. The NFRs of the {len(steps)} updates add up to"
            f" {_tables.percent(added, decimals)}.",
            f"Broken by some update and wrong now: {_tables.count_samples(self.broken_and_wrong)}. Back and forth"
            f" (right, wrong, right, or the reverse): {_tables.count_samples(self.back_and_forth)}.",
        ]
        counts = zip(self.names, self.left_out, strict=True)
        left_out = ", ".join(f"{count:,} of {shorten(name, 60)}" for name, count in counts if count)
        if left_out:
            lines.append(f"Left out, as not every version can be judged on them: {left_out}.")
        return [*lines, *(f"Warning: {shorten(words, 400)}" for words in self.warnings)]

    def _all_tables(self, decimals: int, most_rows: int) -> list[PlainTable]:
        if most_rows < 1:
            raise ValueError(f"most_rows must be at least 1, got {most_rows}.")
        rates = [step.rates for step in self.steps]
        courses = [(*course, course.flips) for course in self.worst]
        tables = [
            _chain_tables.steps_table(self.names, rates, self.confidence, decimals),
            _chain_tables.flips_table(np.bincount(self.flips).tolist(), decimals),
        ]
        return [*tables, _chain_tables.courses_table(courses, self.back_and_forth, most_rows)] if courses else tables


def compare_chain(
    sources: Sequence[Source],
    *,
    allow_partial: bool = False,
    shared_classes: bool = False,
    drop_unlabelled: bool = False,
    min_coverage: float = 0.0,
    confidence: float = 0.95,
    worst: int = 20,
) -> ChainComparison:
    """Compare the versions of a model, each with the next and the first with the last, on the same samples.

    Each version is joined with the next one as `join_predictions` joins an old and a new model; what one pair lacks is
    left out of all.

    Args:
        sources: predictions of at least three versions, the oldest first: tables of pandas, polars or Arrow, paths of
            files that `read_predictions` reads, or `PredictionSet`.
        allow_partial: compare the samples that all files have; without it, a sample that one lacks is an error.
        shared_classes: compare the samples whose class all versions know.
        drop_unlabelled: leave out samples without a target.
        min_coverage: with `allow_partial`, the share of each file's samples that all files have to have.
        confidence: the chance that each interval covers, between 0 and 1.
        worst: how many samples that flip back and forth to list at most.

    Raises:
        PredictionError: if files cannot be read or do not belong together; see `join_predictions`.
        ValueError: if there are fewer than three sources, two neighbors are one source, `confidence` is not between 0
            and 1, or `worst` is negative.

    Example:
        >>> rows = {"sample_id": ["a", "b", "c", "d"], "target": [0, 1, 1, 0]}
        >>> preds = ([0, 1, 1, 1], [0, 0, 1, 0], [0, 1, 1, 1])
        >>> chain = compare_chain([pa.table(rows | {"pred": pred}) for pred in preds])
        >>> [int(step.cells.negative) for step in chain.steps], chain.back_and_forth
        ([1, 1], 2)
        >>> chain.worst[0]
        SampleCourse(sample_id='b', right=(True, False, True))
    """
    if isinstance(sources, str | os.PathLike) or len(sources) < 3:
        raise ValueError(f"sources must be at least three versions, the oldest first, got {sources!r:.80}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    if worst < 0:
        raise ValueError(f"worst must be at least 0, got {worst}.")
    for place, (one, other) in enumerate(itertools.pairwise(sources)):
        if one is other or _same_path(one, other):
            raise ValueError(
                f"sources must differ from their neighbors, but number {place + 1} and {place + 2} are the same: a"
                " model has no flips against itself."
            )
    versions = [as_predictions(source, f"version {place}", (), False) for place, source in enumerate(sources, 1)]
    options: dict[str, Any] = {
        "allow_partial": allow_partial,
        "shared_classes": shared_classes,
        "drop_unlabelled": drop_unlabelled,
        "min_coverage": min_coverage,
    }
    pairs = [join_predictions(one, other, **options) for one, other in itertools.pairwise(versions)]
    names = tuple(version.name for version in versions)
    ids, right = _common_samples(pairs)
    if not len(ids):
        raise PredictionError(f"{', '.join(names)} have no sample in common. Are they predictions on the same data?")
    for version in versions:
        if len(ids) < min_coverage * version.num_samples:
            raise PredictionError(
                f"{len(ids) / version.num_samples:.1%} of the {version.num_samples} samples of {version.name} are in"
                f" all files, and min_coverage (--min-coverage) asks for {min_coverage:.1%}. Predict the same data with"
                " every version."
            )
    return ChainComparison(
        names=names,
        ids=ids,
        right=right,
        left_out=tuple(version.num_samples - len(ids) for version in versions),
        confidence=confidence,
        worst=_worst(ids, right, worst),
        warnings=tuple(f"{pair.old_name} → {pair.new_name}: {words}" for pair in pairs for words in pair.warnings),
    )


def _same_path(one: Source, other: Source) -> bool:
    if not isinstance(one, str | os.PathLike) or not isinstance(other, str | os.PathLike):
        return False
    return os.path.realpath(one) == os.path.realpath(other)


def _common_samples(pairs: Sequence[JoinedPredictions]) -> tuple[pa.ChunkedArray, Bools]:
    """Ids of the samples of every pair, [N], in the first pair's order; and whether each version is right, [V, N]."""
    ids = pa.chunked_array([pairs[0].ids]) if isinstance(pairs[0].ids, pa.Array) else pairs[0].ids
    rows = [np.arange(len(ids)) if pair.ids.equals(ids) else _find(ids, pair.ids) for pair in pairs]
    kept = np.all([row >= 0 for row in rows], axis=0)
    answers = [pairs[0].old_right, *(pair.new_right for pair in pairs)]
    return ids.filter(pa.array(kept)), np.stack(
        [right[row[kept]] for right, row in zip(answers, [rows[0], *rows], strict=True)]
    )


def _find(ids: pa.ChunkedArray, others: pa.Array | pa.ChunkedArray) -> Integers:
    """[N], the place of each id among the others; -1 if it is not there."""
    values = pa.chunked_array([others]) if isinstance(others, pa.Array) else others
    place = pc.index_in(ids, value_set=values.combine_chunks())
    return np.asarray(pc.fill_null(place, -1)).astype(np.int64)


def _count_flips(right: Bools) -> Integers:
    return np.asarray(np.count_nonzero(right[1:] != right[:-1], axis=0)).astype(np.int64)


def _worst(ids: pa.ChunkedArray, right: Bools, most: int) -> tuple[SampleCourse, ...]:
    """Samples with at least two flips, the most flips first."""
    flips = _count_flips(right)
    rows = np.flatnonzero(flips > 1)
    table = pa.table({"id": ids.take(pa.array(rows)), "flips": flips[rows]})
    first = pc.select_k_unstable(table, min(most, len(rows)), [("flips", "descending"), ("id", "ascending")])
    chosen = rows[np.asarray(first).astype(np.int64)]
    names = ids.take(pa.array(chosen)).to_pylist()
    return tuple(
        SampleCourse(name, tuple(course)) for name, course in zip(names, right.T[chosen].tolist(), strict=True)
    )


def _step_dict(step: ChainStep) -> dict[str, object]:
    return {
        "old": step.old_name,
        "new": step.new_name,
        "cells": {name: int(count) for name, count in step.cells._asdict().items()},
        "rates": {name: dataclasses.asdict(rate) for name, rate in step.rates.items()},
    }
