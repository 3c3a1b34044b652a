from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.reports import JoinedPredictions, wilson_interval
from lightning_flip.reports.update.counts import FlipCells, FlipGroups, flip_matrix, flips_by_class, flips_by_slice

N, K = 500, 5
rng = np.random.default_rng(0)
target = rng.integers(0, K - 1, N)  # the last label is only predicted
old_pred, new_pred = (np.where(rng.random(N) < 0.7, target, rng.integers(0, K, N)) for _ in range(2))
sites = rng.choice(np.array(["north", "south", ""], object), N)
LABELS = ("bee", "cat", "dog", "elk", "fox")
joined = JoinedPredictions(
    pa.array([str(n) for n in range(N)]), LABELS, target, old_pred, new_pred, slices={"site": sites}
)


def by_loop(name: str, member: list[bool]) -> dict[str, str | float]:
    rows = [row for row, inside in zip(zip(target, old_pred, new_pred, strict=True), member, strict=True) if inside]
    negative = sum(1 for y, a, b in rows if a == y and b != y)
    low, high = wilson_interval(negative, len(rows))
    return {
        "name": name,
        "samples": len(rows),
        "old_accuracy": sum(1 for y, a, _ in rows if a == y) / len(rows),
        "new_accuracy": sum(1 for y, _, b in rows if b == y) / len(rows),
        "negative_flip_rate": negative / len(rows),
        "negative_flip_rate_low": float(low),
        "negative_flip_rate_high": float(high),
        "negative_flips": negative,
        "positive_flips": sum(1 for y, a, b in rows if a != y and b == y),
    }


def test_classes_match_the_loop() -> None:
    found = flips_by_class(joined).to_list()
    assert found == [by_loop(LABELS[code], [y == code for y in target]) for code in range(K - 1)]


def test_slices_match_the_loop() -> None:
    found = flips_by_slice(joined, "site").to_list()
    assert found == [by_loop(value, [site == value for site in sites]) for value in ("", "north", "south")]


def test_the_intervals_follow_confidence() -> None:
    wide, narrow = flips_by_class(joined, 0.99), flips_by_class(joined, 0.5)
    assert (wide.low < narrow.low).all()
    assert (wide.high > narrow.high).all()


def test_the_matrix_matches_the_loop() -> None:
    expected = Counter(
        (LABELS[y], LABELS[b]) for y, a, b in zip(target, old_pred, new_pred, strict=True) if a == y and b != y
    )
    matrix = flip_matrix(joined)
    found = matrix.to_list()
    assert {(entry["right"], entry["wrong"]): entry["flips"] for entry in found} == expected
    assert len(found) == len(expected)
    assert found == sorted(found, key=lambda entry: (-int(entry["flips"]), entry["right"], entry["wrong"]))
    dense = matrix.dense()
    assert dense.shape == (K, K)
    assert all(dense[LABELS.index(str(a)), LABELS.index(str(b))] == count for (a, b), count in expected.items())
    assert dense.sum() == expected.total()


def test_a_few_samples_do_not_lead_by_chance() -> None:
    samples, flips = np.array([1, 1000, 50, 60, 40]), np.array([1, 300, 0, 0, 10])
    low, high = wilson_interval(flips, samples)
    cells = FlipCells(samples - flips, flips, np.zeros(5, np.int64), np.zeros(5, np.int64))
    groups = FlipGroups(("one", "many", "fifty", "sixty", "ten of forty"), cells, low, high)
    order = [groups.names[place] for place in groups.worst_first()]
    assert order == ["many", "one", "ten of forty", "fifty", "sixty"]


@pytest.mark.parametrize("labels", [(3, 7, 9, 11, 20), LABELS])
def test_labels_keep_their_type(labels: tuple[int | str, ...]) -> None:
    named = JoinedPredictions(joined.ids, labels, target, old_pred, new_pred)
    assert flips_by_class(named).names == labels[:-1]
    assert {type(entry["right"]) for entry in flip_matrix(named).to_list()} == {type(labels[0])}


def test_no_flips_no_entries() -> None:
    same = JoinedPredictions(joined.ids, LABELS, target, old_pred, old_pred)
    matrix = flip_matrix(same)
    assert matrix.to_list() == []
    assert not matrix.dense().any()
    assert not flips_by_class(same).cells.negative.any()
