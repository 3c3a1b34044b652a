"""The ranking of suspicious labels, against plain loops over visits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lightning_flip.stores import read_history
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history import suspects as module
from lightning_flip.stores.history.parts import PartKey, other_probability, write_part
from lightning_flip.stores.history.samples import write_samples
from lightning_flip.stores.history.suspects import chosen_epochs
from tests.oracles import suspects as oracle

N, K, E = 60, 5, 8


def logits_of(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A run that learns; a quarter of the labels is wrong, and margins reach 100."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, N)
    label = np.where(rng.random(N) < 0.25, (truth + 1) % K, truth)
    strength = np.linspace(0, 6, E)[:, None, None] * rng.choice([0.2, 1.0, 16.0], size=(1, N, 1))
    return rng.normal(size=(E, N, K)) + strength * np.eye(K)[truth], label


def record(
    folder: Path, visits: list[oracle.Visit], label: np.ndarray, *, split: str = "train", dtype: type = np.float32
) -> Path:
    if not (folder / "run.json").exists():
        open_run(folder, run_id=None, info={"class_names": ["ant", "bee", "cow"]})
    write_samples(folder, {"split": split, "index": np.arange(len(label)), "target": label})
    for epoch in sorted({visit.epoch for visit in visits}):
        rows = [visit for visit in visits if visit.epoch == epoch]
        numbers = {name: np.array([getattr(row, name) for row in rows], dtype) for name in MEASURES}
        other = np.array([-1 if row.best_other is None else row.best_other for row in rows])
        pred = np.where(numbers["logit_margin"] < 0, np.maximum(other, 0), [row.label for row in rows])
        index = np.array([row.sample for row in rows])
        columns = {"index": index, "global_step": np.full(len(rows), epoch), "pred": pred, "best_other": other}
        write_part(folder, PartKey(split, epoch, 0, 0), columns | numbers)
    return folder


MEASURES = ("prob_label", "logit_margin", "cross_entropy")


def plain(values: Any) -> list[Any]:
    return [None if value is None else pytest.approx(value, abs=1e-6) for value in values]


@pytest.mark.parametrize("cells", [2**20, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_score_is_that_of_the_loop(dtype: type, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CELLS", cells)  # one or two samples a chunk
    logits, label = logits_of()
    rng = np.random.default_rng(1)
    seen = rng.random((E, N)) < 0.8
    seen[:, 5] = False
    visits = [visit for visit in oracle.visits_of(logits, label, dtype) if seen[visit.epoch, visit.sample]]
    assert max(abs(visit.logit_margin) for visit in visits) > 90
    found = read_history(record(Path("run"), visits, label, dtype=dtype)).label_scores()
    expected = oracle.suspects(visits, N, K)
    assert found["label_score"].to_pylist() == plain(expected.label_score)
    assert found["predicted_label"].to_pylist() == expected.suggestion
    assert found["is_label_issue"].to_pylist() == expected.surely_wrong
    assert found["disagrees"].to_pylist() == expected.disagrees
    assert found["scored_visits"].to_pylist() == seen.sum(axis=0).tolist()
    parts = [np.asarray(found[name].to_numpy(zero_copy_only=False)) for name in ("mean_prob_label", "mean_prob_other")]
    score = np.asarray(found["label_score"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose((1 + parts[0] - parts[1]) / 2, score, atol=1e-15)
    assert found["label_score"][5].as_py() is None
    assert 5 < sum(expected.surely_wrong) < sum(expected.disagrees) < 30


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("margin", [-100.0, -30.0, -1.0, 0.0, 1.0, 30.0, 100.0])
def test_large_margins(dtype: type, margin: float) -> None:
    """The product form loses the worst labels; the sum of logarithms is right to the precision of what is stored."""
    entropy = float(np.logaddexp(0, -margin))
    stored = [np.array([value], dtype) for value in (margin, entropy)]
    found = other_probability(*stored)
    exact = math.exp(-np.logaddexp(0, margin))
    assert 0 <= found[0] <= 1
    assert found[0] == pytest.approx(exact, rel=0.04 if dtype is np.float16 else 1e-5, abs=1e-30)
    product = oracle.product_form(np.array([math.exp(-entropy)], dtype), stored[0])
    if margin == -100:
        assert not abs(product[0] - (math.exp(-entropy) - exact)) < 0.9


def test_infinities_of_a_float16_file_are_the_worst_labels() -> None:
    with np.errstate(over="ignore"):
        found = other_probability(np.array([-1e5, 1e5], np.float16), np.array([1e5, 0], np.float16))
    assert found.tolist() == [1, 0]


def test_the_epochs_are_chosen_by_the_validation_split() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        accuracy, nll = rng.integers(0, 4, 7) / 4, rng.integers(0, 4, 7).astype(float)
        nll[rng.integers(7)] = math.nan
        chosen = chosen_epochs(accuracy, nll)
        assert np.flatnonzero(chosen).tolist() == oracle.chosen_epochs(accuracy.tolist(), nll.tolist())
    assert chosen_epochs([], []).tolist() == []
    with pytest.raises(ValueError, match=r"one number for each epoch.*\(2,\) and\s+\(1,\)"):
        chosen_epochs([1, 2], [1])


def test_a_run_with_validation() -> None:
    logits, label = logits_of()
    held_out, val_label = logits_of(4)
    held_out[-3:] *= -1  # the run falls apart
    visits, val = oracle.visits_of(logits, label), oracle.visits_of(held_out, val_label)
    folder = record(Path("run"), visits, label)
    record(folder, val, val_label, split="val")
    epochs = [[visit for visit in val if visit.epoch == epoch] for epoch in range(E)]
    right = [sum(visit.logit_margin > 0 for visit in rows) / N for rows in epochs]
    nll = [sum(visit.cross_entropy for visit in rows) / N for rows in epochs]
    history = read_history(folder)
    chosen = oracle.chosen_epochs(right, nll)
    assert history.chosen_epochs() == chosen
    assert set(chosen).isdisjoint(range(E - 3, E))
    expected = oracle.suspects(visits, N, K, epochs=chosen)
    found = history.label_scores()
    assert found["label_score"].to_pylist() == plain(expected.label_score)
    assert found["predicted_label"].to_pylist() == expected.suggestion
    assert found["visits"].to_pylist() == [E] * N  # statistics are of all epochs
    order = sorted(range(N), key=lambda sample: (found["label_score"][sample].as_py(), sample))
    assert history.suspects(10)["index"].to_pylist() == order[:10]


def test_an_epoch_belongs_to_the_validation_at_its_end_or_later() -> None:
    logits, label = logits_of()
    folder = record(Path("run"), oracle.visits_of(logits, label), label)
    held_out = np.zeros((E, N, K))
    held_out[6] = 5 * np.eye(K)[label]
    val = [visit for visit in oracle.visits_of(held_out, label) if visit.epoch in (3, 6)]
    record(folder, val, label, split="val")
    # Epochs 0 to 3 belong to the worse one; 7 to the last.
    assert read_history(folder).chosen_epochs() == [4, 5, 6, 7]


def test_names_come_from_the_run() -> None:
    label = np.array([0, 4])
    visits = oracle.visits_of(np.array([[[1.0, 2, 0, 0, 0], [0, 0, 1, 0, 0.5]]]), label)
    rows = read_history(record(Path("run"), visits, label)).suspects(2).to_pylist()
    assert [(row["given_name"], row["predicted_name"]) for row in rows] == [("ant", "bee"), (None, "cow")]
    assert list(rows[0])[:9] == [
        *("index", "sample_id", "path", "given_label", "given_name", "predicted_label", "predicted_name"),
        *("label_score", "is_label_issue"),
    ]
    assert rows[0]["path"] is None


def test_without_the_best_other_class_there_is_a_score_and_no_suggestion() -> None:
    visits = [oracle.Visit(0, 0, 0, 0.9, math.log(9), -math.log(0.9), None)]
    found = read_history(record(Path("run"), visits, np.array([0]))).suspects(1)
    assert found["label_score"].to_pylist() == [pytest.approx(0.9, abs=1e-6)]
    assert found["predicted_label"].to_pylist() == [None]
    assert found.schema.field("predicted_label").type == pa.int32()
