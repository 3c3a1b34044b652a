import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip.reports import JoinedPredictions
from lightning_flip.reports.update.flip_rows import FLIP_FORMATS, flip_format, flip_table, flip_writer

NAMES = ["sample_id", "flip", "target", "old_pred", "new_pred", "old_confidence", "new_confidence", "site"]


def joined(samples: int = 200, labels: tuple[Any, ...] = ("cat", "dog", "=1+1"), seed: int = 0) -> JoinedPredictions:
    draw = np.random.default_rng(seed)
    target, old, new = draw.integers(0, len(labels), (3, samples))
    sure = draw.random((2, samples))
    sure[1, ::7] = np.nan
    site = np.array([["", "day", "a\nb"][code] for code in draw.integers(0, 3, samples)], object)
    ids = pa.array([f"@{position}" for position in range(samples)])
    return JoinedPredictions(ids, labels, target, old, new, sure[0], sure[1], slices={"site": site})


def expected(data: JoinedPredictions) -> list[dict[str, Any]]:
    """From the definitions, one sample at a time."""
    rows: dict[str, list[dict[str, Any]]] = {"negative": [], "positive": []}
    for place, name in enumerate(data.ids.to_pylist()):
        old_right = data.old_pred[place] == data.target[place]
        new_right = data.new_pred[place] == data.target[place]
        if old_right == new_right:
            continue
        flip = "negative" if old_right else "positive"
        label = [data.labels[codes[place]] for codes in (data.target, data.old_pred, data.new_pred)]
        sure = [values[place] for values in (data.old_confidence, data.new_confidence)]
        known = [None if np.isnan(one) else float(one) for one in sure]
        cells = [name, flip, *label, *known, data.slices["site"][place] or None]
        rows[flip].append(dict(zip(NAMES, cells, strict=True)))
    return rows["negative"] + rows["positive"]


def written(data: JoinedPredictions, ending: str) -> io.BytesIO:
    stream = io.BytesIO()
    flip_writer(data, ending)(stream)
    return io.BytesIO(stream.getvalue())


@pytest.mark.parametrize("labels", [("cat", "dog", "=1+1"), (-3, 7, 12)])
def test_every_flip_is_a_row(labels):
    data = joined(labels=labels)
    rows = expected(data)
    assert len(rows) > 50
    assert flip_table(data).to_pylist() == rows
    assert pq.read_table(written(data, ".parquet")).to_pylist() == rows
    assert [json.loads(line) for line in written(data, ".jsonl")] == rows


def test_no_cell_of_the_csv_is_a_formula():
    data = joined()
    rows = list(csv.DictReader(io.TextIOWrapper(written(data, ".csv"), "utf-8", newline="")))
    right = [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in expected(data)]
    for row in right:
        for name, cell in row.items():
            row[name] = f"'{cell}" if cell.startswith(("@", "=")) else cell
    assert rows == right


@pytest.mark.parametrize("ending", FLIP_FORMATS)
def test_more_rows_than_are_written_at_a_time(ending):
    data = joined(45_000)
    count = len(flip_table(data))
    assert count > 10_000
    if ending == ".parquet":
        assert pq.read_table(written(data, ending)).num_rows == count
    else:
        lines = list(io.TextIOWrapper(written(data, ending), "utf-8", newline=""))
        ids = [line.split(",")[0] for line in lines if "@" in line]
        assert len(ids) == len(set(ids)) == count


@pytest.mark.parametrize("ending", FLIP_FORMATS)
def test_without_flips_only_the_names_are_written(ending):
    data = joined(1)
    same = JoinedPredictions(data.ids, data.labels, data.target, data.target, data.target)
    stream = written(same, ending)
    if ending == ".parquet":
        assert pq.read_table(stream).to_pylist() == []
        assert pq.read_table(stream).column_names == NAMES[:-1]
    else:
        assert stream.read().decode() == ("" if ending == ".jsonl" else ",".join(NAMES[:-1]) + "\n")


def test_confidences_that_a_file_lacks_are_null():
    code = np.array([0, 1])
    data = JoinedPredictions(pa.array(["a", "b"]), (0, 1), code, code, code[::-1])
    assert flip_table(data)["old_confidence"].to_pylist() == [None, None]


def test_a_slice_named_like_a_column_keeps_both():
    code = np.array([0, 1])
    slices = {"target": np.array(["x", "y"], object)}
    table = flip_table(JoinedPredictions(pa.array(["a", "b"]), (0, 1), code, code, code[::-1], slices=slices))
    assert table["target"].to_pylist() == [0, 1]
    assert table["slice_target"].to_pylist() == ["x", "y"]


def test_the_ending_is_the_format():
    assert flip_format("out/flips.CSV") == ".csv"
    for path in ("flips", "flips.xlsx", "flips.csv.gz", "-"):
        with pytest.raises(ValueError, match=r"must end in \.csv, \.parquet or \.jsonl, got"):
            flip_format(path)
