from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from lightning_flip.reports import JoinedPredictions
from lightning_flip.reports.update.counts import worst_flips

N = 300
rng = np.random.default_rng(1)
target = rng.integers(0, 3, N)
old_pred, new_pred = (np.where(rng.random(N) < 0.6, target, rng.integers(0, 3, N)) for _ in range(2))
ids = [f"im/{n}" for n in rng.permutation(N)]
old_sure, new_sure = (np.round(rng.random(N), 1) for _ in range(2))  # many ties


def joined(old: NDArray[Any] | None, new: NDArray[Any] | None) -> JoinedPredictions:
    return JoinedPredictions(pa.array(ids), ("a", "b", "c"), target, old_pred, new_pred, old, new)


def by_loop(old: NDArray[Any] | None, new: NDArray[Any] | None) -> list[str]:
    found = []
    for n in range(N):
        if old_pred[n] == target[n] and new_pred[n] != target[n]:
            sure = [0.0 if values is None or np.isnan(values[n]) else float(values[n]) for values in (old, new)]
            found.append((-(sure[0] + sure[1]), ids[n]))
    return [name for _, name in sorted(found)]


@pytest.mark.parametrize("most", [0, 1, 7, 20, 1000])
@pytest.mark.parametrize(
    ("old", "new", "order"),
    [
        (old_sure, new_sure, "old_confidence + new_confidence"),
        (None, new_sure, "new_confidence"),
        (old_sure, None, "old_confidence"),
        (None, None, "sample id, as no confidence is known"),
        (np.full(N, np.nan), None, "sample id, as no confidence is known"),
        (np.where(rng.random(N) < 0.3, np.nan, old_sure), new_sure, "old_confidence + new_confidence"),
    ],
)
def test_the_ranking_matches_the_loop(
    old: NDArray[Any] | None, new: NDArray[Any] | None, order: str, most: int
) -> None:
    worst = worst_flips(joined(old, new), most)
    expected = by_loop(old, new)
    assert [flip.sample_id for flip in worst.flips] == expected[:most]
    assert (worst.total, worst.order) == (len(expected), order)


def test_what_a_flip_tells() -> None:
    sparse = np.where(np.arange(N) % 2, np.nan, old_sure)
    for flip in worst_flips(joined(sparse, new_sure), N).flips:
        row = ids.index(flip.sample_id)
        assert flip.right == "abc"[target[row]] == "abc"[old_pred[row]]
        assert flip.wrong == "abc"[new_pred[row]] != flip.right
        assert flip.old_confidence == (None if row % 2 else old_sure[row])
        assert flip.new_confidence == new_sure[row]
    alone = worst_flips(joined(None, new_sure), 1).to_list()[0]
    assert alone["old_confidence"] is None
    assert list(alone) == ["sample_id", "right", "wrong", "old_confidence", "new_confidence"]


def test_chunked_ids() -> None:
    whole = joined(old_sure, new_sure)
    pieces = pa.chunked_array([ids[:100], ids[100:]])
    chunked = JoinedPredictions(pieces, whole.labels, target, old_pred, new_pred, old_sure, new_sure)
    assert worst_flips(chunked) == worst_flips(whole)


def test_no_flips() -> None:
    same = JoinedPredictions(pa.array(ids), ("a", "b", "c"), target, old_pred, old_pred, old_sure, new_sure)
    worst = worst_flips(same)
    assert (worst.flips, worst.total) == ((), 0)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="worst must be at least 0, got -1"):
        worst_flips(joined(None, None), -1)
