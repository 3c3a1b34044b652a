"""Figures of a run: the table behind each against plain loops, what is drawn against the table, and odd runs."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_flip.reports.figures.canvas import BLUE, ORANGE
from lightning_flip.reports.plots import HistoryPlots
from lightning_flip.stores import History, HistoryError, read_history
from tests.reports.recorded import record_logits

NAMES = ["ant", "bee", "cow"]
PLOTS = ("dataset_map", "flips", "who_flips", "forgetting", "suspects")


def random_passes(count: int, passes: int, classes: int, seed: int = 0) -> tuple[list[int], list[list[int | None]]]:
    """Labels, and predictions that are right two times of three; a sample in ten is not seen, the last one never."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, count)
    preds = np.where(rng.random((passes, count)) < 0.66, target, rng.integers(0, classes, (passes, count)))
    seen = rng.random((passes, count)) < 0.9
    seen[:, -1] = False
    return target.tolist(), [
        [int(pred) if there else None for pred, there in zip(*row, strict=True)]
        for row in zip(preds, seen, strict=True)
    ]


@pytest.fixture
def noisy(tmp_path: Path) -> tuple[History, np.ndarray, np.ndarray]:
    """30 samples of three classes; the label of every fifth one is wrong. Also the logits and the labels."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 30)
    label = np.where(np.arange(30) % 5 == 0, (truth + 1) % 3, truth)
    logits = rng.normal(size=(6, 30, 3)) + np.linspace(0, 30, 6)[:, None, None] * np.eye(3)[truth]
    record_logits(tmp_path / "noisy", logits, label, names=NAMES)
    return read_history(tmp_path / "noisy"), logits, label


def words_of(figure: Any) -> str:
    """Every text of a figure in one line."""
    texts = [figure.get_suptitle(), *(text.get_text() for axes in figure.axes for text in axes.texts)]
    return " ".join(" ".join(texts).split())


class TestFlips:
    def test_the_table_is_that_of_a_loop_over_samples(self, record: Callable[..., Path]) -> None:
        target, passes = random_passes(40, 7, 3)
        table = read_history(record("run", target, passes)).plot.flips().table.to_pylist()
        state: dict[int, bool] = {}
        ever: set[int] = set()
        for row, preds in zip(table, passes, strict=True):
            changed: Counter[bool] = Counter()
            for sample, pred in enumerate(preds):
                if pred is None:
                    continue
                now = pred == target[sample]
                changed[now] += sample in state and state[sample] != now
                state[sample] = now
                ever |= {sample} if now else set()
            expected = {"right": sum(state.values()), "ever_right": len(ever), "known": len(state)}
            expected |= {"to_right": changed[True], "to_wrong": changed[False]}
            assert {name: row[name] for name in expected} == expected
        assert sum(row["to_wrong"] for row in table) > 10

    def test_the_table_is_what_is_drawn(self, record: Callable[..., Path]) -> None:
        target, passes = random_passes(40, 7, 3)
        figure = read_history(record("run", target, passes)).plot.flips()
        rows = figure.table.to_pydict()
        upper, lower = figure.axes
        known, seen = np.array(rows["known"]), np.array(rows["seen"])
        lines = [line.get_ydata() for line in upper.lines]
        np.testing.assert_allclose(lines, [100 * np.array(rows[name]) / known for name in ("right", "ever_right")])
        bars = [[bar.get_height() for bar in group] for group in lower.containers]
        np.testing.assert_allclose(
            bars, [100 * np.array(rows["to_right"]) / seen, -100 * np.array(rows["to_wrong"]) / seen]
        )
        gone = rows["ever_right"][-1] - rows["right"][-1]
        assert f"val: {gone} of 39 samples were right before and are wrong at the end" in words_of(figure)

    def test_passes_of_one_epoch_are_side_by_side(self, record: Callable[..., Path]) -> None:
        moments = [(0, 0), (0, 1), (1, 0), (1, 1)]
        figure = read_history(record("run", [0, 1], [[0, 1]] * 4, moments=moments)).plot.flips()
        assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 0.5, 1, 1.5]


class TestWhoFlips:
    def test_the_table_is_that_of_a_loop_over_samples(self, record: Callable[..., Path]) -> None:
        target, passes = random_passes(40, 7, 3)
        figure = read_history(record("run", target, passes)).plot.who_flips()
        flips: Counter[tuple[int, int]] = Counter()
        was: dict[int, bool] = {}
        for preds in passes:
            for sample, pred in enumerate(preds):
                if pred is not None:
                    flips[target[sample], pred] += was.get(sample, False) and pred != target[sample]
                    was[sample] = pred == target[sample]
        expected = {pair: count for pair, count in flips.items() if count}
        rows = figure.table.to_pylist()
        assert {(row["right"], row["predicted"]): row["flips"] for row in rows} == expected
        assert [row["flips"] for row in rows] == sorted(expected.values(), reverse=True)
        drawn = {tuple(map(int, text.get_position()[::-1])): int(text.get_text()) for text in figure.axes[0].texts}
        assert drawn == expected

    def test_names_are_those_of_the_run(self, noisy: Any) -> None:
        figure = noisy[0].plot.who_flips("train")
        labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
        assert labels <= set(NAMES)
        assert {row["right_name"] for row in figure.table.to_pylist()} == labels & set(
            figure.table["right_name"].to_pylist()
        )

    def test_of_many_classes_those_that_flip_most_are_drawn(self, record: Callable[..., Path]) -> None:
        """Ten flips from 0 to 1, and one each between 30 others."""
        target = [0] * 10 + list(range(2, 32))
        other = [1] * 10 + [(label - 1) % 30 + 2 for label in target[10:]]
        figure = read_history(record("run", target, [target, other])).plot.who_flips(width=4)
        assert figure.table.num_rows == 31
        assert "20 most frequent of 31 pairs of classes, with 29 of them" in words_of(figure)
        assert [bar.get_width() for bar in figure.axes[0].patches] == [10] + [1] * 19
        assert figure.axes[0].get_yticklabels()[0].get_text() == "0 → 1"

    def test_a_part_of_the_classes_is_said_to_be_one(self, record: Callable[..., Path]) -> None:
        target = [0, 1] * 20 + list(range(2, 12))
        other = [1, 0] * 20 + [(label - 1) % 10 + 2 for label in target[40:]]
        figure = read_history(record("run", target, [target, other])).plot.who_flips(width=4)
        assert "val: 50 flips from right to wrong; 4" in words_of(figure)
        assert "of 12 classes that flip most" in words_of(figure)


class TestForgetting:
    def test_the_table_is_that_of_a_loop_over_samples(self, record: Callable[..., Path]) -> None:
        target, passes = random_passes(60, 9, 2)
        figure = read_history(record("run", target, passes, split="train")).plot.forgetting()
        counts: Counter[Any] = Counter()
        for sample, label in enumerate(target):
            right = [preds[sample] == label for preds in passes if preds[sample] is not None]
            events = sum(before and not now for before, now in itertools.pairwise(right))
            counts[events if any(right) else "never learned" if right else "never seen"] += 1
        rows = {
            row["state"] if row["forgetting_events"] is None else row["forgetting_events"]: row["samples"]
            for row in figure.table.to_pylist()
        }
        assert {key: count for key, count in rows.items() if count} == counts
        assert counts["never seen"] == 1
        assert "1 more were never seen" in words_of(figure)
        assert sum(bar.get_height() for bar in figure.axes[0].patches) == 59

    def test_many_events_share_the_last_bar(self, record: Callable[..., Path]) -> None:
        passes = [[epoch % 2, 0] for epoch in range(60)]
        figure = read_history(record("run", [0, 0], passes, split="train")).plot.forgetting(width=4)
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert labels[-2:] == ["7+", "never\nright"]
        assert [bar.get_height() for bar in figure.axes[0].patches] == [1, 0, 0, 0, 0, 0, 0, 1, 0]
        assert figure.table.num_rows == 31 + 2


class TestDatasetMap:
    def test_points_are_mean_and_spread_of_the_probability_of_the_label(self, noisy: Any) -> None:
        history, logits, label = noisy
        figure = history.plot.dataset_map()
        rows = figure.table.to_pylist()
        for row in rows:
            z = logits[:, row["index"]]
            prob = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))[:, label[row["index"]]].tolist()
            assert row["confidence"] == pytest.approx(statistics.fmean(prob), abs=1e-6)
            assert row["variability"] == pytest.approx(statistics.pstdev(prob), abs=1e-6)
        worst, other = sorted(figure.axes[0].lines, key=lambda line: line.get_marker() != "^")
        for line, issue in ((worst, True), (other, False)):
            mine = {(row["variability"], row["confidence"]) for row in rows if row["is_label_issue"] is issue}
            assert set(zip(*line.get_data(), strict=True)) == mine
            assert len(mine) > 2
        assert worst.get_marker() != other.get_marker()

    def test_many_samples_are_counted_in_cells(self, noisy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lightning_flip.reports.plots._MOST_POINTS", 2)
        figure = noisy[0].plot.dataset_map()
        (cells,) = figure.axes[0].collections
        issues = sum(figure.table["is_label_issue"].to_pylist())
        assert sum(cells.get_array()) == 30 - issues
        (worst,) = figure.axes[0].lines
        assert len(worst.get_xdata()) == 2 < issues
        assert f"(the worst 2 of {issues})" in figure.legends[0].get_texts()[0].get_text()


class Pictures:
    """A dataset of gray pictures that remembers which were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.asked.append(index)
        return np.full((4, 4), index / 100), 1


class TestSuspects:
    def test_the_table_is_the_suspects_with_their_strips(self, noisy: Any) -> None:
        history = noisy[0]
        figure, found = history.plot.suspects(5), history.suspects(5)
        assert figure.table.drop_columns("strip") == found.rows
        assert figure.table["strip"].to_pylist() == list(found.strips)
        row = found.to_pylist()[0]
        title = figure.axes[0].get_title()
        assert title.split("\n")[1] == f"{row['given_name']} → {row['predicted_name']}"
        assert f"score {row['label_score']:.3f}" in title

    def test_a_cell_has_the_height_and_the_color_of_its_character(self, noisy: Any) -> None:
        figure = noisy[0].plot.suspects(8, by="confidence")
        height = {"▁": (0.4, BLUE), "█": (1.0, ORANGE), "▄": (0.7, None)}
        seen = set()
        for axes, strip in zip(figure.axes, figure.table["strip"].to_pylist(), strict=True):
            for epoch, character in enumerate(strip):
                cells = [(patch.get_data().values[epoch], to_hex(patch.get_facecolor())) for patch in axes.patches]
                (drawn,) = [cell for cell in cells if cell[0]]
                tall, color = height[character]
                assert drawn[0] == tall
                assert color in (None, drawn[1])
                seen.add(character)
        assert len(seen) == 3

    def test_pictures_are_those_of_the_samples_and_no_others_are_asked_for(self, noisy: Any) -> None:
        images = Pictures()
        figure = noisy[0].plot.suspects(3, images=images)
        shown = figure.table["index"].to_pylist()
        assert images.asked == shown
        drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
        assert [picture[0, 0] for picture in drawn] == [round(2.55 * index) for index in shown]

    def test_a_sample_that_was_not_seen_has_a_gap(self, record: Callable[..., Path]) -> None:
        run = record("run", [0, 1], [[1, 1], [None, 1], [1, 1]], split="train")
        figure = read_history(run).plot.suspects(1)
        assert [sum(patch.get_data().values[1] for patch in figure.axes[0].patches)] == [0]
        assert figure.legends[0].get_texts()[-1].get_text() == "empty: not seen"

    def test_items_without_a_picture_are_named(self, noisy: Any) -> None:
        with pytest.raises(TypeError, match=r"images must give a picture.*got a tuple of a str, a int"):
            noisy[0].plot.suspects(images=[("text", 1)] * 30)

    def test_no_suspect_is_said_in_words(self, record: Callable[..., Path]) -> None:
        run = record("run", [0, 1], [[0, 1]], split="train")
        assert "no sample is a suspect by 'flipped'" in words_of(read_history(run).plot.suspects(by="flipped"))


class TestEveryPlot:
    @pytest.mark.parametrize("width", [4, 7, 12])
    @pytest.mark.parametrize("name", PLOTS)
    def test_words_are_not_cut_and_do_not_overlap(
        self, name: str, width: float, noisy: Any, readable: Callable
    ) -> None:
        figure = getattr(noisy[0].plot, name)(split="train", width=width)
        readable(figure)
        title = figure._suptitle.get_window_extent()
        assert -1 <= title.x0 < title.x1 <= figure.bbox.x1 + 1
        assert title.y1 <= figure.bbox.y1 + 1
        assert not any(title.overlaps(axes.title.get_window_extent()) for axes in figure.axes if axes.get_title())
        assert figure.get_figwidth() == width

    @pytest.mark.parametrize("name", PLOTS)
    def test_a_pass_that_saw_nothing(self, name: str, record: Callable[..., Path]) -> None:
        run = read_history(record("run", [0, 1], [[None, None]], split="train"))
        figure = getattr(run.plot, name)(split="train")
        assert any(words in words_of(figure) for words in ("No pass saw", "no sample is a suspect", "nothing can flip"))
        assert figure.table.num_rows <= 2
        assert figure._repr_png_().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("dataset_map", "one visit each, so that the variability is 0"),
            ("flips", "one pass alone, so that nothing can flip"),
            ("who_flips", "with one pass nothing can flip"),
            ("forgetting", "0 were forgotten at least once"),
            ("suspects", "scores of 1 of 1 epochs"),
        ],
    )
    def test_one_epoch(self, name: str, said: str, record: Callable[..., Path], readable: Callable) -> None:
        run = read_history(record("run", [0, 1, 1], [[0, 1, 0]], split="train"))
        figure = getattr(run.plot, name)(split="train", width=4)
        assert said in words_of(figure)
        readable(figure)

    @pytest.mark.parametrize("name", PLOTS)
    def test_one_class(self, name: str, record: Callable[..., Path]) -> None:
        run = read_history(record("run", [0] * 5, [[0] * 5] * 3, split="train"))
        figure = getattr(run.plot, name)(split="train")
        figure._repr_png_()
        if name == "who_flips":
            assert "no sample flipped in 3 passes" in words_of(figure)

    @pytest.mark.parametrize("name", PLOTS)
    def test_a_thousand_classes(self, name: str, record: Callable[..., Path], readable: Callable) -> None:
        target, passes = random_passes(1500, 3, 1000)
        figure = getattr(read_history(record("run", target, passes, split="train")).plot, name)(split="train", width=4)
        readable(figure)
        assert figure.table.num_rows >= 3

    @pytest.mark.parametrize("name", ["flips", "who_flips"])
    def test_without_validation_the_split_that_there_is_is_named(self, name: str, noisy: Any) -> None:
        with pytest.raises(HistoryError, match=r"no split 'val'; it holds 'train'"):
            getattr(noisy[0].plot, name)()

    def test_names_are_not_formulas(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        logits, label = rng.normal(size=(4, 20, 3)), rng.integers(0, 3, 20)
        names = [r"$\frac", "a\nb", "x" * 10_000]
        record_logits(tmp_path / "run", logits, label, names=names)
        plot = read_history(tmp_path / "run").plot
        for name in PLOTS:
            getattr(plot, name)(split="train", width=4)._repr_png_()

    def test_is_drawn_without_pyplot(self, noisy: Any) -> None:
        noisy[0].plot.flips("train")
        assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()

    def test_the_plots_are_listed(self, noisy: Any) -> None:
        plots = noisy[0].plot
        assert isinstance(plots, HistoryPlots)
        assert repr(plots) == f"Figures of the run: {', '.join(f'{name}()' for name in PLOTS)}"
