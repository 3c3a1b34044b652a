from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.stores import read_history
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, list_parts, read_part, set_aside, write_part
from lightning_flip.stores.history.samples import write_samples
from tests.oracles.suspects import other_probability, visits_of

COLUMNS = [
    "split",
    "loader",
    "epoch",
    "pass",
    "global_step",
    "index",
    "pred",
    "best_other",
    "prob_label",
    "logit_margin",
    "cross_entropy",
    "visit",
]
FLOATS = st.floats(width=32, allow_nan=False)
ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2**31 - 1), FLOATS, st.integers(0, 10**12))
)


@settings(deadline=None, max_examples=40)  # each example flushes files to disk
@given(rows=ROWS)
def test_round_trip_sorts_counts_visits_and_keeps_every_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    loader, index, pred, measure, step = (np.array([row[i] for row in rows]) for i in range(5))
    integers = {"loader": loader, "index": index, "pred": pred, "global_step": step, "best_other": index % 3 - 1}
    measures = dict.fromkeys(["prob_label", "logit_margin", "cross_entropy"], measure.astype(np.float32))
    columns = {name: values.astype(np.int64) for name, values in integers.items()} | measures
    path = write_part(tmp_path_factory.mktemp("run"), PartKey("val", 7, 2, 3), columns)

    expected: list[tuple[float, ...]] = []
    earlier: dict[tuple[int, int], int] = {}
    for row in rows:
        visit = earlier.get(row[:2], 0)
        earlier[row[:2]] = visit + 1
        expected.append((row[0], row[1], visit, row[2], float(row[3]), row[4]))
    expected.sort(key=lambda row: row[:3])
    table = pq.read_table(path)
    assert table.column_names == COLUMNS
    names = ["loader", "index", "visit", "pred", "logit_margin", "global_step"]
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == expected
    assert table["cross_entropy"].to_pylist() == table["prob_label"].to_pylist() == table["logit_margin"].to_pylist()
    assert table["best_other"].to_pylist() == [row[1] % 3 - 1 for row in expected]
    assert {tuple(row.values()) for row in table.select(["split", "epoch", "pass"]).to_pylist()} <= {("val", 7, 2)}


def test_types_and_encodings(tmp_path: Path, write_rows: Callable) -> None:
    path = write_rows(tmp_path, [{"index": i, "pred": i % 3} for i in range(1000)])
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert types == {
        "split": "string",
        "loader": "int16",
        "epoch": "int32",
        "pass": "int32",
        "global_step": "int64",
        "index": "int64",
        "pred": "int32",
        "best_other": "int32",
        "prob_label": "float",
        "logit_margin": "float",
        "cross_entropy": "float",
        "visit": "int32",
    }
    group = pq.ParquetFile(path).metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i) for i in range(12)}
    assert {column.compression for column in encodings.values()} == {"ZSTD"}
    with_dictionary = {name for name, column in encodings.items() if "RLE_DICTIONARY" in column.encodings}
    assert with_dictionary == {"split", "loader", "epoch", "pass", "pred", "best_other", "visit"}
    assert not any("BYTE_STREAM_SPLIT" in column.encodings for column in encodings.values())


def test_half_precision_stays_half(tmp_path: Path) -> None:
    measures = dict.fromkeys(["prob_label", "prob_pred", "logit_margin", "cross_entropy"], np.array([0.1], np.float16))
    integers = dict.fromkeys(["global_step", "index", "pred"], np.array([0]))
    path = write_part(tmp_path, PartKey("val", 0, 0, 0), integers | measures)
    assert str(pq.read_schema(path).field("prob_pred").type) == "halffloat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": np.array([0.0, 1.0])}, r"'pred'.*integers, got float64"),
        ({"pred": np.array([0, 2**31])}, "'pred'.*2147483648"),
        ({"index": np.array([0, -1])}, "'index'"),
        ({"loader": np.array([0, 2**15])}, "'loader'"),
        ({"prob_label": np.array([0, 1])}, r"'prob_label'.*floating point"),
        ({"prob_label": np.zeros(3)}, "'prob_label'.*as long as"),
        ({"prob_label": np.zeros((2, 1))}, "'prob_label'.*1-D"),
        ({"index": np.array(0)}, "'index'|1-D"),
        ({"best_other": np.array([0, 1])}, r"unknown: \['prob_pred'\]"),
        ({"visit": np.array([0, 0])}, r"unknown: \['visit'\]"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    columns: dict[str, np.ndarray] = dict.fromkeys(["loader", "global_step", "index", "pred"], np.arange(2))
    columns |= dict.fromkeys(["prob_label", "prob_pred", "logit_margin", "cross_entropy"], np.zeros(2))
    with pytest.raises(ValueError, match=message):
        write_part(tmp_path, PartKey("train", 0, 0, 0), columns | change)
    assert not (tmp_path / "history").exists()


def both_versions(folder: Path, dtype: type) -> tuple[list, Path, Path]:
    """The same visits, many of them nearly hopeless or certain, as 0.1 wrote them and as they are written now."""
    rng = np.random.default_rng(0)
    scale = rng.choice([0.3, 3.0, 30.0], size=(2, 40, 1))
    logits, label = rng.normal(size=(2, 40, 4)) * scale, rng.integers(0, 4, 40)
    visits = visits_of(logits, label)
    for version in ("old", "new"):
        open_run(folder / version, run_id=None, info={})
        write_samples(folder / version, {"split": "train", "index": np.arange(40), "target": label})
    for epoch in range(2):
        rows = [visit for visit in visits if visit.epoch == epoch]
        probs = np.exp(logits[epoch] - logits[epoch].max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        columns = {"index": np.arange(40), "global_step": np.arange(40), "pred": logits[epoch].argmax(axis=1)}
        for name in ("prob_label", "logit_margin", "cross_entropy"):
            columns[name] = np.array([getattr(row, name) for row in rows], dtype)
        key = PartKey("train", epoch, 0, 0)
        write_part(folder / "old", key, columns | {"prob_pred": probs.max(axis=1).astype(dtype)})
        write_part(folder / "new", key, columns | {"best_other": np.array([row.best_other for row in rows])})
    return visits, folder / "old", folder / "new"


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-5), (np.float16, 0.04)])
def test_files_of_both_versions_say_the_same(tmp_path: Path, dtype: type, close: float) -> None:
    visits, old, new = both_versions(tmp_path, dtype)
    before, now = read_history(old), read_history(new)
    assert now.statistics("train").equals(before.statistics("train"))
    left, right = before.to_arrow("train"), now.to_arrow("train")
    assert left.schema == right.schema
    computed = ["best_other", "prob_pred"]
    assert left.drop_columns(computed).equals(right.drop_columns(computed))
    np.testing.assert_allclose(np.asarray(right["prob_pred"]), np.asarray(left["prob_pred"]), rtol=close)
    # 0.1 tells the best other class where it won.
    told, wrong = left["best_other"].to_pylist(), np.asarray(left["logit_margin"]) < 0
    assert right["best_other"].to_pylist() == [visit.best_other for visit in visits]
    assert told == [visit.best_other if bad else None for visit, bad in zip(visits, wrong, strict=True)]
    assert 10 < wrong.sum() < 70


def test_some_columns_of_a_part_are_read_alone(tmp_path: Path) -> None:
    visits, old, new = both_versions(tmp_path, np.float32)
    for folder in (old, new):
        (first, _) = list_parts(folder).values()
        assert read_part(first, ["prob_pred", "index"]).column_names == ["prob_pred", "index"]
        sure = [max(visit.prob_label, other_probability(visit)) for visit in visits[:40]]
        assert read_part(first, ["prob_pred"])["prob_pred"].to_pylist() == pytest.approx(sure, rel=1e-5)
        assert read_part(first, ["best_other"]).column_names == ["best_other"]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing: .*'pred'"):
        write_part(tmp_path, PartKey("train", 0, 0, 0), {"index": np.arange(2)})


@pytest.mark.slow
@given(
    split=st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.\-]*", fullmatch=True),
    numbers=st.tuples(*[st.integers(0, 10**7)] * 3),
)
def test_file_names_read_back(split: str, numbers: tuple[int, int, int]) -> None:
    key = PartKey(split, *numbers)
    assert PartKey.parse(key.filename) == key


def test_file_name_is_as_documented() -> None:
    assert PartKey("train", 3, 0, 0).filename == "train/epoch-0003-pass-0-rank-00000.parquet"


@pytest.mark.parametrize(
    "filename",
    [
        "train/epoch-3-pass-0-rank-00000.parquet",
        "train/epoch-00003-pass-0-rank-00000.parquet",
        "train/epoch-0003-pass-0-rank-00000.parquet.orphan",
        "../epoch-0003-pass-0-rank-00000.parquet",
        "epoch-0003-pass-0-rank-00000.parquet",
    ],
)
def test_other_file_names_are_nobodys(filename: str) -> None:
    with pytest.raises(ValueError, match="filename"):
        PartKey.parse(filename)


@pytest.mark.parametrize("split", ["", "..", "a/b", ".hidden", "-x", "a b", "é", "train\n"])
def test_splits_that_cannot_name_a_folder(split: str) -> None:
    with pytest.raises(ValueError, match="split"):
        PartKey(split, 0, 0, 0)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="rank must be 0 or more, got -1"):
        PartKey("train", 0, 0, -1)


def test_parts_are_listed_in_the_order_of_time(tmp_path: Path, write_rows: Callable) -> None:
    keys = [
        PartKey("train", 9999, 0, 0),
        PartKey("train", 10000, 0, 0),
        PartKey("train", 10000, 2, 1),
        PartKey("train", 10000, 10, 0),
    ]
    for key in reversed(keys):
        write_rows(tmp_path, [], key.split, key.epoch, key.pass_, key.rank)
    (tmp_path / "history" / "train" / "epoch-1.parquet").touch()
    assert list(list_parts(tmp_path)) == keys


def test_an_unfinished_pass_is_set_aside_with_all_its_ranks(tmp_path: Path, write_rows: Callable) -> None:
    for epoch in (0, 1):
        for rank in range(4):
            write_rows(tmp_path, [{"index": rank}], epoch=epoch, rank=rank)
    write_rows(tmp_path, [{"index": 0}], "val", 0)
    contents = {key: path.read_bytes() for key, path in list_parts(tmp_path).items()}
    # The run goes on with one rank: the finished epoch keeps the parts of ranks that are no more.
    moved = set_aside(tmp_path, {("train", 0, 0)})
    assert list(list_parts(tmp_path)) == [PartKey("train", 0, 0, rank) for rank in range(4)]
    assert len(moved) == 5
    left = {path.read_bytes() for path in [*moved, *list_parts(tmp_path).values()]}
    assert left == set(contents.values())


def test_an_orphan_never_overwrites_another(tmp_path: Path, write_rows: Callable) -> None:
    names, contents = [], []
    for pred in range(3):
        contents.append(write_rows(tmp_path, [{"index": 0, "pred": pred}]).read_bytes())
        names.extend(set_aside(tmp_path, set()))
    assert [path.name.removeprefix("epoch-0000-pass-0-rank-00000.parquet") for path in names] == [
        ".orphan",
        ".1.orphan",
        ".2.orphan",
    ]
    assert [path.read_bytes() for path in names] == contents
    assert set_aside(tmp_path, set()) == []


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path, write_rows: Callable) -> None:
    part = write_rows(tmp_path, [{"index": 0}])
    stale = part.with_name(f".{part.name}.0123456789ab.tmp")
    stale.write_bytes(b"PAR1")
    note = part.with_name(".note.tmp")
    note.touch()
    assert set_aside(tmp_path, {("train", 0, 0)}) == []
    assert not stale.exists()
    assert part.exists()
    assert note.exists()
