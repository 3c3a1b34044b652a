"""The numbers behind a run's plots, against loops over single samples."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.reports.dynamics import (
    ClassPairs,
    class_flips,
    confused_labels,
    flip_timeline,
    forgetting,
    sample_courses,
)
from lightning_flip.stores import HistoryError, read_history
from tests.oracles.dynamics import count_flips, timeline

Record = Callable[..., Path]


def random_run(seed: int, samples: int = 23, passes: int = 7, classes: int = 4) -> tuple[list[int], list[list]]:
    """Labels, and predictions of every pass, None for about a fifth of the samples."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, samples).tolist()
    preds = generator.integers(0, classes, (passes, samples))
    preds = np.where(generator.random((passes, samples)) < 0.4, labels, preds)
    seen = generator.random((passes, samples)) < 0.8
    seen[2] = False  # a pass that saw nobody
    return labels, [
        [p if s else None for p, s in zip(*row, strict=True)] for row in zip(preds.tolist(), seen.tolist(), strict=True)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_timeline_and_flips_equal_those_of_a_loop(record: Record, seed: int) -> None:
    labels, passes = random_run(seed)
    history = read_history(record("run", labels, passes))
    found = flip_timeline(history)
    assert found.samples == len(labels)
    assert found.to_arrow().drop_columns(["epoch", "pass"]).to_pylist() == timeline(labels, passes)
    assert found.epoch.tolist() == list(range(len(passes)))
    flips = class_flips(history)
    pairs = zip(flips.first.tolist(), flips.second.tolist(), strict=True)
    assert Counter(dict(zip(pairs, flips.count.tolist(), strict=True))) == count_flips(labels, passes)
    assert flips.count.tolist() == sorted(flips.count.tolist(), reverse=True)
    assert flips.total == found.to_wrong.sum()


def test_passes_of_one_epoch_are_apart(record: Record) -> None:
    history = read_history(record("run", [0, 1], [[0, 0], [1, 1], [0, 1]], moments=[(0, 0), (0, 1), (1, 0)]))
    found = flip_timeline(history)
    assert (found.epoch.tolist(), found.pass_.tolist()) == ([0, 0, 1], [0, 1, 0])
    assert (found.to_right.tolist(), found.to_wrong.tolist()) == ([0, 1, 1], [0, 1, 0])


def test_unrecorded_split_is_an_error(record: Record) -> None:
    history = read_history(record("run", [0], [[0]]))
    with pytest.raises(HistoryError, match="no split 'train'"):
        flip_timeline(history, "train")
    with pytest.raises(HistoryError, match="no split 'train'"):
        class_flips(history, "train")


def test_pairs_outside_the_given_classes_are_left_out() -> None:
    pairs = ClassPairs.of(np.array([0, 0, 2, 7]), np.array([2, 2, 0, 0]))
    classes, table = pairs.matrix(np.array([0, 2]))
    assert (classes.tolist(), table.tolist()) == ([0, 2], [[0, 2], [1, 0]])
    assert pairs.matrix()[0].tolist() == [0, 2, 7]


def test_nothing_is_no_pair() -> None:
    none = ClassPairs.of(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert (none.total, none.matrix()[1].shape, none.to_arrow().num_rows) == (0, (0, 0), 0)


def test_confused_labels_count_sure_ones_alone() -> None:
    scores = pa.table(
        {
            "given_label": pa.array([0, 0, 1, None, 1], pa.int32()),
            "predicted_label": pa.array([1, 1, 0, 2, None], pa.int32()),
            "is_label_issue": [True, True, False, True, True],
        }
    )
    assert confused_labels(scores).to_arrow().to_pylist() == [{"first": 0, "second": 1, "count": 2}]


@pytest.mark.parametrize("seed", range(3))
def test_forgetting_equals_a_loop(record: Record, seed: int) -> None:
    labels, passes = random_run(seed, samples=40, passes=5)
    passes = [[None, *row[1:]] for row in passes]  # the first sample is never seen
    found = forgetting(read_history(record("run", labels, passes)).statistics("val"))
    events, never = Counter(), 0
    for place, label in enumerate(labels):
        visits = [row[place] == label for row in passes if row[place] is not None]
        if any(visits):
            events[sum(a and not b for a, b in itertools.pairwise(visits))] += 1
        elif visits:
            never += 1
    assert dict(enumerate(found.events.tolist())) == {m: events[m] for m in range(max(events) + 1)}
    assert (found.never_learned, found.never_seen) == (never, sum(all(r[p] is None for r in passes) for p in range(40)))
    assert found.events.sum() + never + found.never_seen == 40


def test_courses_are_those_of_the_chosen_samples(record: Record) -> None:
    labels, passes = random_run(1)
    history = read_history(record("run", labels, passes))
    chosen = np.array([5, 0, 22])
    found = sample_courses(history, chosen, "val")
    expected = [[-1 if row[place] is None else row[place] for row in passes] for place in chosen]
    assert found.pred.tolist() == expected
    assert found.right.tolist() == [[p == labels[c] for p in row] for c, row in zip(chosen, expected, strict=True)]
    assert np.array_equal(np.isnan(found.prob_label), found.pred == -1)
    assert set(found.prob_label[found.pred >= 0]) == {0.5}
    assert sample_courses(history, np.zeros(0, np.int64), "val").pred.shape == (0, len(passes))


def test_a_position_that_is_no_sample_is_refused(record: Record) -> None:
    history = read_history(record("run", [0, 1], [[0, 1]]))
    with pytest.raises(IndexError, match=r"position must lie in \[0, 2\), got -1 to 0"):
        sample_courses(history, np.array([-1, 0]), "val")
