import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.stores import PredictionError, PredictionSet, read_predictions, write_predictions

NASTY = ["../../etc/passwd", 'a "quoted", one', "two\nlines\r\n", "<b>bold</b>", "'; drop table x; --", " 007 "]
HEADER = "sample_id,target,pred\n"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., PredictionSet]:
    """read(content, suffix=".csv", **options): write bytes, text, a Parquet table or a dict of NPZ arrays, and read."""

    def write_and_read(content: Any, suffix: str = ".csv", **options: Any) -> PredictionSet:
        path = tmp_path / f"other{suffix}"
        if isinstance(content, pa.Table):
            path = path.with_suffix(".parquet")
            pq.write_table(content, path)
        elif isinstance(content, dict):
            path = path.with_suffix(".npz")
            np.savez(path, **content)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_predictions(path, **options)

    return write_and_read


@pytest.mark.parametrize("content", [
    pa.table({"sample_id": NASTY, "target": NASTY, "pred": NASTY[::-1]}),
    {"sample_id": np.array(NASTY), "target": np.array(NASTY), "pred": np.array(NASTY[::-1])},
    pandas.DataFrame({"sample_id": NASTY, "target": NASTY, "pred": NASTY[::-1]}).to_csv(index=False),
    polars.DataFrame({"sample_id": NASTY, "target": NASTY, "pred": NASTY[::-1]}).write_csv(),
], ids=["parquet", "npz", "csv of pandas", "csv of polars"])  # fmt: skip
def test_any_text_is_an_id_and_a_label(read: Callable[..., PredictionSet], content: Any) -> None:
    rows = read(content).rows
    assert rows.to_pydict() == {"sample_id": NASTY, "target": NASTY, "pred": NASTY[::-1]}


@pytest.mark.parametrize("ids", [
    pa.array(["1", "2"], pa.large_string()), pa.array(["1", "2"], pa.string_view()), pa.array([b"1", b"2"]),
    pa.array(["1", "2"]).dictionary_encode(), pa.array([1, 2], pa.uint8()), pa.array([1.0, 2.0]),
], ids=lambda array: str(array.type))  # fmt: skip
def test_ids_of_any_type_are_text(read: Callable[..., PredictionSet], ids: pa.Array) -> None:
    assert read(pa.table({"sample_id": ids, "target": [0, 1], "pred": [0, 1]})).rows["sample_id"].to_pylist() == [
        "1",
        "2",
    ]


@pytest.mark.parametrize("labels", [
    pa.array([1, 0], pa.uint64()), pa.array([1, 0], pa.int8()), pa.array([1.0, 0.0], pa.float16()),
    pa.array([1.0, 0.0], pa.float64()), pa.array([True, False]), pa.array([1, 0]).cast(pa.decimal128(20, 0)),
    pa.array([1, 0]).dictionary_encode(), pa.array(["1", "0"]), pa.array(["+1", "00"], pa.large_string()),
], ids=lambda array: str(array.type))  # fmt: skip
def test_labels_of_any_type_that_mean_the_same(read: Callable[..., PredictionSet], labels: pa.Array) -> None:
    rows = read(pa.table({"sample_id": ["a", "b"], "target": labels, "pred": pa.array([0, 0], pa.int32())})).rows
    assert rows["target"].type == rows["pred"].type == pa.int64()
    assert rows["target"].to_pylist() == [1, 0]


@pytest.mark.parametrize("target", [pa.array([1.0, float("nan")]), pa.array([1, None]), pa.array(["1", None])])
def test_a_target_may_be_missing(read: Callable[..., PredictionSet], target: pa.Array) -> None:
    assert read(pa.table({"sample_id": ["a", "b"], "target": target, "pred": [1, 1]})).rows["target"].to_pylist() == [
        1,
        None,
    ]


def test_csv_labels(read: Callable[..., PredictionSet]) -> None:
    def labels(*rows: str) -> tuple[list[Any], list[Any]]:
        found = read(HEADER + "".join(f"{number},{row}\n" for number, row in enumerate(rows))).rows
        return found["target"].to_pylist(), found["pred"].to_pylist()

    assert labels("1,2", "-3,+4") == ([1, -3], [2, 4])
    assert labels("1.0,2", ",4") == ([1, None], [2, 4])
    assert labels("1, 2") == ([1], [2])
    assert labels(",2", ",3") == ([None, None], [2, 3])
    # a column of digits is text where the other column has words
    assert labels("1,cat", "2,dog") == (["1", "2"], ["cat", "dog"])
    # words that other tools take for something else
    for word in ("true", "2020-01-01", "0x1A", "-", "none"):
        assert labels(f"{word},cat") == ([word], ["cat"])
        assert labels(f"{word},{word}") == ([word], [word])
    # words for a missing target, unless the model predicts them
    for word in ("NA", "null", "None", "N/A", "<NA>"):
        assert labels(f"{word},cat") == labels(f" {word} ,cat") == ([None], ["cat"])
        assert labels(f"{word},3") == ([None], [3])
        assert labels(f"{word},{word}") == ([word], [word])
    assert labels("NaN,3") == ([None], [3])
    # numbers that a float cannot tell apart
    assert labels("1234567890123456789,1234567890123456788") == ([1234567890123456789], [1234567890123456788])
    assert labels("99999999999999999998,99999999999999999999") == (["99999999999999999998"], ["99999999999999999999"])


def test_csv_cells_stay_text(read: Callable[..., PredictionSet]) -> None:
    rows = read(
        "\ufeffsample_id,target,pred,zip,confidence\r\n007,1,2,0123,0.5\r\n7.0,1,2,,\r\n1e3,1,2,NA,nan\r\n"
    ).rows
    assert rows["sample_id"].to_pylist() == ["007", "7.0", "1e3"]
    assert rows["zip"].to_pylist() == ["0123", "", "NA"]
    assert rows["confidence"].to_pylist() == [0.5, None, None]


def test_ids_of_many_blocks(read: Callable[..., PredictionSet]) -> None:
    """The CSV reader guesses types block by block: neither ids nor labels may depend on it."""
    count = 200_000
    lines = [f"{row},{row % 7},{row % 5}\n" for row in range(count)] + ["last,6,4\n"]
    rows = read(HEADER + "".join(lines)).rows
    assert rows["sample_id"].to_pylist() == [*map(str, range(count)), "last"]
    assert rows["target"].to_numpy().tolist() == [*(row % 7 for row in range(count)), 6]


def test_columns_by_other_names(read: Callable[..., PredictionSet]) -> None:
    options = {"id_column": "path", "target_column": "label", "pred_column": "guess", "confidence_column": "p"}
    columns = {"path": ["a"], "label": [1], "guess": [2], "pred": [9], "p": [0.5], "camera": ["x"]}
    expected = {"sample_id": ["a"], "target": [1], "pred": [2], "confidence": [0.5], "camera": ["x"]}
    csv = "path,label,guess,pred,p,camera\na,1,2,9,0.5,x\n"
    for content in (pa.table(columns), {name: np.array(column) for name, column in columns.items()}, csv):
        read_set = read(content, **options)
        assert read_set.rows.to_pydict() == expected
        assert read_set.columns == ("camera",)
        assert read_set.classes is None


def test_index_is_the_id_where_there_is_no_other(read: Callable[..., PredictionSet]) -> None:
    expected = ["5", "3"]
    for content in (pa.table({"index": [5, 3], "target": [0, 1], "pred": [0, 1]}), "index,target,pred\n5,0,0\n3,1,1\n"):
        assert read(content).rows["sample_id"].to_pylist() == expected


def test_nested_columns_are_read_when_asked_for(read: Callable[..., PredictionSet]) -> None:
    logits = [[0.5, 1.0], [2.0, 3.0]]
    columns = {"sample_id": ["a", "b"], "target": [0, 1], "pred": [0, 1], "logits": logits}
    for content in (pa.table(columns), {name: np.array(column) for name, column in columns.items()}):
        assert "logits" not in read(content).rows.column_names
        assert read(content).columns == ("logits",)
        assert read(content, scores=True).rows["logits"].to_pylist() == logits


def test_rows_may_be_none(read: Callable[..., PredictionSet]) -> None:
    empty = {"sample_id": np.zeros(0, str), "target": np.zeros(0, int), "pred": np.zeros(0, int)}
    for content in (HEADER, pa.table({"sample_id": [], "target": [], "pred": []}), empty):
        assert read(content).num_samples == 0


MISSING = r"column 'target' \(the true label\), but has \['sample_id', 'label', 'pred'\].*Pass target_column='label'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as CSV .*Empty CSV"),
        ("\n", "cannot be read as CSV"),
        (HEADER + "a,1,2\nb,1", "cannot be read as CSV .*Expected 3 columns, got 2"),
        (HEADER + 'a,1,2\n"b\nc,3', "cannot be read as CSV"),
        (HEADER.encode() + b"a,\xe9,2\n", "cannot be read as CSV .*UTF8"),
        ((HEADER + "a,1,2\n").encode("utf-16"), "cannot be read as CSV"),
        ("sample_id|target|pred\na|1|2\n", r"commas, semicolons or tabs between.*'sample_id\|target\|pred'.*of '\|'"),
        ("sample_id;target;pred;confidence\na;1;2;high\n", "'confidence' must be numbers"),
        ("sample_id,label,pred\na,1,2\n", MISSING),
        ("sample_id,target,pred,pred\na,1,2,3\n", r"must name every column once, but repeats \['pred'\]"),
        (HEADER + "a,1,2\n,1,2\n", "must name every sample, but 1 of 2 rows have none"),
        (HEADER + "a,1,\nb,2,2\n", r"column 'pred' must hold a label in every row, but 1 of 2 .*row 0"),
        (HEADER + "a,1.5,2\n", "column 'target' must be whole numbers"),
        (HEADER + "a,inf,2\n", "column 'target' must be whole numbers"),
        ("sample_id,target,pred,confidence\na,1,2,high\n", "column 'confidence' must be probabilities"),
        ("sample_id,target,pred,confidence\na,1,2,.5\nb,1,2,99.5\n", r"1 of 2 rows are outside \(the first: 99.5\)"),
        ("sample_id,target,pred,confidence\na,1,2,inf\n", r"1 of 1 rows are outside \(the first: inf\)"),
        (pa.table({"sample_id": ["a"], "label": [1], "pred": [1]}), MISSING),
        (pa.table([["a"], [1], [1], [2]], ["sample_id", "target", "pred", "pred"]), r"repeats \['pred'\]"),
        (pa.table({"sample_id": ["a", None], "target": [1, 1], "pred": [1, 1]}), "1 of 2 rows have none.*row 1"),
        (pa.table({"sample_id": pa.nulls(2), "target": [1, 1], "pred": [1, 1]}), "2 of 2 rows have none"),
        (pa.table({"sample_id": [0.5], "target": [1], "pred": [1]}), "'sample_id' must be whole numbers"),
        (pa.table({"sample_id": [["a"]], "target": [1], "pred": [1]}), "must be text or integers"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": pa.nulls(1)}), "must hold a label in every row"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": [float("nan")]}), "must hold a label in every row"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": [float("inf")]}), "whole numbers"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": pa.array([2**63], pa.uint64())}), "whole numbers"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": [[1]]}), "integer or text labels"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": [b"\xff"]}), "UTF-8"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": ["cat"]}),
         r"'target' holds integers \(such as 1\) and .*'pred' text \(such as 'cat'\)"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": ["9" * 30]}), "text .such as '9999"),
        (pa.table({"sample_id": ["a"], "target": [1], "pred": [1], "confidence": ["x"]}), "probabilities"),
        ({"sample_id": np.array(["a"], object), "target": [1], "pred": [1]}, "read as NPZ .*dtype str, not object"),
        ({"sample_id": np.array(["a"]), "target": [1], "pred": [1, 2]}, r"'pred' is \(2,\) and 'sample_id' is \(1,\)"),
        ({"sample_id": np.array("a"), "target": [1], "pred": [1]}, "1-D arrays of one length"),
        ({"sample_id": np.array(["a"]), "target": [[1]], "pred": [1]}, r"'target' is \(1, 1\)"),
        ({"sample_id": np.array(["a"]), "target": [1j], "pred": [1]}, "'target' is complex128"),
        ({"sample_id": np.array(["a"]), "label": [1], "pred": [1]}, MISSING),
        ({"sample_id": np.array([b"\xff"]), "target": [1], "pred": [1]}, "UTF-8"),
        ({"sample_id": np.array(["a"]), "target": np.ones(1, np.clongdouble).real, "pred": [1]}, "'target', must be"),
        ({"sample_id": np.array(["\ud800"]), "target": [1], "pred": [1]}, "'sample_id', must be"),
        ({"sample_id": np.array(["a"]), "target": [1], "pred": [1], "confidence": np.array([2**63 + 5], np.uint64)},
         r"1 of 1 rows are outside \(the first: 9\.22337e\+18\)"),
    ],
)  # fmt: skip
def test_unreadable_input_is_told(read: Callable[..., PredictionSet], content: Any, message: str) -> None:
    with pytest.raises(PredictionError, match=f"(?s)other.*{message}"):
        read(content)


@pytest.mark.parametrize("column", ["sample_id", "target", "pred"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_that_is_not_utf8(read: Callable[..., PredictionSet], column: str, kind: pa.DataType) -> None:
    """Arrow takes the word of a Parquet file for it that a text is one."""
    sound = pa.array(["a", "b"])
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).buffers()).cast(kind)
    table = pa.table({"sample_id": sound, "target": sound, "pred": sound} | {column: broken})
    with pytest.raises(PredictionError, match=rf"other\.parquet, column '{column}' must be text in UTF-8"):
        read(table)


def test_npz_of_another_machine(read: Callable[..., PredictionSet]) -> None:
    swapped = {
        "sample_id": np.array([7, 8], ">i8"),
        "target": np.array([1, -2], ">i2"),
        "pred": np.array([1, 3], ">u4"),
    }
    further = {"confidence": np.array([0.5, 1.0], ">f8"), "taken": np.array(["2020", "2021"], "datetime64[Y]")}
    assert read(swapped | further).rows.to_pydict() == {
        "sample_id": ["7", "8"], "target": [1, -2], "pred": [1, 3], "confidence": [0.5, 1.0],
    }  # fmt: skip


def test_files_of_a_spreadsheet(read: Callable[..., PredictionSet]) -> None:
    text = '\ufeff"sample_id",target,pred,note\r\n"a ""b"", c",-1,-1,"two\r\nlines"\r\n007,-2,3,\r\n'
    rows = read(text, ".CSV").rows
    assert rows.to_pydict() == {
        "sample_id": ['a "b", c', "007"], "target": [-1, -2], "pred": [-1, 3], "note": ["two\r\nlines", ""],
    }  # fmt: skip


def test_a_frame_of_pandas_with_its_index_and_categories(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"sample_id": ["b", "a"], "target": [1, -2], "pred": [1, 1], "site": ["x", None]})
    frame = frame.astype({"target": "category", "pred": "Int64", "site": "category"}).set_index("sample_id")
    frame.to_parquet(tmp_path / "frame.parquet")
    rows = read_predictions(tmp_path / "frame.parquet").rows
    assert rows.select(["sample_id", "target", "pred"]).to_pydict() == {
        "sample_id": ["b", "a"], "target": [1, -2], "pred": [1, 1],
    }  # fmt: skip


def test_roles_must_be_distinct_columns(read: Callable[..., PredictionSet]) -> None:
    with pytest.raises(PredictionError, match="a column of its own"):
        read(HEADER + "a,1,2\n", pred_column="target")
    with pytest.raises(PredictionError, match=r"Pass confidence_column= \(--confidence-column\)\."):
        read(HEADER + "a,1,2\n", confidence_column="p")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"none\.csv does not exist"):
        read_predictions(tmp_path / "none.csv")
    for name in ("p.pkl", "p", "p.gz", "p.parquet.gz", "p.npz.gz"):
        with pytest.raises(PredictionError, match=r"must end in one of \.parquet, .*\.csv, \.tsv, \.jsonl.*\.npz"):
            read_predictions(tmp_path / name)


def whole_files() -> dict[str, bytes]:
    count = 200
    columns: dict[str, Any] = {"sample_id": [f"file-{row}.png" for row in range(count)], "target": np.arange(count)}
    columns |= {"pred": np.arange(count) // 2}
    npz = io.BytesIO()
    np.savez_compressed(npz, **columns)
    more = {"index": range(count), "confidence": np.linspace(0, 1, count)}
    with tempfile.TemporaryDirectory() as folder:
        parquet = write_predictions(Path(folder) / "p.parquet", columns | more).read_bytes()
    return {".parquet": parquet, ".npz": npz.getvalue()}


FILES = whole_files()


@pytest.mark.parametrize("suffix", FILES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_is_told(suffix: str, data: st.DataObject) -> None:
    whole = FILES[suffix]
    cut = data.draw(st.integers(0, len(whole) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"p{suffix}"
        path.write_bytes(whole[:cut])
        with pytest.raises(PredictionError, match="cannot be read as"):
            read_predictions(path)
        path.write_bytes(whole)
        assert read_predictions(path).num_samples == 200


@pytest.mark.parametrize("suffix", FILES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_told_or_harmless(suffix: str, data: st.DataObject) -> None:
    whole = bytearray(FILES[suffix])
    last = len(whole) - 1
    if suffix == ".parquet":  # the footer, whose length comes last but one, has no checksum
        last -= 8 + int.from_bytes(whole[-8:-4], "little")
    place = data.draw(st.integers(0, last))
    whole[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"p{suffix}"
        path.write_bytes(FILES[suffix])
        expected = read_predictions(path).rows.select(["sample_id", "target", "pred"])
        path.write_bytes(whole)
        try:
            found = read_predictions(path).rows
        except PredictionError:
            return
        assert found.select(["sample_id", "target", "pred"]).equals(expected)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    path = tmp_path / "p.npz"
    np.savez(path, sample_id=np.array([Trap()], object), target=[1], pred=[1], extra=np.array([Trap()], object))
    with pytest.raises(PredictionError, match="object"):
        read_predictions(path)
    assert not (tmp_path / "sprung").exists()
