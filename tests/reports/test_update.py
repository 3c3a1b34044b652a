from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lightning_flip.reports
from lightning_flip.reports import JoinedPredictions, compare
from lightning_flip.reports.update.comparison import compare_joined
from lightning_flip.stores import PredictionError, PredictionSet
from tests.oracles.flips import flip_rates as by_loop

OLD = "sample_id,target,pred,confidence,site\na,cat,cat,0.9,x\nb,cat,dog,0.5,x\nc,dog,dog,0.75,y\nd,dog,dog,0.25,y\n"
NEW = "sample_id,target,pred,confidence,site\nd,dog,cat,0.5,y\nc,dog,cat,1.0,y\nb,cat,cat,0.5,x\na,cat,cat,0.9,x\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text(OLD)
    new.write_text(NEW)
    return old, new


def test_two_files(files: tuple[Path, Path]) -> None:
    update = compare(*files, slices=["site"])
    found = json.loads(json.dumps(update.to_dict(), allow_nan=False))
    assert found["samples"] == 4
    assert found["cells"] == {"both_right": 1, "negative": 2, "positive": 1, "both_wrong": 0}
    values = {name: rate["value"] for name, rate in found["rates"].items()}
    assert values == {
        "old_accuracy": 0.75,
        "new_accuracy": 0.5,
        "old_error": 0.25,
        "new_error": 0.5,
        "negative_flip_rate": 0.5,
        "positive_flip_rate": 0.25,
        "relative_negative_flip_rate": pytest.approx(0.5 / (0.75 * 0.5)),
        "negative_flip_impact": 1.0,
        "positive_flip_impact": 1.0,
        "trust_score": pytest.approx(1 / 3),
        "error_compatibility": 0.0,
        "churn": 0.75,
    }
    assert found["mcnemar_p"] == 1.0
    assert [(row["name"], row["negative_flips"], row["positive_flips"]) for row in found["classes"]] == [
        ("cat", 0, 1),
        ("dog", 2, 0),
    ]
    assert [(row["name"], row["negative_flips"]) for row in found["slices"]["site"]] == [("x", 0), ("y", 2)]
    assert [flip["sample_id"] for flip in found["worst_flips"]["flips"]] == ["c", "d"]
    assert found["flip_matrix"] == [{"right": "dog", "wrong": "cat", "flips": 2}]
    assert found["noise_floor"] is None
    assert found["calibration_errors"] == {
        "old": pytest.approx(0.4),
        "new": pytest.approx(0.275),
        "n_bins": 15,
        "samples": 4,
    }
    assert [Path(found[side]["name"]).name for side in ("old", "new")] == ["old.csv", "new.csv"]
    assert found["left_out"] == {"only_old": 0, "only_new": 0, "outside_classes": 0, "unlabelled": 0}


def test_the_options_arrive(files: tuple[Path, Path]) -> None:
    old, new = files
    new.write_text(NEW.replace("a,cat,cat,0.9,x\n", "e,cat,cat,0.9,x\nf,cat,cat,0.9,x\n"))
    with pytest.raises(PredictionError, match="only in"):
        compare(old, new)
    update = compare(old, new, allow_partial=True, worst=1, confidence=0.5)
    assert (update.num_samples, update.only_old, update.only_new) == (3, 1, 2)
    assert ([flip.sample_id for flip in update.worst.flips], update.worst.total) == (["c"], 2)
    assert update.confidence == 0.5
    wide = compare(old, new, allow_partial=True, confidence=0.99)
    assert wide.classes.high[0] > update.classes.high[0]
    narrow, broad = update.rates["churn"], wide.rates["churn"]
    assert broad.low is not None
    assert narrow.low is not None
    assert broad.low < narrow.low
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 1"):
        compare(old, new, allow_partial=True, confidence=1)
    with pytest.raises(ValueError, match="worst must be at least 0"):
        compare(old, new, allow_partial=True, worst=-1)


def test_models_that_do_not_know_the_same_classes() -> None:
    old = {"sample_id": ["a", "b"], "target": [0, 1], "pred": [0, 1]}
    new = {"sample_id": ["a", "b", "c"], "target": [0, 1, 2], "pred": [0, 2, 2]}
    sets = (
        PredictionSet.from_table(pa.table(old), "old", classes=(0, 1), model_parameters=10),
        PredictionSet.from_table(pa.table(new), "new", classes=(0, 1, 2), model_parameters=12),
    )
    update = compare(*sets, shared_classes=True)
    assert (update.num_samples, update.outside_classes, update.rates["negative_flip_rate"].value) == (2, 1, 0.5)
    assert (update.old_parameters, update.new_parameters) == (10, 12)
    floor = PredictionSet.from_table(pa.table(new | {"pred": [1, 1, 2]}), "seed 1", classes=(0, 1, 2))
    judged = compare(*sets, shared_classes=True, floor=floor).floor
    assert judged is not None
    assert (judged.samples, judged.rates[1:, 1:].tolist()) == (2, [[0.0, 0.5], [0.5, 0.0]])


def by_bins(confidence: list[float], right: list[bool], n_bins: int) -> float:
    """ECE from its definition, over bins ((m - 1)/M, m/M]."""
    bins: dict[int, list[float]] = {}
    for sure, ok in zip(confidence, right, strict=True):
        bins.setdefault(max(math.ceil(sure * n_bins), 1), []).append(ok - sure)
    return sum(abs(sum(gaps)) for gaps in bins.values()) / len(right)


@pytest.mark.parametrize("n_bins", [1, 4, 15])
def test_calibration_errors_are_those_of_the_samples_with_both_confidences(n_bins: int) -> None:
    rng = np.random.default_rng(0)
    target, old, new = (rng.integers(0, 2, 300) for _ in range(3))
    sures = rng.random((2, 300))
    sures[0, :20] = sures[1, 10:40] = np.nan
    ids = pa.array([str(n) for n in range(300)])
    joined = JoinedPredictions(ids, (0, 1), target, old, new, *sures)
    found = compare_joined(joined, n_bins=n_bins).calibration
    assert found is not None
    assert (found.samples, found.n_bins) == (260, n_bins)
    for value, sure, pred in zip((found.old, found.new), sures, (old, new), strict=True):
        assert value == pytest.approx(by_bins(sure[40:].tolist(), (pred == target)[40:].tolist(), n_bins))
    text = compare_joined(joined, n_bins=n_bins).to_markdown()
    assert f"(ECE, {n_bins} bins) on the 260 samples with both confidences: {100 * found.old:.2f}% before" in text


def test_unknown_calibration_errors() -> None:
    codes = np.zeros((3, 4), np.int64)
    sure = np.full(4, 0.5)
    ids = pa.array(list("abcd"))
    for old, new in ((None, sure), (sure, None), (sure, np.full(4, np.nan))):
        update = compare_joined(JoinedPredictions(ids, (0,), *codes, old, new))
        assert update.calibration is None
        assert update.to_dict()["calibration_errors"] is None
        assert "Calibration error (ECE): unknown, as not both files have confidences." in update.to_markdown()
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        compare_joined(JoinedPredictions(ids, (0,), *codes), n_bins=0)


def test_mcnemars_test_is_that_of_the_binomial() -> None:
    codes = np.zeros((3, 30), np.int64)
    codes[1, :4] = 1  # four positive flips
    codes[2, 4:15] = 1  # eleven negative flips
    joined = JoinedPredictions(pa.array([str(n) for n in range(30)]), (0, 1), *codes)
    expected = 2 * sum(math.comb(15, k) for k in range(5)) / 2**15
    assert compare_joined(joined).mcnemar_p == pytest.approx(expected)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(st.tuples(*[st.integers(0, k - 1)] * 3, st.sampled_from(["", "x"])), min_size=1, max_size=20)
    ),
    st.booleans(),
)
@example([(0, 0, 0, "")], False)  # both right, nothing else
@example([(0, 1, 1, "")], True)  # the old model has nothing right
@example([(0, 0, 1, "x")], False)  # one negative flip, nothing else
@example([(0, 1, 0, "x")], False)  # the new model has nothing wrong
def test_any_update_can_be_written(rows: list[tuple[int, int, int, str]], sure: bool) -> None:
    target, old, new = (np.array([row[k] for row in rows]) for k in range(3))
    confidence = np.where(np.arange(len(rows)) % 2, np.nan, 0.5) if sure else None
    joined = JoinedPredictions(
        pa.array([str(n) for n in range(len(rows))]), (0, 1, 2, 3), target, old, new, confidence, confidence,
        slices={"site": np.array([row[3] for row in rows], object)},
    )  # fmt: skip
    update = compare_joined(joined)
    found = json.loads(json.dumps(update.to_dict(), allow_nan=False))
    expected = by_loop(old, new, target)
    assert found["rates"]["negative_flip_rate"]["value"] == pytest.approx(expected["nfr"])
    assert found["rates"]["relative_negative_flip_rate"]["value"] == pytest.approx(expected["relative"])
    assert found["rates"]["churn"]["value"] == pytest.approx(expected["churn"])
    flips = round(expected["nfr"] * len(rows))
    for part in ("classes", *found["slices"]):
        groups = found[part] if part == "classes" else found["slices"][part]
        assert sum(group["samples"] for group in groups) == len(rows)
        assert sum(group["negative_flips"] for group in groups) == flips
    assert sum(entry["flips"] for entry in found["flip_matrix"]) == found["worst_flips"]["total"] == flips
    assert "nan" not in update.to_markdown()


def test_a_million_rows_and_a_thousand_classes_are_quick() -> None:
    rng = np.random.default_rng(0)
    rows, classes = 1_000_000, 1000
    target = rng.integers(0, classes, rows)
    old, new = (np.where(rng.random(rows) < 0.3, rng.integers(0, classes, rows), target) for _ in range(2))
    ids = pa.array(np.arange(rows)).cast(pa.string())
    sites = np.array(["a", "b", "c"], object)[target % 3]
    sure = rng.random(rows)
    joined = JoinedPredictions(ids, tuple(range(classes)), target, old, new, sure, sure, {"site": sites})
    started = time.process_time()
    update = compare_joined(joined)
    assert time.process_time() - started < 2
    assert len(update.classes.names) == classes
    assert update.worst.total == int(((old == target) & (new != target)).sum())


def test_neither_torch_nor_lightning_is_imported(files: tuple[Path, Path]) -> None:
    program = (
        "import sys; from lightning_flip.reports import compare;"
        f"update = compare({str(files[0])!r}, {str(files[1])!r});"
        "update.to_markdown(); update.to_dict();"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'lightning', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    names = lightning_flip.reports.__all__
    assert {"ChainComparison", "NoiseFloor", "UpdateComparison", "compare", "compare_chain"} <= set(names)
    assert names == sorted(names)
