"""Places of predictions that are empty, mixed, cut off or of another kind."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from lightning_flip.stores import PredictionError, read_predictions, write_predictions
from lightning_flip.stores.predictions.sources import reads_file

HEADER = "sample_id,target,pred\n"


def rows(count: int = 2, first: int = 0, **more: Any) -> dict[str, Any]:
    numbers = list(range(first, first + count))
    return {"sample_id": [f"s{number}" for number in numbers], "target": numbers, "pred": numbers} | more


def put(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def ids(place: Any, **options: Any) -> list[str]:
    return read_predictions(place, **options).rows["sample_id"].to_pylist()


def refused(place: Any, message: str, **options: Any) -> None:
    with pytest.raises(PredictionError, match=f"(?s){message}"):
        read_predictions(place, **options)


def test_places_without_files(tmp_path: Path) -> None:
    refused(tmp_path, "must have files of predictions, but there are none")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden.csv").write_text(HEADER)
    (tmp_path / "_temporary").mkdir()
    put(tmp_path / "_temporary" / "a.parquet", rows())
    refused(tmp_path, "must have files of predictions, but there are none")
    refused(tmp_path / "*.csv", r"\*\.csv must have files of predictions, but there are none")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "*.csv", r"\*\.csv must have files of predictions, but there are none")
    refused("memory://nothing/there.csv", r"memory://nothing/there\.csv cannot be read as CSV \(FileNotFound")
    refused("memory://nothing/*.csv", "must have files of predictions, but there are none")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, first in (("b", 2), ("a", 0), ("deep/c", 4)):
        put(tmp_path / f"{name}.parquet", rows(first=first))
    assert ids(tmp_path) == ["s0", "s1", "s2", "s3", "s4", "s5"]
    assert ids(tmp_path / "*.parquet") == ["s0", "s1", "s2", "s3"]
    assert ids(f"{tmp_path}/**/*.parquet") == ["s0", "s1", "s2", "s3", "s4", "s5"]


def test_names_of_folders_are_columns(tmp_path: Path) -> None:
    put(tmp_path / "run=3" / "site=A%2FB" / "target=7" / "a.parquet", {"sample_id": [5], "pred": [7]})
    put(
        tmp_path / "run=3" / "site=__HIVE_DEFAULT_PARTITION__" / "target=8" / "a.parquet",
        {"sample_id": [6], "pred": [7]},
    )
    for place in (tmp_path, tmp_path / "*" / "*" / "*" / "*.parquet"):
        found = read_predictions(place)
        assert found.rows.to_pydict() == {
            "sample_id": ["5", "6"], "target": [7, 8], "pred": [7, 7], "run": ["3", "3"], "site": ["A/B", None],
        }  # fmt: skip
    # those above the place are none of its columns, and a file's own column goes before its folder's name
    refused(tmp_path / "run=3" / "site=A%2FB" / "target=7", "must have a column 'target'")
    put(tmp_path / "own" / "pred=9" / "a.parquet", rows())
    assert read_predictions(tmp_path / "own").rows["pred"].to_pylist() == [0, 1]


def test_files_of_a_folder_that_do_not_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    put(folder / "a.parquet", rows())
    (folder / "b.csv").write_text(HEADER + "a,1,1\n")
    refused(folder, "must have files of one format, but has CSV and Parquet.*by a glob")
    (folder / "b.csv").unlink()
    (folder / "README.md").write_text("notes")
    refused(folder, r"README\.md must end in one of")
    (folder / "README.md").unlink()
    put(folder / "b.parquet", rows(first=2, confidence=[0.5, 0.5]))
    refused(folder, r"must have files with the same columns, but .*b\.parquet and .*a\.parquet.*\['confidence'\]")
    put(folder / "b.parquet", rows() | {"target": ["cat", "dog"]})
    refused(folder, r"a\.parquet, column 'target' holds integers.*b\.parquet, column 'target' text \(such as 'cat'\)")
    put(folder / "b.parquet", {"sample_id": ["x"], "pred": [1]})
    refused(folder, r"b\.parquet must have a column 'target'")
    (folder / "b.parquet").write_bytes(b"PAR1")
    refused(folder, r"b\.parquet cannot be read as Parquet")


def test_types_of_parts_may_differ_where_they_mean_the_same(tmp_path: Path) -> None:
    put(
        tmp_path / "a.parquet",
        {"sample_id": [1, 2], "target": [0, 1], "pred": ["0", "1"], "confidence": [1, 0], "x": [1, 2]},
    )
    floats = {"sample_id": ["03"], "target": [None], "pred": pa.array([2.0]), "confidence": pa.nulls(1), "x": ["b"]}
    put(tmp_path / "b.parquet", floats)
    assert read_predictions(tmp_path).rows.to_pydict() == {
        "sample_id": ["1", "2", "03"], "target": [0, 1, None], "pred": [0, 1, 2], "confidence": [1.0, 0.0, None],
        "x": ["1", "2", "b"],
    }  # fmt: skip


def test_text_of_several_csv_files_is_judged_together(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + "007,1,2\n")
    (tmp_path / "b.csv").write_text(HEADER + "8,cat,NA\n")
    assert read_predictions(tmp_path).rows.to_pydict() == {
        "sample_id": ["007", "8"], "target": ["1", "cat"], "pred": ["2", "NA"],
    }  # fmt: skip


def test_files_of_several_models_are_refused(tmp_path: Path) -> None:
    def write(name: str, index: int, **options: Any) -> None:
        columns = {"index": [index], "sample_id": [f"s{index}"], "pred": [0], "confidence": [0.5]}
        write_predictions(tmp_path / f"{name}.parquet", columns, overwrite=True, **options)

    write("a", 0, classes=(0, 1), num_samples=2, data={"length": 2})
    write("b", 1, classes=(0, 1), num_samples=2, data={"length": 2})
    found = read_predictions(tmp_path)
    assert (found.classes, found.dataset_size, found.data) == ((0, 1), 2, {"length": 2})
    write("b", 1, classes=(0, 1), num_samples=2, data={"length": 3})
    assert read_predictions(tmp_path).data is None
    write("b", 1, classes=(0, 1, 2), num_samples=2)
    refused(tmp_path, "must have files of one model")


@pytest.mark.parametrize("log", ["_delta_log", ".hoodie"])
def test_a_table_with_deleted_files_is_refused(log: str, tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", rows())
    (tmp_path / log).mkdir()
    refused(tmp_path, f"is a table with a log .{log}.*Write the table as one Parquet file")


def arrow_bytes(stream: bool) -> bytes:
    table = pa.table(rows(200))
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("ending", "whole"),
    [
        (".arrow", arrow_bytes(stream=False)),
        (".feather", arrow_bytes(stream=True)),
        (".csv.gz", gzip.compress((HEADER + "".join(f"s{n},{n},{n}\n" for n in range(200))).encode())),
        (
            ".jsonl.gz",
            gzip.compress("".join(f'{{"sample_id":{n},"target":{n},"pred":{n}}}\n' for n in range(200)).encode()),
        ),
    ],
    ids=["arrow file", "arrow stream", "csv.gz", "jsonl.gz"],
)
def test_a_file_cut_anywhere_is_refused(ending: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"p{ending}"
    for cut in [*range(0, len(whole), 97), len(whole) - 1, len(whole) - 8, len(whole) - 9]:
        path.write_bytes(whole[:cut])
        refused(path, r"p\..* (cannot be read as|is cut off)")
    path.write_bytes(whole)
    assert read_predictions(path).num_samples == 200


def test_an_arrow_stream_that_ends_between_two_batches(tmp_path: Path) -> None:
    """Arrow takes it for whole."""
    whole = arrow_bytes(stream=True)
    ends = [place for place in range(8, len(whole) - 8) if whole[place : place + 4] == b"\xff\xff\xff\xff"]
    silent = []
    for cut in ends:
        try:
            count = pa.ipc.open_stream(whole[:cut]).read_all().num_rows
        except (pa.ArrowException, OSError):
            continue
        silent.append(count)
        (tmp_path / "p.arrow").write_bytes(whole[:cut])
        refused(tmp_path / "p.arrow", "is cut off")
    assert {50, 100, 150} <= set(silent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sample_id":"a","target":{"x":1},"pred":1}\n', "column 'target' must be integer or text labels, got struct"),
        ('{"sample_id":["a"],"target":1,"pred":1}\n', "must be text or integers"),
        ('{"sample_id":"a","target":1,"pred":1,"pred":2}\n', "cannot be read as JSONL .*specified twice"),
        ('{"sample_id":"a","target":1,"pred":1}\n{"target":1,"pred":1}\n', "'sample_id' must name every sample"),
        ('{"sample_id":"a","target":1,"pred":1}\n{"sample_id":"b","target":1}\n', "'pred' must hold a label"),
        ('{"sample_id":"a","target":1,"pred":1}\n{"sample_id":5,"target":1,"pred":1}\n', "from string to number"),
        ('{"sample_id":"a","target":1,"pred":1}\n{"sample_id":', "cannot be read as JSONL"),
        ('[{"sample_id":"a","target":1,"pred":1}]', "cannot be read as JSONL"),
        ("", "cannot be read as JSONL .*Empty JSON"),
        ("\n\n", "cannot be read as JSONL|must have"),
        ('{"id":"a","label":1,"pred":1}\n', "'sample_id'.*'target'"),
    ],
)  # fmt: skip
def test_json_lines_that_are_not_rows(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    refused(tmp_path / "p.jsonl", message)


def test_json_values_stay_what_they_are(tmp_path: Path) -> None:
    lines = (
        '\ufeff{"sample_id":"2020-01-01","target":"2020-01-01","pred":"2021-02-03T04:05:06","confidence":null,"day":"2020-01-01"}',
        '{"pred":"NA","sample_id":"007","target":null,"confidence":NaN,"meta":{"a":[1]},"more":true}',
    )  # fmt: skip
    (tmp_path / "p.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    assert read_predictions(tmp_path / "p.jsonl").rows.to_pydict() == {
        "sample_id": ["2020-01-01", "007"], "target": ["2020-01-01", None], "pred": ["2021-02-03T04:05:06", "NA"],
        "confidence": [None, None], "day": ["2020-01-01", None], "more": [None, True],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/new.parquet", "s3://bucket/new.parquet needs a driver of fsspec that is not installed: .*s3fs"),
        ("gs://bucket/preds/*.csv", "needs a driver of fsspec that is not installed: .*gcsfs"),
        ("nothing://bucket/new.csv", "needs a driver of fsspec .*nothing"),
        ("memory://x/new.pkl", "must end in one of"),
        ("https://127.0.0.1:1/new.csv", r"127.0.0.1:1/new.csv cannot be read as CSV \(FileNotFound.*connect"),
    ],
)
def test_urls_that_cannot_be_read(url: str, message: str) -> None:
    refused(url, message)


def test_a_url_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    refused("memory://x/new.csv", "fsspec must be installed: pip install fsspec")


def test_parts_at_a_url_are_named_by_it() -> None:
    with fsspec.open("memory://bucket/preds/a.csv", "w") as file:
        file.write(HEADER + "a,1,1\n")
    with fsspec.open("memory://bucket/preds/b.csv", "w") as file:
        file.write(HEADER + "b,1\n")
    refused("memory://bucket/preds", r"memory://.*bucket/preds/b\.csv cannot be read as CSV")
    assert read_predictions("memory://bucket/preds/a.*").name == "memory://bucket/preds/a.*"


def test_a_file_on_the_own_machine_by_its_url(tmp_path: Path) -> None:
    path = put(tmp_path / "p.parquet", rows())
    assert ids(f"file://{path}") == ["s0", "s1"]
    assert reads_file(f"file://{path}", os.path.relpath(path))


def test_what_a_place_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "preds" / "a.parquet", rows())
    (tmp_path / "link").symlink_to("preds")
    (tmp_path / "one.parquet").symlink_to("preds/a.parquet")
    monkeypatch.chdir(tmp_path)
    assert all(
        reads_file(place, "preds/a.parquet") for place in ("preds", "link", "link/*.parquet", "one.parquet", ".")
    )
    assert all(reads_file(place, "preds/new.parquet") for place in ("preds/", "link", "link/*.parquet", "p*/*", "."))
    assert not any(reads_file(place, "preds2/a.parquet") for place in ("preds", "preds/*.parquet", "link"))
    assert not any(reads_file(place, "preds/a.json") for place in ("preds/*.parquet", "one.parquet", "memory://preds"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sample_id;target;pred;confidence\n1,0;1,0;2;0,5\n2;2,0;2,0;1e-1\n3;;2;\n",
         ["1,0", [1, 2, None], [2, 2, 2], [0.5, 0.1, None]]),
        ("sample_id;target;pred;confidence\n1,0;a,5;2,5;,5\n2;2;2,5;NA\n",
         ["1,0", ["a,5", "2"], ["2,5", "2,5"], [0.5, None]]),
        ('"sample_id";"target";"pred";"confidence"\n"1,0";"1";"2";"1,5E-01"\n', ["1,0", [1], [2], [0.15]]),
        ("sep=\t\nsample_id\ttarget\tpred\tconfidence\n1,0\t1\t2\t0,25\n", ["1,0", [1], [2], [0.25]]),
        ('sample_id,target,pred,confidence,"a;b;c"\n"1,0",1,2,.5,x\n', ["1,0", [1], [2], [0.5]]),
        ("\n\nsample_id;target;pred;confidence\n1,0;1;2;0,5\n", ["1,0", [1], [2], [0.5]]),
    ],
)  # fmt: skip
def test_csv_of_spreadsheets(text: str, expected: list[Any], tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    found = read_predictions(tmp_path / "p.csv").rows
    assert found["sample_id"][0].as_py() == expected[0]
    assert [found[name].to_pylist() for name in ("target", "pred")] == expected[1:3]
    assert found["confidence"].to_pylist() == pytest.approx(expected[3])


def test_utf_16_is_told(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-be"):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        (tmp_path / "p.csv").write_bytes((mark + HEADER + "a,1,2\n").encode(encoding))
        refused(tmp_path / "p.csv", "cannot be read as CSV: it is UTF-16. Save it as UTF-8")


def test_ids_that_a_float_cannot_tell_apart(tmp_path: Path) -> None:
    put(tmp_path / "p.parquet", rows() | {"sample_id": pa.array([2.0**53, 2.0**53 + 2])})
    refused(tmp_path / "p.parquet", r"must be ids that a float can tell apart, up to 2\*\*53")
    put(tmp_path / "p.parquet", rows() | {"sample_id": pa.array([2.0**53, -1.0])})
    assert ids(tmp_path / "p.parquet") == ["9007199254740992", "-1"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["1.5", "2.0"]).cast(pa.decimal128(4, 1)), "'sample_id' must be whole numbers"),
        (pa.array(["1", None]).cast(pa.decimal128(4, 0)), "must name every sample, but 1 of 2"),
        (pa.array([b"0" * 16, None], pa.uuid()), "must name every sample, but 1 of 2"),
        (pa.array([2**64 - 1, None], pa.uint64()), "must name every sample, but 1 of 2"),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_ids_of_wide_types_that_are_none(column: pa.Array, message: str, tmp_path: Path) -> None:
    put(tmp_path / "p.parquet", rows() | {"sample_id": column})
    refused(tmp_path / "p.parquet", message)


def test_all_missing_columns_are_named_with_what_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image_id,Label,y_hat,sampel_id,proba\na,1,2,3,.5\n")
    with pytest.raises(PredictionError) as caught:
        read_predictions(tmp_path / "p.csv", confidence_column="confidence")
    assert str(caught.value) == (
        f"{tmp_path}/p.csv must have the columns 'sample_id' (the sample's lasting id), 'target' (the true label),"
        " 'pred' (the predicted label), 'confidence' (the probability of the prediction), but has ['image_id', 'Label',"
        " 'y_hat', 'sampel_id', 'proba']. Pass id_column='image_id' (--id-column image_id; or 'sampel_id'),"
        " target_column='Label' (--target-column Label), pred_column='y_hat' (--pred-column y_hat),"
        " confidence_column='proba' (--confidence-column proba)."
    )


@pytest.mark.parametrize("name", ["label", "labels", "y", "y_true", "True Label", "GroundTruth", "targte", "targets"])
def test_usual_names_are_offered_and_never_taken(name: str, tmp_path: Path) -> None:
    put(tmp_path / "p.parquet", {"sample_id": ["a"], name: [1], "pred": [1], "other": [1]})
    typed = f"'{name}'" if " " in name else name
    refused(tmp_path / "p.parquet", rf"Pass target_column='{name}' \(--target-column {typed}\)\.")
    assert read_predictions(tmp_path / "p.parquet", target_column=name).num_samples == 1


def test_thousands_of_columns_are_not_listed(tmp_path: Path) -> None:
    put(tmp_path / "p.parquet", {f"feature{number}": [1] for number in range(3000)})
    with pytest.raises(PredictionError, match=r"\.\.\. 2970 more") as caught:
        read_predictions(tmp_path / "p.parquet")
    assert len(str(caught.value)) < 2000
