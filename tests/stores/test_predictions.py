import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.stores import PredictionError, PredictionSet, read_logits, read_predictions, write_predictions

ROWS: dict[str, Any] = {
    "index": np.array([2, 0, 1]),
    "sample_id": ["c", "a", "b"],
    "target": [1, 0, None],
    "pred": np.array([1, 1, 0]),
    "confidence": np.array([0.75, 0.5, np.nan]),
}
# DuckDB's Python results cannot carry a lone surrogate, and neither can UTF-8.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def with_rows(**columns: Any) -> dict[str, Any]:
    return ROWS | columns


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(0, 12))
    column = lambda values: draw(st.lists(values, min_size=count, max_size=count))  # noqa: E731
    label = draw(st.sampled_from([st.integers(-(2**62), 2**62), TEXT]))
    return {
        "index": column(st.integers(0, 2**62)),
        "sample_id": column(TEXT),
        "target": column(st.none() | label),
        "pred": column(label),
        "confidence": column(st.floats(0, 1, width=32)),
        "camera": column(st.none() | TEXT),
    }


@settings(max_examples=40, deadline=None)
@given(tables())
def test_every_reader_sees_what_was_written(columns: dict[str, Any]) -> None:
    order = sorted(range(len(columns["index"])), key=lambda row: columns["index"][row])  # stable
    expected = {name: [values[row] for row in order] for name, values in columns.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = write_predictions(Path(folder) / "p.parquet", columns)
        ours = read_predictions(path).rows.to_pydict()
        frames = {
            "pandas": pandas.read_parquet(path, dtype_backend="pyarrow"),
            "polars": polars.read_parquet(path),
            "duckdb": duckdb.sql(f"select * from '{path}'").pl(),
        }
    assert ours == expected
    for reader, frame in frames.items():
        assert list(frame.columns) == list(columns), reader
        for name, values in expected.items():
            if reader == "pandas":
                found = [None if value is pandas.NA else value for value in frame[name].tolist()]
            else:
                found = frame[name].to_list()
            assert found == values, (reader, name)


def test_rows_are_sorted_by_index_and_everything_is_there(tmp_path: Path) -> None:
    columns = with_rows(
        prob_label=np.array([0.75, 0.25, 0.5], np.float16),
        top_classes=np.array([[1, 0], [1, 2], [0, 1]]),
        top_probs=np.array([[0.75, 0.25], [0.5, 0.3], [0.5, 0.25]]),
        logits=np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.float16),
        camera=["x", "y", None],
    )
    path = write_predictions(tmp_path / "deep" / "er" / "p.parquet", columns)
    table = pq.read_table(path)
    assert table.column_names == [
        "index", "sample_id", "target", "pred", "confidence", "prob_label",
        "top_classes", "top_probs", "logits", "camera",
    ]  # fmt: skip
    assert table.schema.field("logits").type == pa.list_(pa.float16(), 3)
    assert table.schema.field("top_probs").type == pa.list_(pa.float32(), 2)
    assert table.drop_columns(["top_probs", "logits"]).to_pydict() == {
        "index": [0, 1, 2],
        "sample_id": ["a", "b", "c"],
        "target": [0, None, 1],
        "pred": [1, 0, 1],
        "confidence": [0.5, None, 0.75],
        "prob_label": [0.25, 0.5, 0.75],
        "top_classes": [[1, 2], [0, 1], [1, 0]],
        "camera": ["y", None, "x"],
    }
    assert [list(map(float, row)) for row in table["logits"].to_pylist()] == [[3, 4, 5], [6, 7, 8], [0, 1, 2]]
    # one row a sample unless the scores are asked for
    read = read_predictions(path)
    assert read.rows.column_names == ["sample_id", "target", "pred", "confidence", "index", "prob_label", "camera"]
    assert read.columns == ("index", "prob_label", "top_classes", "top_probs", "logits", "camera")
    assert {"logits", "top_classes", "top_probs"} <= set(read_predictions(path, scores=True).rows.column_names)
    assert read_predictions(path, columns=["camera", "nothing"]).rows.column_names[4:] == ["camera"]


def test_other_tools_read_logits(tmp_path: Path) -> None:
    logits = np.array([[0.5, 1], [2, 3], [4, -5]], np.float16)
    path = write_predictions(tmp_path / "p.parquet", with_rows(index=range(3), logits=logits))
    assert np.array_equal(np.stack(pandas.read_parquet(path)["logits"].to_list()), logits)
    assert duckdb.sql(f"select logits from '{path}' order by index").fetchall() == [(row.tolist(),) for row in logits]
    # A file that another tool wrote again has lists of another kind.
    frame = polars.read_parquet(path).cast({"logits": polars.List(polars.Float32)})
    frame.write_parquet(tmp_path / "again.parquet")
    index, again, metadata = read_logits(tmp_path / "again.parquet")
    assert index.tolist() == [0, 1, 2]
    assert np.array_equal(again, logits)
    assert metadata == {"classes": None, "model_parameters": None, "num_samples": None, "data": None}


def test_logits_come_back_bit_by_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for dtype, kept in ((np.float16, np.float16), (np.float32, np.float32), (np.float64, np.float32)):
        logits = rng.normal(size=(40_000, 3)).astype(dtype)  # more than one block
        index = rng.permutation(40_000)
        path = write_predictions(
            tmp_path / f"{np.dtype(dtype)}.parquet",
            {"index": index, "sample_id": index, "pred": np.zeros(40_000, int), "confidence": np.ones(40_000),
             "logits": logits},
            classes=(4, 5, 6), model_parameters=7, num_samples=50_000,
        )  # fmt: skip
        found, read, metadata = read_logits(path)
        assert found.tolist() == list(range(40_000))
        assert read.dtype == kept
        assert np.array_equal(read, logits[np.argsort(index)].astype(kept))
        assert metadata == {"classes": (4, 5, 6), "model_parameters": 7, "num_samples": 50_000, "data": None}


def test_metadata(tmp_path: Path) -> None:
    path = write_predictions(
        tmp_path / "p.parquet", ROWS, classes=np.array([0, 1, 5]), model_parameters=12, num_samples=99
    )
    read = read_predictions(path)
    assert (read.classes, read.model_parameters, read.dataset_size, read.num_samples) == ((0, 1, 5), 12, 99, 3)
    assert read.name == str(path)
    text = with_rows(target=["<b>", "\n", None], pred=["\n", "<b>", '"'])
    path = write_predictions(tmp_path / "text.parquet", text, classes=["<b>", "\n", '"'])
    assert read_predictions(path).classes == ("<b>", "\n", '"')


@pytest.mark.parametrize(
    ("details", "message"),
    [(b"{", "damaged metadata"), (b'{"schema": 2}', "newer lightning-flip"), (b"[]", "damaged metadata")],
)
def test_metadata_of_others(tmp_path: Path, details: bytes, message: str) -> None:
    path = write_predictions(tmp_path / "p.parquet", ROWS)
    footer = pq.read_schema(path).metadata
    (key,) = [key for key in footer if b"{" in footer[key] and json.loads(footer[key]).get("schema")]
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(footer | {key: details}), path)
    with pytest.raises(PredictionError, match=message):
        read_predictions(path)


def test_an_existing_file_stays(tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "p.parquet", ROWS)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_predictions(path, with_rows(pred=[0, 0, 0]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="confidence"):
        write_predictions(path, with_rows(confidence=[0.5, 0.5, 75.0]), overwrite=True)
    assert path.read_bytes() == before
    write_predictions(path, with_rows(pred=[0, 0, 0]), overwrite=True)
    assert read_predictions(path).rows["pred"].to_pylist() == [0, 0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.parquet"]


def test_targets_may_be_left_out(tmp_path: Path) -> None:
    for name, pred in (("a", [1, 2, 3]), ("b", ["x", "y", "z"])):
        for targets in ({}, {"target": None}, {"target": [None] * 3}):
            columns = {key: ROWS[key] for key in ROWS if key != "target"} | {"pred": pred} | targets
            read = read_predictions(write_predictions(tmp_path / f"{name}.parquet", columns, overwrite=True))
            assert read.rows["target"].null_count == 3
            assert read.rows["pred"].type == read.rows["target"].type


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sample_id": None}, "lacks"),
        ({"index": [0, 1]}, "as long as 'index'"),
        ({"index": [0.5, 1, 2]}, "integers from 0"),
        ({"index": [-1, 1, 2]}, "integers from 0"),
        ({"index": [[0], [1], [2]]}, "integers from 0"),
        ({"sample_id": ["a", None, "b"]}, r"must name every sample, but 1 of 3 rows have none"),
        ({"pred": [1, None, 0]}, "must hold a label in every row"),
        ({"pred": [1, 0.5, 0]}, "whole numbers"),
        ({"pred": ["cat", "dog", "cat"]}, "one kind"),
        ({"confidence": [0.5, 0.5, -0.1]}, r"1 of 3 rows are outside \(the first: -0.1\)"),
        ({"confidence": ["a", "b", "c"]}, "probabilities"),
        ({"prob_label": [0.5, 2, 3]}, "2 of 3 rows are outside"),
        ({"top_classes": [[1], [0], [1]]}, "both or neither"),
        ({"logits": [1.0, 2.0, 3.0]}, r"\[3, 1 or more\]"),
        ({"logits": np.zeros((2, 4))}, r"\[3, 1 or more\]"),
        ({"camera": [object(), 1, 2]}, "array that Parquet can hold"),
    ],
)
def test_what_cannot_be_read_is_not_written(tmp_path: Path, columns: Mapping[str, Any], message: str) -> None:
    given = {name: values for name, values in with_rows(**columns).items() if values is not None}
    with pytest.raises(ValueError, match=message):
        write_predictions(tmp_path / "p.parquet", given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [("a", "b"), (0, 0), (), (0, "a")])
def test_classes_are_of_the_labels_kind(tmp_path: Path, classes: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="classes of columns must be"):
        write_predictions(tmp_path / "p.parquet", ROWS, classes=classes)


def test_path_says_the_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.parquet"):
        write_predictions(tmp_path / "p.csv", ROWS)


def test_logits_that_are_not_there(tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "p.parquet", ROWS)
    with pytest.raises(PredictionError, match=r"columns 'index' and 'logits', but has \['index', 'sample_id'"):
        read_logits(path)
    with pytest.raises(PredictionError, match="does not exist"):
        read_logits(tmp_path / "q.parquet")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(PredictionError, match="cannot be read as Parquet"):
        read_logits(path)
    for name, logits, message in (
        ("ragged", [[1.0], [1.0, 2.0]], "lists of one length"),
        ("null", [[1.0], None], "lists of one length"),
        ("inner", [[1.0], [None]], "no missing values"),
        ("text", [["a"], ["b"]], "floating point"),
        ("flat", [1.0, 2.0], "a list in every row"),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"index": [0, 1], "logits": logits}), path)
        with pytest.raises(PredictionError, match=message):
            read_logits(path)
    empty = pa.table({"index": pa.array([], pa.int64()), "logits": pa.array([], pa.list_(pa.float32(), 2))})
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(PredictionError, match="0 rows"):
        read_logits(tmp_path / "empty.parquet")


def test_rows_by_hand_are_checked() -> None:
    with pytest.raises(PredictionError, match="from_table"):
        PredictionSet(pa.table({"sample_id": [1], "target": [1], "pred": [1]}), "mine")
    made = PredictionSet.from_table(pa.table({"file": ["a"], "label": [True], "pred": [1.0], "target": ["x"]}), "mine",
                                    id_column="file", target_column="label")  # fmt: skip
    assert made.rows.to_pydict() == {"sample_id": ["a"], "target": [1], "pred": [1]}
