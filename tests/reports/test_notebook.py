"""What a notebook and a terminal show, and that a table that shows itself is still an Arrow table."""

from __future__ import annotations

import base64
import copy
import inspect
import io
import pickle
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lightning_flip import reports
from lightning_flip.reports.figures.canvas import new_figure
from lightning_flip.reports.pictures import picture_of, png_of
from lightning_flip.reports.shown_table import ShownTable
from lightning_flip.reports.text import PlainTable, squeezed, terminal_text
from lightning_flip.stores import History, PredictionSet, read_history
from tests.reports.recorded import record_logits

EVIL = "<script>alert('\"&amp;')</script>\x1b[31m"


class Parsed(HTMLParser):
    """Tags, and the text of cells row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.sources += [str(value) for name, value in attrs if name == "src"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def logits_for(passes: list[list[int]], strength: float = 2.0) -> np.ndarray:
    """Logits [E, N, 2] that predict the classes of the passes."""
    return strength * np.eye(2)[np.array(passes)]


@pytest.fixture
def run(tmp_path: Path) -> History:
    """Six samples in four epochs; sample 4 is never right, and sample 3 was forgotten."""
    passes = [[0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 1, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0]]
    record_logits(tmp_path / "run", logits_for(passes, 4.0), np.array([0, 1, 1, 0, 0, 0]))
    return read_history(tmp_path / "run")


class TestShownTable:
    def test_other_tools_read_the_arrow_table(self, run: History, tmp_path: Path) -> None:
        found = run.suspects(3)
        plain = found.rows
        assert type(plain) is pa.Table
        assert pa.table(found) == plain
        assert found == plain
        assert plain == found
        assert polars.DataFrame(found).equals(polars.from_arrow(plain))
        assert polars.from_arrow(found.rows).equals(polars.from_arrow(plain))
        assert duckdb.from_arrow(found).fetchall() == duckdb.from_arrow(plain).fetchall()
        assert found.to_pandas().equals(plain.to_pandas())
        pq.write_table(pa.table(found), tmp_path / "found.parquet")
        assert pq.read_table(tmp_path / "found.parquet") == plain

    def test_every_attribute_of_the_arrow_table_is_there(self, run: History) -> None:
        shown = run.suspects(3)
        for attribute in dir(pa.Table):
            assert hasattr(shown, attribute), attribute
        assert len(shown) == shown.num_rows == shown.rows.num_rows
        assert shown["index"] == shown.rows["index"]
        assert shown[0] == shown.rows[0]
        assert shown.slice(1) == shown.rows.slice(1)
        assert list(shown) == shown.rows.columns

    def test_a_copy_and_a_pickle_are_the_same(self, run: History) -> None:
        shown = ShownTable(run.statistics("train"))
        assert copy.copy(shown) == copy.deepcopy(shown) == pickle.loads(pickle.dumps(shown)) == shown
        found = run.suspects(2)
        assert pickle.loads(pickle.dumps(found)).strips == found.strips

    def test_first_rows_are_shown_and_the_others_are_counted(self) -> None:
        shown = ShownTable(pa.table({"name": ["a"] * 30, "score": [0.25] * 29 + [None], "wrong": [True] * 30}))
        page = Parsed(shown._repr_html_())
        assert page.rows[:2] == [["name", "score", "wrong"], ["a", "0.250", "yes"]]
        assert len(page.rows) == 21
        assert "10 more rows; to_pandas() has all 30." in page.text
        assert "10 more rows" in repr(shown)
        assert shown.table().rows[-1] == ("a", "-", "yes")

    def test_statistics_are_an_arrow_table_that_ipython_shows(
        self, run: History, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """As IPython does: the printer of a type, and if it gives None, the object's text."""
        printers: dict[type, Callable[[Any], str | None]] = {}
        shell = SimpleNamespace(
            display_formatter=SimpleNamespace(formatters={"text/html": SimpleNamespace(for_type=printers.__setitem__)})
        )
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        statistics = run.statistics("train")
        assert type(statistics) is pa.Table
        pq.write_table(statistics, tmp_path / "statistics.parquet")
        (show,) = printers.values()
        page = Parsed(show(statistics) or "")
        assert page.rows[0] == statistics.column_names
        assert [row[0] for row in page.rows[1:]] == ["0", "1", "2", "3", "4", "5"]
        assert show(pa.table({"a": [1]})) is None
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
        assert run.statistics("train") == statistics

    def test_an_empty_table(self) -> None:
        shown = ShownTable(pa.table({"index": pa.array([], pa.int64())}))
        assert Parsed(shown._repr_html_()).rows == [["index"]]
        assert "index" in repr(shown)


class TestSuspects:
    def test_a_notebook_shows_label_suggestion_score_and_strip(self, run: History) -> None:
        page = Parsed(run.suspects(2)._repr_html_())
        head, worst, _ = page.rows
        assert dict(zip(head, worst, strict=True)) == {
            "sample": "4",
            "label": "0",
            "suggestion": "1",
            "score": f"{run.suspects(1)['label_score'][0].as_py():.3f}",
            "almost certain": "yes",
            "right": "0/4",
            "forgotten": "0",
            "strip": "████",
        }
        assert page.sources == []
        assert "labels are almost certainly wrong" in page.text

    def test_pictures_are_those_of_the_samples(self, run: History) -> None:
        asked = []

        class Data:
            def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
                asked.append(index)
                return np.full((3, 6, 5), index * 40, np.uint8), 0

        found = run.suspects(3, images=Data())
        assert asked == []
        page = Parsed(found._repr_html_())
        assert asked == found["index"].to_pylist()
        assert page.rows[0][0] == "image"
        for source, index in zip(page.sources, asked, strict=True):
            kind, data = source.split(",")
            assert kind == "data:image/png;base64"
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            assert picture.shape == (48, 40, 3)
            assert (picture == index * 40).all()

    def test_a_notebook_shows_fifty_at_most(self, record: Callable[..., Path]) -> None:
        run = read_history(record("run", [0] * 60, [[0] * 60], split="train"))
        page = Parsed(run.suspects(60)._repr_html_())
        assert len(page.rows) == 51
        assert "10 more rows" in page.text

    @pytest.mark.parametrize("width", [60, 80, 120, 200])
    def test_a_terminal_shows_a_line_per_sample(
        self, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes = [[int(epoch < 20), 0] for epoch in range(40)]
        record_logits(tmp_path / "run", logits_for(passes), np.array([0, 0]))
        monkeypatch.setenv("COLUMNS", str(width))
        lines = repr(read_history(tmp_path / "run").suspects(2)).splitlines()
        assert max(map(len, lines)) <= width
        assert [line.split()[0] for line in lines if "▁▁▁" in line] == ["0", "1"]
        strips = [line.split()[-1] for line in lines if "▁▁▁" in line]
        assert strips[0].strip("▁").strip("█") == ""
        assert abs(strips[0].count("█") - strips[0].count("▁")) <= 1
        assert strips[1] == "▁" * len(strips[0])
        assert len(strips[0]) == 40 if width >= 120 else 20 <= len(strips[0]) <= 40

    def test_without_a_suspect_the_table_is_empty(self, record: Callable[..., Path]) -> None:
        found = read_history(record("run", [0], [[0]], split="train")).suspects(3, by="flipped")
        assert found.num_rows == 0
        assert found.strips == ()
        assert len(Parsed(found._repr_html_()).rows) == 1
        assert "0 of 1 labels" in repr(found)


def test_a_drawing_keeps_the_most_frequent_character() -> None:
    assert squeezed("▁▁▁▁███▄▄▁", 2) == "▁█"
    assert squeezed("▁█", 1) == "█"
    assert squeezed("", 3) == ""
    for length in range(1, 90):
        assert len(squeezed("▁" * length, 20)) == min(length, 20)


class TestEscaping:
    def test_every_part_of_a_table_is_text(self) -> None:
        table = PlainTable(EVIL, (EVIL, "strip"), ((EVIL, EVIL),), words=(0, 1), notes=(EVIL,), drawn=(1,))
        page = Parsed(table.html())
        assert set(page.tags) <= {"h4", "table", "thead", "tbody", "tr", "th", "td", "p", "code"}
        visible = EVIL.replace("\x1b", "")
        assert page.rows[0] == [visible, "strip"]
        assert page.rows[1][0] == visible
        assert page.text.count(visible) == 5
        assert table._repr_html_() == table.html()

    def test_names_of_models_and_classes_are_text(self) -> None:
        rows = {"sample_id": [str(i) for i in range(40)], "target": [EVIL, "b"] * 20}
        old = PredictionSet.from_table(pa.table(rows | {"pred": rows["target"]}), EVIL)
        new = PredictionSet.from_table(pa.table(rows | {"pred": ["b"] * 40}), EVIL)
        update = reports.compare(old, new)
        verdict = reports.gate(reports.join_predictions(old, new), max_nfr=0.01, max_nfr_per_class=0.05)
        for shown in (update, verdict):
            page = Parsed(shown._repr_html_())
            assert "script" not in page.tags
            assert len(page.rows) > 1


class TestResults:
    def test_a_comparison_of_runs_has_the_cells_of_its_markdown(self, run: History) -> None:
        compared = reports.compare_runs([("a|b", run._folder)], "train")
        assert Parsed(compared._repr_html_()).rows[1] == ["a|b", "66.7%", "16.7%", "50.0%", "31.5%", "-"]
        summary = Parsed(reports.summarize_run(run._folder, "train")._repr_html_())
        assert ["accuracy, last epoch", "66.7%"] in summary.rows
        assert ["epochs", "4"] in summary.rows

    def test_a_verdict_says_what_its_markdown_says(self) -> None:
        rows = {"sample_id": [str(i) for i in range(40)], "target": [0, 1] * 20}
        old = PredictionSet.from_table(pa.table(rows | {"pred": [0, 1] * 20}), "old")
        new = PredictionSet.from_table(pa.table(rows | {"pred": [0] * 40}), "new")
        page = Parsed(reports.gate(reports.join_predictions(old, new), max_nfr=0.01)._repr_html_())
        assert "Update gate: fail" in page.text
        assert "20 of 40 samples are negative flips (50%)." in page.text
        assert page.rows[1][:3] == ["max_nfr", "1%", "❌ fail"]


class TestFigures:
    def test_a_figure_shows_itself(self) -> None:
        figure = new_figure(3, 2)
        figure.subplots().plot([1, 2])
        picture = Image.open(io.BytesIO(figure._repr_png_()))
        assert picture.size == (300, 200)
        assert len(picture.getcolors(100_000) or ()) > 3

    def test_every_figure_of_the_package_is_made_by_one_function(self) -> None:
        source = Path(inspect.getfile(reports)).parent
        makers = {
            path.name for path in source.rglob("*.py") if "\nfrom matplotlib.figure" in path.read_text(encoding="utf-8")
        }
        assert makers == {"_shown.py"}
        drawn = reports.plot_reliability(reports.reliability([0.5, 0.9], [True, False]))
        assert drawn._repr_png_().startswith(b"\x89PNG")


class TestPictures:
    @pytest.mark.parametrize(
        ("shape", "found"),
        [((5, 7), (5, 7)), ((1, 5, 7), (5, 7)), ((3, 5, 7), (5, 7, 3)), ((5, 7, 3), (5, 7, 3)), ((5, 7, 4), (5, 7, 3))],
    )
    def test_shapes(self, shape: tuple[int, ...], found: tuple[int, ...]) -> None:
        values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        assert picture_of(values).shape == found

    def test_tensors_have_channels_first_and_arrays_last_if_both_fit(self) -> None:
        torch = pytest.importorskip("torch")
        values = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
        assert (picture_of(values) == values).all()
        assert (picture_of(torch.from_numpy(values)) == np.moveaxis(values, 0, 2)).all()
        half = torch.rand(3, 4, 5).to(torch.bfloat16).requires_grad_()
        assert picture_of(half).shape == (4, 5, 3)

    def test_numbers(self) -> None:
        whole = np.array([[0, 255], [7, 9]])
        assert (picture_of(whole) == whole).all()
        assert (picture_of(whole.astype(np.uint8)) == whole).all()
        assert picture_of(np.array([[0.0, 0.5]])).tolist() == [[0, 128]]
        assert picture_of(np.array([[False, True]])).tolist() == [[0, 255]]
        assert picture_of(np.array([[-1.0, 3.0, np.nan]])).tolist() == [[0, 255, 64]]
        assert picture_of(np.array([[1000, 3000]], np.uint16)).tolist() == [[0, 255]]
        assert picture_of(np.array([[5.0, 5.0]])).tolist() == [[128, 128]]

    def test_items(self) -> None:
        picture = np.zeros((2, 2), np.uint8)
        for item in ((picture, 3), [picture], {"label": 3, "img": picture}, ((picture, "a"), 3)):
            assert (picture_of(item) == picture).all()
        assert picture_of(Image.new("RGBA", (4, 3))).shape == (3, 4, 3)
        assert picture_of(Image.new("I;16", (4, 3))).shape == (3, 4)

    @pytest.mark.parametrize("item", ["text", 3, (), {}, np.zeros(5), np.zeros((2, 5, 5)), np.zeros((0, 3)), None])
    def test_what_is_no_picture_is_refused_by_its_kind(self, item: Any) -> None:
        with pytest.raises(TypeError, match="images must give a picture"):
            picture_of(item)

    def test_a_png_keeps_its_sides_in_proportion(self) -> None:
        small = np.array([[0, 255]], np.uint8)
        picture = np.asarray(Image.open(io.BytesIO(png_of(small, 48))))
        assert picture.shape == (24, 48)
        assert set(np.unique(picture)) == {0, 255}
        assert Image.open(io.BytesIO(png_of(np.zeros((300, 2, 3), np.uint8), 48))).size == (1, 48)


def test_without_rich_a_terminal_shows_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert terminal_text(PlainTable("", ("a",), (("b",),))) == "| a |\n|:---|\n| b |"
