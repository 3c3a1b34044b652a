"""The samples that a page lists, and what its script knows about them."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_flip.reports.dynamics import SampleCourses, sample_courses
from lightning_flip.reports.page._run import RunNumbers
from lightning_flip.reports.page._strips import strip_kinds
from lightning_flip.reports.text import printable, shorten

__all__ = ["FIRST_ROWS", "LISTED", "Listing", "list_samples", "packed"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: Rows of the table that need no script.
FIRST_ROWS = 25
#: So many of the worst samples have a strip and a picture, at least.
LISTED = 600
_MOST_POINTS = 60_000  # a page with more samples knows the worst ones alone, and draws the others as bins
_CELLS, _MOST_STRIPS = 100_000, 4_000  # strips of further samples, while there is room
_MOST_PASSES = 200  # of more passes, evenly spaced ones are shown
_STEPS = 10_000  # of values in [0, 1] in the data
_LONGEST_ID = 200


@dataclasses.dataclass(frozen=True)
class Listing:
    """Samples of a run's training split, the worst label first.

    Attributes:
        numbers: the run.
        rows: rows of the scores that the page knows one by one, [S].
        detailed: so many of them, from the first, have a course.
        courses: of these.
        kinds: cells of their strips, [detailed, P].
        every: each so manieth pass is shown.
        complete: whether every sample that was seen is listed.
        unseen: samples that no pass saw.
        snippets: texts in the place of pictures by index of the sample.
        redact_ids: whether sample ids are left out.
    """

    numbers: RunNumbers
    rows: Integers
    detailed: int
    courses: SampleCourses
    kinds: Integers
    every: int
    complete: bool
    unseen: int
    snippets: Mapping[int, str] = dataclasses.field(default_factory=dict)
    redact_ids: bool = False

    def of(self, name: str, missing: float = -1) -> Floats:
        """A column of the scores for the listed samples, [S]."""
        return self.numbers.column(name, missing)[self.rows]

    @property
    def index(self) -> Integers:
        """Index of each listed sample in its split, [S]."""
        return self.of("index").astype(np.int64)

    def ids(self, most: int) -> list[str | None]:
        """Names of the first samples; None for those that are known by their index alone."""
        assert self.numbers.scores is not None
        if self.redact_ids:
            return [None] * min(most, len(self.rows))
        found = self.numbers.scores["sample_id"].take(self.rows[:most]).to_pylist()
        return [None if name is None else _clean(name) for name in found]

    def data(self) -> dict[str, object]:
        """What the script reads."""
        label, suggestion = self.of("given_label"), self.of("predicted_label")
        flags = self.of("is_label_issue", 0) + 2 * self.of("disagrees", 0)
        ids = self.ids(self.detailed)
        found: dict[str, object] = {
            "split": self.numbers.train_split,
            "total": self.numbers.scores.num_rows if self.numbers.scores is not None else 0,
            "complete": self.complete,
            "detailed": self.detailed,
            "epochs": self.courses.epoch.tolist(),
            "names": self._names(label, suggestion),
            "index": packed(self.index),
            "x": packed(_scaled(self.of("variability", np.nan) * 2)),
            "y": packed(_scaled(self.of("confidence", np.nan))),
            "score": packed(_scaled(self.of("label_score", np.nan), 1_000_000)),  # rounds as the first rows do
            "label": packed(label),
            "suggestion": packed(suggestion),
            "forgotten": packed(self.of("forgetting_events")),
            "flags": packed(flags),
            "pred": packed(self.courses.pred),
            "prob": packed(np.where(np.isnan(self.courses.prob_label), -1, self.courses.prob_label * 250)),
        }
        if any(name is not None for name in ids):
            found["ids"] = ids
        if self.snippets:
            found["text"] = [self.snippets.get(index, "") for index in self.index[: self.detailed].tolist()]
        return found

    def _names(self, label: Floats, suggestion: Floats) -> dict[str, str]:
        """Names of the classes that occur; those without one have their number."""
        if not self.numbers.class_names:
            return {}
        occurring = np.unique(np.concatenate([label, suggestion, self.courses.pred.ravel()])).astype(int)
        return {str(one): self.numbers.name(one) for one in occurring.tolist() if one >= 0}


def list_samples(numbers: RunNumbers, *, redact_ids: bool = False) -> Listing:
    """Choose the samples that a page lists: all of them, or the worst ones of many."""
    assert numbers.scores is not None
    visits = numbers.column("visits", 0)
    scored = np.zeros(len(visits), bool)
    scored[numbers.order] = True
    others = np.flatnonzero((visits > 0) & ~scored)
    passes = len(numbers.history.passes(numbers.train_split))
    every = -(-passes // _MOST_PASSES)
    detailed = max(LISTED, min(_MOST_STRIPS, _CELLS // max(passes // every, 1)))
    complete = len(numbers.order) + len(others) <= _MOST_POINTS
    rows = np.concatenate([numbers.order, others]) if complete else numbers.order[:detailed]
    detailed = min(detailed, len(rows))
    found = sample_courses(numbers.history, rows[:detailed], numbers.train_split)
    shown = slice(passes % every if every > 1 else 0, None, every)
    courses = SampleCourses(found.epoch[shown], found.pred[:, shown], found.right[:, shown], found.prob_label[:, shown])
    label = numbers.column("given_label")[rows[:detailed]].astype(np.int64)
    suggestion = numbers.column("predicted_label")[rows[:detailed]].astype(np.int64)
    return Listing(
        numbers=numbers,
        rows=rows,
        detailed=detailed,
        courses=courses,
        kinds=strip_kinds(courses.pred, label, suggestion),
        every=every,
        complete=complete,
        unseen=int((visits == 0).sum()),
        redact_ids=redact_ids,
    )


def packed(values: npt.NDArray[Any]) -> list[str]:
    """Whole numbers as text: the name of the smallest of the script's array types, and the bytes in base64.

    NaN and negative numbers become the largest number of the type, which stands for none.

    Example:
        >>> packed(np.array([1.0, np.nan])), packed(np.array([255, -1]))
        (['Uint8Array', 'Af8='], ['Uint16Array', '/wD//w=='])
    """
    none = np.isnan(values) | (values < 0)
    largest = int(values[~none].max(initial=0))
    kind = next(kind for kind in (np.uint8, np.uint16, np.uint32) if largest < np.iinfo(kind).max)
    numbers = np.where(none, np.iinfo(kind).max, values).round().astype(np.dtype(kind).newbyteorder("<"))
    return [f"Uint{8 * numbers.itemsize}Array", base64.b64encode(numbers.tobytes()).decode()]


def _scaled(values: Floats, steps: int = _STEPS) -> Floats:
    return np.where(np.isfinite(values), np.clip(values, 0, 1) * steps, np.nan)


def _clean(name: str) -> str:
    """An id as it is, unless it is very long or cannot be printed."""
    return name if len(name) <= _LONGEST_ID and name.strip() and printable(name) == name else shorten(name, _LONGEST_ID)
