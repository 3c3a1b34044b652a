"""Recorded paths written and read back, and what is wrong with a file."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.stores import HistoryError, read_paths, read_zigzag, write_zigzag
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.history.parts import PartKey, list_parts
from lightning_flip.stores.paths import path_bytes, write_path_part


def columns(index, step, probs, target=None):
    target = [0] * len(index) if target is None else target
    rows = {"index": np.array(index), "global_step": np.array(step), "target": np.array(target)}
    return {**rows, "probs": np.array(probs, np.float32).reshape(len(index), -1)}


@pytest.fixture
def run(tmp_path):
    open_run(tmp_path / "run", run_id=None, info={})
    return tmp_path / "run"


def write(folder, rows, mode="visits", epoch=0, rank=0, number=0):
    return write_path_part(folder, PartKey(mode, epoch, number, rank), columns(*rows))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 4), st.integers(0, 1)),
        min_size=1,
        max_size=25,
        unique_by=lambda row: row[:3],
    )
)
def test_visits_come_back_by_epoch_and_visit(tmp_path_factory, rows):
    """Rows (epoch, step within it, sample, rank), held against plain loops."""
    folder = tmp_path_factory.mktemp("run")
    open_run(folder, run_id=None, info={})
    rng = np.random.default_rng(0)
    entries = [
        (epoch, 10 * epoch + step, sample, rank, rng.random(3, np.float32)) for epoch, step, sample, rank in rows
    ]
    for epoch in range(3):
        for rank in range(2):
            mine = [entry for entry in entries if (entry[0], entry[3]) == (epoch, rank)]
            if mine:
                _, steps, samples, _, probs = zip(*mine, strict=True)
                write(folder, (samples, steps, np.stack(probs)), epoch=epoch, rank=rank)
    paths = read_paths(folder)
    expected = {}
    for sample in range(5):
        for epoch in range(3):
            mine = sorted(
                (entry for entry in entries if (entry[0], entry[2]) == (epoch, sample)), key=lambda row: row[1]
            )
            for visit, entry in enumerate(mine):
                expected[epoch, visit, sample] = entry[1], entry[4]
    moments = sorted({key[:2] for key in expected})
    assert paths.epochs.tolist() == [epoch for epoch, _ in moments]
    assert paths.index.tolist() == sorted({key[2] for key in expected})
    assert paths.recorded.sum() == len(expected)
    for (epoch, visit, sample), (step, probs) in expected.items():
        time, place = moments.index((epoch, visit)), paths.index.tolist().index(sample)
        assert paths.sample_steps[time, place] == step
        np.testing.assert_array_equal(paths.path[time, place], probs)
    assert np.isnan(paths.path[~paths.recorded]).all()
    assert paths.steps.tolist() == [min(step for key, (step, _) in expected.items() if key[:2] == m) for m in moments]


def test_passes_are_told_by_their_step(run):
    """A sample chosen late is not shifted to the front."""
    write(run, ([1, 1, 2], [0, 5, 5], [[1.0, 0], [0.8, 0.2], [0.5, 0.5]]), mode="eval")
    paths = read_paths(run)
    assert paths.steps.tolist() == [0, 5]
    assert paths.recorded.tolist() == [[True, False], [True, True]]
    steps, path = paths.of(2)
    assert steps.tolist() == [5]
    assert path.tolist() == [[0.5, 0.5]]
    with pytest.raises(KeyError, match="sample 7 was not recorded; there are 2: 1, 2"):
        paths.of(7)


def test_some_samples_and_labels_seen_last(run):
    write(run, ([1, 2, 3], [0, 0, 0], np.eye(3), [0, 1, 2]))
    write(run, ([1, 2], [9, 9], np.eye(2, 3), [2, 1]), epoch=1)
    paths = read_paths(run, samples=[3, 1])
    assert paths.index.tolist() == [1, 3]
    assert paths.target.tolist() == [2, 2]
    with pytest.raises(HistoryError, match="no rows of the samples"):
        read_paths(run, samples=[8])


def test_from_the_folder_of_the_run(tmp_path):
    open_run(tmp_path, run_id=None, info={"whose": "the history's"})
    open_run(tmp_path / "paths", run_id=None, info={"whose": "the paths'"})
    write(tmp_path / "paths", ([1], [0], [[1.0, 0]]))
    assert read_paths(tmp_path).run.info["whose"] == "the paths'"


def test_two_modes_in_one_folder(run):
    write(run, ([1], [0], [[1.0, 0]]))
    write(run, ([1], [0], [[1.0, 0]]), mode="eval")
    with pytest.raises(HistoryError, match="eval and visits; pass mode="):
        read_paths(run)
    assert read_paths(run, mode="eval").mode == "eval"


def test_nothing_to_read(run, tmp_path):
    with pytest.raises(HistoryError, match="nothing was recorded"):
        read_paths(run)
    with pytest.raises(HistoryError, match=r"run\.json does not exist"):
        read_paths(tmp_path / "nowhere")


def test_other_tools_read_a_part(run):
    path = write(run, ([4, 2], [7, 7], [[0.25, 0.75], [1.0, 0.0]]))
    table = pq.read_table(path)
    assert table.schema.names == ["index", "target", "epoch", "global_step", "mode", "probs"]
    assert table.to_pylist()[1] == {
        "index": 4, "target": 0, "epoch": 0, "global_step": 7, "mode": "visits", "probs": [0.25, 0.75]
    }  # fmt: skip
    pandas = pytest.importorskip("pandas")
    assert pandas.read_parquet(path)["probs"][0].tolist() == [1.0, 0.0]
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(path)["probs"].to_list() == [[1.0, 0.0], [0.25, 0.75]]


@pytest.mark.parametrize("size", [0, 40, 300])
def test_half_a_file(run, size):
    path = write(run, ([4, 2], [7, 7], [[0.25, 0.75], [1.0, 0.0]]))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(HistoryError, match="is damaged"):
        read_paths(run)


def test_a_changed_byte_in_the_data(run):
    rng = np.random.default_rng(0)
    path = write(run, (range(50), [0] * 50, rng.random((50, 30))))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(HistoryError, match="is damaged"):
        read_paths(run)


def test_parts_of_another_network_or_another_kind(run):
    write(run, ([1], [0], [[1.0, 0]]))
    other = write(run, ([1], [5], [[1.0, 0, 0]]), epoch=1)
    with pytest.raises(HistoryError, match="3 classes, earlier parts have 2"):
        read_paths(run)
    pq.write_table(pq.read_table(other).replace_schema_metadata(None), other)
    with pytest.raises(HistoryError, match="holds no learning paths"):
        read_paths(run)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"probs": np.zeros(2, np.float32)}, r"float \[V, K\]"),
        ({"probs": np.zeros((2, 3), np.int64)}, r"float \[V, K\]"),
        ({"index": np.zeros(3, np.int64)}, r"integers \[2\]"),
        ({"target": np.zeros(2)}, r"integers \[2\]"),
        ({"pred": np.zeros(2)}, "columns must be"),
    ],
)
def test_columns_that_do_not_fit(run, change, text):
    with pytest.raises(ValueError, match=text):
        write_path_part(run, PartKey("visits", 0, 0, 0), {**columns([1, 2], [0, 0], np.eye(2)), **change})
    with pytest.raises(ValueError, match="one of"):
        write_path_part(run, PartKey("train", 0, 0, 0), columns([1, 2], [0, 0], np.eye(2)))


@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (100, 10), (50, 1000)])
def test_a_file_is_no_larger_than_said(run, samples, classes):
    probs = np.random.default_rng(0).dirichlet(np.ones(classes), samples)
    for epoch in range(3):
        write(run, (range(samples), [epoch] * samples, probs), epoch=epoch)
    size = sum(path.stat().st_size for path in list_parts(run).values())
    assert size <= path_bytes(samples, classes, 3, files=3)
    assert path_bytes(samples, classes, 3) == samples * 3 * (4 * classes + 28)


def test_zigzag_tables(tmp_path):
    good = {"index": [0, 1], "sample_id": ["a", "b"], "target": np.array([1, -1]), "other": np.array([0, -1])}
    good |= {"visits": [2, 0], "zigzag": np.array([0.5, np.nan]), "base_difficulty": np.array([0.25, np.nan])}
    path = write_zigzag(tmp_path, good)
    assert read_zigzag(path).to_pydict() == {
        "index": [0, 1],
        "sample_id": ["a", "b"],
        "target": [1, None],
        "other": [0, None],
        "visits": [2, 0],
        "zigzag": [0.5, None],
        "base_difficulty": [0.25, None],
    }
    with pytest.raises(ValueError, match="as long as 'index'"):
        write_zigzag(tmp_path, {**good, "visits": [1]})
    with pytest.raises(ValueError, match="columns must be"):
        write_zigzag(tmp_path, {"index": [0]})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(HistoryError, match="is damaged"):
        read_zigzag(tmp_path)
