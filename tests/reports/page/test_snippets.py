"""Texts belong to the samples that the file names, and are short."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip.reports.page._snippets import LONGEST_SNIPPET, read_snippets
from lightning_flip.stores.errors import HistoryError
from tests.reports.report_runs import HOSTILE

NAMED = pa.table({"index": [0, 1, 2], "sample_id": ["a", "b", "c"]})
UNNAMED = pa.table({"index": [0, 1, 2], "sample_id": pa.nulls(3, pa.string())})


@pytest.fixture(params=["csv", "tsv", "parquet"])
def written(request, tmp_path):
    def write(columns: dict[str, list]) -> str:
        path = tmp_path / f"texts.{request.param}"
        table = pa.table(columns)
        if request.param == "parquet":
            pq.write_table(table, path)
        else:
            options = pa.csv.WriteOptions(delimiter="," if request.param == "csv" else "\t")
            pa.csv.write_csv(table, path, options)
        return str(path)

    return write


def test_by_id(written):
    place = written({"sample_id": ["c", "a"], "index": [0, 2], "text": ["third", "first"]})
    found = read_snippets(f"{place}/text", NAMED, [0, 1, 2])
    assert found.text == {0: "first", 2: "third"}
    assert found.notes == (f"1 of 3 samples have no text in {place.rsplit('/', 1)[1]}.",)


def test_by_index_where_samples_have_no_ids(written):
    place = written({"sample_id": ["c", "a"], "index": [2, 0], "text": ["third", "first"]})
    assert read_snippets(f"{place}/text", UNNAMED, [2, 0]).text == {2: "third", 0: "first"}


def test_by_row_where_nothing_names_samples(written):
    place = written({"text": ["first", "second", "third"], "other": [1, 2, 3]})
    assert read_snippets(f"{place}/text", NAMED, [2]).text == {2: "third"}
    assert read_snippets(f"{place}/other", NAMED, [2]).text == {2: "3"}
    assert read_snippets(f"{place}/text", NAMED, [1, 7]).notes[0].startswith("1 of 2")


def test_ids_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("id,text\n007,agent\n7,seven\n")
    samples = pa.table({"index": [0, 1], "sample_id": ["7", "007"]})
    assert read_snippets(f"{tmp_path}/t.csv/text", samples, [0, 1]).text == {0: "seven", 1: "agent"}


def test_a_snippet_is_one_short_line_of_what_can_be_printed(written):
    texts = [*HOSTILE, "word " * 100, "x" * 1000, "two\n\nlines\t\x1b[31m"]
    place = written({"text": texts})
    found = read_snippets(f"{place}/text", NAMED, range(len(texts))).text
    for text in found.values():
        assert len(text) <= LONGEST_SNIPPET
        assert text.isprintable()
    assert found[0] == HOSTILE[0]
    assert found[len(texts) - 3].endswith("word …")
    assert len(found[len(texts) - 2]) == LONGEST_SNIPPET
    assert found[len(texts) - 1] == "two lines [31m"


def test_a_column_with_a_slash(written):
    place = written({"a/b": ["first"], "b": ["wrong"]})
    assert read_snippets(f"{place}/a/b", NAMED, [0]).text == {0: "first"}


@pytest.mark.parametrize("place", ["", "text", "/", "gone.csv/text", "gone/", "{}", "{}/"])
def test_a_place_that_is_none_is_an_error(tmp_path, place):
    (tmp_path / "t.csv").write_text("text\na\n")
    with pytest.raises(HistoryError, match=r"FILE/COLUMN"):
        read_snippets(place.format(tmp_path / "t.csv"), NAMED, [0])


def test_a_missing_column_names_those_there(written):
    place = written({"title": ["a"], "body": ["b"]})
    with pytest.raises(HistoryError, match=r"no columns text; it has title, body"):
        read_snippets(f"{place}/text", NAMED, [0])


@pytest.mark.parametrize(("name", "content"), [("t.csv", b""), ("t.csv", b"text\n\xff\n"), ("t.parquet", b"PAR1")])
def test_a_damaged_file_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HistoryError, match="read as"):
        read_snippets(f"{tmp_path / name}/text", NAMED, [0])


def test_another_kind_of_file_is_an_error(tmp_path):
    (tmp_path / "t.txt").write_text("a")
    with pytest.raises(HistoryError, match=r"ends in .csv, .tsv, .parquet"):
        read_snippets(f"{tmp_path}/t.txt/text", NAMED, [0])
