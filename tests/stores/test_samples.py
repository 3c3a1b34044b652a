from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.stores import HistoryError, read_samples
from lightning_flip.stores.history.samples import write_samples

BATCH = st.lists(
    st.tuples(st.sampled_from(["train", "val", "a"]), st.integers(0, 2), st.integers(0, 4), st.integers(0, 99)),
    max_size=12,
)


@settings(deadline=None, max_examples=40)  # each example flushes files to disk
@given(batches=st.lists(BATCH, min_size=1, max_size=4))
def test_the_newest_row_of_a_sample_wins(tmp_path_factory: pytest.TempPathFactory, batches: list) -> None:
    folder = tmp_path_factory.mktemp("run")
    known: dict[tuple[str, int, int], int] = {}
    for batch in batches:
        for split, loader, index, target in batch:
            known[split, loader, index] = target
        split, loader, index, target = zip(*batch, strict=True) if batch else ([], [], [], [])
        write_samples(folder, {"split": split, "loader": loader, "index": index, "target": target})
    rows = read_samples(folder).to_pylist()
    assert [(row["split"], row["loader"], row["index"], row["target"]) for row in rows] == [
        (*key, target) for key, target in sorted(known.items())
    ]


def test_columns_and_their_types(tmp_path: Path) -> None:
    write_samples(
        tmp_path,
        {
            "split": "train",
            "index": np.array([0, 1]),
            "source": np.array([0, 1]),
            "source_index": np.array([7, 0]),
            "sample_id": ["a/ü.png", None],
            "target": np.array([3, 4]),
            "true_target": [3, None],
        },
    )
    table = pq.read_table(tmp_path / "samples.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("split", "string"),
        ("loader", "int16"),
        ("index", "int64"),
        ("source_index", "int64"),
        ("source", "int32"),
        ("sample_id", "string"),
        ("target", "int32"),
        ("true_target", "int32"),
    ]
    assert table.to_pylist()[0] == {
        "split": "train",
        "loader": 0,
        "index": 0,
        "source_index": 7,
        "source": 0,
        "sample_id": "a/ü.png",
        "target": 3,
        "true_target": 3,
    }
    assert table.to_pylist()[1]["sample_id"] is None
    assert table.to_pylist()[1]["true_target"] is None


def test_a_table_does_as_well_and_the_source_index_defaults_to_the_index(tmp_path: Path) -> None:
    write_samples(tmp_path, pa.table({"split": ["val"] * 2, "index": [4, 2], "target": [0, 1]}))
    assert read_samples(tmp_path)["source_index"].to_pylist() == [2, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [0]}, "as long as"),
        ({"target": [0, 2**40]}, "target"),
        ({"target": ["cat", "dog"]}, "target"),
        ({"index": [0, -1]}, "index"),
        ({"label": [0, 1]}, r"unknown: \['label'\]"),
        ({"split": ["train", None]}, "split"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_samples(tmp_path, {"split": "train", "index": [0, 1], "target": [0, 1]} | change)
    assert not (tmp_path / "samples.parquet").exists()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing: \['split', 'target'\]"):
        write_samples(tmp_path, {"index": [0]})


def test_a_damaged_file_is_named_and_kept(tmp_path: Path) -> None:
    path = write_samples(tmp_path, {"split": "train", "index": [0, 1], "target": [0, 1]})
    path.write_bytes(path.read_bytes()[:-20])
    before = path.read_bytes()
    for action in (
        lambda: read_samples(tmp_path),
        lambda: write_samples(tmp_path, {"split": "a", "index": [0], "target": [0]}),
    ):
        with pytest.raises(HistoryError, match=r"samples\.parquet is damaged"):
            action()
    assert path.read_bytes() == before


def test_somebody_elses_file_is_kept(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "samples.parquet")
    with pytest.raises(HistoryError, match="not written by lightning-flip"):
        write_samples(tmp_path, {"split": "a", "index": [0], "target": [0]})
