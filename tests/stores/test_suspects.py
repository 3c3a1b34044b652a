"""The ranking of suspicious labels, against plain loops over visits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightning_flip.functional.predictions import describe_predictions
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


def half_spacing(stored: np.ndarray) -> float:
    """How far a number may be from what is stored of it."""
    return float(np.spacing(np.abs(stored))[0]) / 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rest", [None, -3.0, -0.01])
@pytest.mark.parametrize("margin", [-100.0, -99.97, -30.01, -11.3, -1.0, -1e-3, 0.0, 1e-3, 1.0, 11.3, 30.01, 100.0])
def test_a_probability_margin_is_right_to_the_precision_of_what_is_stored(
    dtype: type, rest: float | None, margin: float
) -> None:
    """Two classes, and a third one whose logit is `rest` above that of the best other class, in 60 digits."""
    exact = oracle.exact_measures([margin, 0.0, *([] if rest is None else [rest])], label=0)
    stored = {name: np.array([float(getattr(exact, name))]).astype(dtype) for name in MEASURES}
    found = other_probability(stored["logit_margin"], stored["cross_entropy"])
    assert 0 <= found[0] <= 1
    # log p_other is a sum of two stored numbers; the margin of probabilities adds a third.
    off = half_spacing(stored["logit_margin"]) + half_spacing(stored["cross_entropy"])
    expected = float(exact.prob_other)
    assert found[0] == pytest.approx(expected, rel=1.001 * math.expm1(off) + 1e-14, abs=1e-45)
    pm = float(stored["prob_label"][0]) - found[0]
    slack = half_spacing(stored["prob_label"]) + expected * math.expm1(off)
    assert pm == pytest.approx(float(exact.prob_label - exact.prob_other), abs=1.001 * slack + 1e-14)
    assert math.expm1(off) < (0.0646 if dtype is np.float16 else 8e-6)  # margins up to 100


def test_the_product_form_makes_hopeless_labels_look_clean() -> None:
    """What p_label (1 - exp(-margin)) gives for a label without hope, whose probability margin is -1."""
    exact = oracle.exact_measures([-100.0, 0.0], label=0)

    def product(stored: type, computed: type) -> float:
        prob, margin = (np.array([float(v)]).astype(stored).astype(computed) for v in (exact.prob_label, -100))
        with np.errstate(all="ignore"):
            return float((prob * (1 - np.exp(-margin)))[0])

    assert float(exact.prob_label - exact.prob_other) == pytest.approx(-1)
    assert math.isnan(product(np.float16, np.float16))
    assert math.isnan(product(np.float16, np.float32))
    assert product(np.float32, np.float32) == -math.inf
    assert math.copysign(1, product(np.float16, np.float64)) == -1
    assert product(np.float16, np.float64) == 0
    for dtype in (np.float16, np.float32):
        stored = [np.array([float(v)]).astype(dtype) for v in (exact.logit_margin, exact.cross_entropy)]
        assert float(exact.prob_label) - other_probability(*stored)[0] == -1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_model_in_half_precision_is_recorded_in_full_precision(dtype: torch.dtype) -> None:
    """Probabilities of a float32 history are those of the logits, whatever the model computes in."""
    logits = torch.tensor([[-100.0, 0.0, -3.0], [-9.5, 0.0, -0.25], [100.0, 0.0, 1.5], [0.0, 90.0, 90.0]], dtype=dtype)
    facts = describe_predictions(logits, torch.zeros(4, dtype=torch.int64))
    found = other_probability(facts.logit_margin.numpy(), facts.cross_entropy.numpy())
    exact = [oracle.exact_measures(row, label=0).prob_other for row in logits.double().tolist()]
    np.testing.assert_allclose(found, [float(value) for value in exact], rtol=1e-5, atol=1e-30)


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
