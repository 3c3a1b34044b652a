"""Predictions of tables that hold scores only, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip.reports import compare
from lightning_flip.stores import PredictionError, PredictionSet, read_predictions, write_predictions

COUNT, CLASSES = 70_000, 4  # more than two blocks
NAMES = ("cat", "dog", "007", "x y")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(COUNT, CLASSES)).astype(np.float32) * 3
    values[5, 1] = -np.inf  # a masked class
    values[6] = 1  # a tie, which goes to the first class
    return values


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., PredictionSet]:
    """read(scores, **options): write them beside ids and targets, and read; a `path` says the format."""

    def write_and_read(
        given: dict[str, Any], target: Any = 0, path: str = "p.parquet", **options: Any
    ) -> PredictionSet:
        count = len(next(iter(given.values())))
        table = pa.table({"sample_id": [*range(count)], "target": pa.repeat(target, count)} | given)
        if path.endswith(".parquet"):
            pq.write_table(table, tmp_path / path, row_group_size=9_000)
        else:
            table.to_pandas().to_csv(tmp_path / path, index=False, float_format="%.9g")
        return read_predictions(tmp_path / path, **options)

    return write_and_read


def lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logits(read: Callable[..., PredictionSet], logits: np.ndarray, dtype: type) -> None:
    given = logits.astype(dtype)
    found = read({"logits": lists(given)}).rows
    expected = given.astype(np.float64)
    assert found.column_names == ["sample_id", "target", "pred", "confidence"]
    assert np.array_equal(found["pred"].to_numpy(), expected.argmax(1))
    np.testing.assert_allclose(found["confidence"].to_numpy(), softmax(expected).max(1), rtol=1e-5)
    assert found["pred"][6].as_py() == 0


@pytest.mark.parametrize("path", ["p.parquet", "p.csv"])
@pytest.mark.parametrize("labels", [("0", "1", "2", "3"), NAMES, ("10", "9", "2", "1")])
def test_one_column_per_class(
    read: Callable[..., PredictionSet], logits: np.ndarray, path: str, labels: tuple[str, ...]
) -> None:
    probs = softmax(logits)[:40_000]
    whole = all(label.isdecimal() for label in labels)
    target = (0 if path == "p.parquet" else "0") if whole else "cat"
    found = read({f"prob_{label}": probs[:, k] for k, label in enumerate(labels)}, target, path, columns=())
    expected = np.array([int(label) if whole else label for label in labels])
    if labels[0] == "10":  # by number, so that a tie goes to the smallest
        tie = [9, 10, 1, 2]
        assert found.rows["pred"][6].as_py() == min(tie)
        keep = np.arange(len(probs)) != 6
    else:
        keep = np.ones(len(probs), bool)
    assert np.array_equal(found.rows["pred"].to_numpy()[keep], expected[probs.argmax(1)][keep])
    np.testing.assert_allclose(found.rows["confidence"].to_numpy(), probs.max(1), rtol=1e-6)
    assert sorted(found.classes or ()) == sorted(expected.tolist())
    assert found.rows.column_names == ["sample_id", "target", "pred", "confidence"]


def test_what_a_file_says_goes_before_what_could_be_derived(read: Callable[..., PredictionSet]) -> None:
    scores = {"logits": [[0.0, 1.0]], "prob_0": [0.9], "prob_1": [0.1]}
    found = read({"pred": [0], **scores})
    assert (found.rows["pred"].to_pylist(), found.notes) == ([0], ())
    assert "confidence" not in found.rows.column_names
    assert read(scores, pred_column="pred").rows["pred"].to_pylist() == [1]
    found = read({"answer": [0], **scores}, pred_column="answer")
    assert (found.rows["pred"].to_pylist(), found.notes) == ([0], ())
    found = read({"confidence": [0.25], **scores})
    assert found.rows.select(["pred", "confidence"]).to_pydict() == {"pred": [1], "confidence": [0.25]}
    (note,) = found.notes
    assert note.endswith("p.parquet has no column 'pred'; the prediction is the class with the largest of 'logits'.")
    found = read({"p": [0.5], **scores}, confidence_column="p")
    assert found.rows.select(["pred", "confidence"]).to_pydict() == {"pred": [1], "confidence": [0.5]}


def test_best_classes(read: Callable[..., PredictionSet]) -> None:
    classes = pa.array([["b", "a"], ["c", "b"]])
    found = read({"top_classes": classes}, "a")
    assert found.rows["pred"].to_pylist() == ["b", "c"]
    assert "confidence" not in found.rows.column_names
    assert "the first of 'top_classes'" in found.notes[0]
    found = read({"top_classes": classes, "top_probs": [[0.5, 0.25], [0.25, 0.5]]}, "a")
    assert found.rows["pred"].to_pylist() == ["b", "b"]
    assert found.rows["confidence"].to_pylist() == [0.5, 0.5]


def test_classes_of_our_files_name_the_logits(tmp_path: Path) -> None:
    columns = {
        "index": [0, 1],
        "sample_id": ["a", "b"],
        "target": ["x", "y"],
        "pred": ["y", "x"],
        "confidence": [0.5, 0.5],
    }
    path = write_predictions(tmp_path / "p.parquet", columns | {"logits": [[0.0, 1.0], [3.0, 1.0]]}, classes=("x", "y"))
    table = pq.read_table(path).drop_columns(["pred", "confidence"])
    pq.write_table(table, path)
    found = read_predictions(path, scores=True)
    assert (found.rows["pred"].to_pylist(), found.classes) == (["y", "x"], ("x", "y"))
    assert "logits" in found.rows.column_names
    assert "logits" not in read_predictions(path).rows.column_names
    # without the names the logits stand for numbers
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(PredictionError, match=r"p\.parquet, the class with the largest of 'logits', holds integers"):
        read_predictions(path)


def test_tables_in_memory(logits: np.ndarray) -> None:
    probs = softmax(logits[:50])
    columns = {"sample_id": [*range(50)], "target": logits[:50].argmax(1)} | {
        f"prob_{k}": probs[:, k] for k in range(4)
    }
    for frame in (pandas.DataFrame(columns), polars.DataFrame(columns), pa.table(columns)):
        result = compare(frame, pa.table(columns | {"pred": [0] * 50}), slices=["prob_0"])
        assert result.rates["churn"].count == np.count_nonzero(columns["target"])
        assert result.warnings[0].startswith("old has no column 'pred'")
    assert (
        PredictionSet.from_table(pa.table(columns), "mine").rows["pred"].to_pylist() == logits[:50].argmax(1).tolist()
    )


def test_no_rows_have_no_predictions(read: Callable[..., PredictionSet]) -> None:
    for column in (
        {"logits": pa.array([], pa.list_(pa.float32()))},
        {"top_classes": pa.array([], pa.list_(pa.int64()))},
    ):
        assert read(column).rows["pred"].to_pylist() == []
    assert read({"prob_a": pa.array([], pa.float32()), "prob_b": pa.array([], pa.float32())}).num_samples == 0


@pytest.mark.parametrize("names", [
    ["prob_label", "prob_pred"], ["prob_0"],
    ["probability"], ["logit"], ["problem_0", "problem_1"], ["prob_max", "prob_true"],
    ["prob_cat", "logit_dog"], ["prob_", "logit_"],
])  # fmt: skip
def test_columns_that_are_not_the_classes(read: Callable[..., PredictionSet], names: list[str]) -> None:
    with pytest.raises(PredictionError, match="must have a column 'pred'"):
        read({name: [0.5] for name in names})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"logits": [[0.0, float("nan")]]}, "row 0, counted from 0, has a missing number or NaN"),
        ({"logits": [[0.0, 1.0], [-float("inf")] * 2]}, "row 1, counted from 0, .*minus infinity for all classes"),
        ({"logits": [[0.0, 1.0], [0.0]]}, "lists of one length"),
        ({"logits": [[0.0, 1.0], None]}, "lists of one length"),
        ({"logits": [[0.0, None]]}, "no missing values"),
        ({"logits": [["a", "b"]]}, "column 'logits' must hold numbers, got string"),
        ({"prob_0": [0.5, None], "prob_1": [0.5, 1.0]}, "row 1, counted from 0, has a missing number"),
        ({"prob_0": ["a"], "prob_1": ["b"]}, "column 'prob_0' must hold numbers, got string"),
        ({"probs": [[0.5, 0.5], [0.9, 0.8]]}, "of one class per sample, but row 1.*0.9, 0.8 as the largest"),
        ({"prob_a": [99.0], "prob_b": [1.0]}, "has 99, 1 as the largest. Divide percentages by 100"),
        ({"probabilities": [[-2.0, 0.5]]}, "row 0, counted from 0, has 0.5, -2"),
        ({"top_classes": [[0, 1]], "top_probs": [[0.5]]}, "'top_probs' must hold lists of one length, got 1"),
        ({"top_classes": [[0, 1]], "top_probs": [[0.5, float("nan")]]}, "has a missing number or NaN"),
    ],
)  # fmt: skip
def test_scores_without_a_prediction(read: Callable[..., PredictionSet], columns: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionError, match=rf"p\.parquet.*{message}"):
        read(columns)


def test_rows_are_counted_across_pieces(read: Callable[..., PredictionSet], logits: np.ndarray) -> None:
    broken = logits.copy()
    broken[60_001, 2] = np.nan
    with pytest.raises(PredictionError, match="row 60001, counted from 0"):
        read({"logits": lists(broken)})
    lengths = pa.array([*lists(logits[:20_000]).to_pylist(), *[[0.0, 1.0]] * 20_000])
    with pytest.raises(PredictionError, match="lists of one length, got"):
        read({"logits": lengths})


def test_rounded_probabilities_are_taken(read: Callable[..., PredictionSet]) -> None:
    assert read({"probs": [[0.33, 0.33, 0.33], [0.5, 0.5, 0.0]]}).rows["confidence"].to_pylist() == pytest.approx(
        [0.33, 0.5]
    )
    assert read({"probs": lists(np.full((1, 1000), 0.002, np.float16))}).num_samples == 1
