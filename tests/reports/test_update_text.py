from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from lightning_flip.reports import UpdateComparison, compare
from lightning_flip.reports.text import escape_markdown
from lightning_flip.stores import PredictionSet

N = 400
LABELS = [
    "airplane",
    "a|b",
    "[bold]x[/bold]",
    "two\nlines",
    "*x* _y_ `z`",
    "<b>h</b>",
    "\x1b[31mred",
    "",
    "x" * 300,
    "[/] a class name that goes on for longer than any cell has room for",
]


def predictions(seed: int, name: str, labels: list[str], sites: str = "site") -> PredictionSet:
    rng = np.random.default_rng(seed)
    names = np.array(labels, object)
    target = np.arange(N) % len(labels)
    pred = np.where(rng.random(N) < 0.7, target, rng.integers(0, len(labels), N))
    columns = {
        "sample_id": [f"[red]im|ages/\n{n}" for n in range(N)],
        "target": names[target].tolist(),
        "pred": names[pred].tolist(),
        "confidence": rng.random(N).astype(np.float32),
        sites: [f"{n % 3}|\n[b]" for n in range(N)],
    }
    return PredictionSet.from_table(pa.table(columns), name)


def update_of(labels: list[str], sites: str = "site") -> UpdateComparison:
    names = ["runs/[old]|.parquet", "new\n.parquet", "seed_1", "/very/long" * 30]
    old, new, *floor = (predictions(seed, name, labels, sites) for seed, name in enumerate(names))
    return compare(old, new, slices=[sites], floor=floor)


def rendered(update: UpdateComparison, width: int, **options: int) -> str:
    text = io.StringIO()
    update.render(Console(file=text, width=width, color_system=None), **options)
    return text.getvalue()


hostile, plain = update_of(LABELS), update_of([f"class {k}" for k in range(30)])


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("update", [hostile, plain], ids=["hostile", "plain"])
def test_the_terminal_shows_every_number_whole(update: UpdateComparison, width: int) -> None:
    text = rendered(update, width, most_rows=50)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text
    for rate in update.rates.values():
        assert f"{100 * rate.value:.2f}%" in text
        if rate.low is not None and rate.high is not None:
            assert f"{100 * rate.low:.2f} to {100 * rate.high:.2f}%" in text
    for accuracy in update.classes.cells.rate("new_accuracy"):
        assert f"{100 * accuracy:.2f}%" in text
    assert update.floor is not None
    assert f"{100 * update.floor.mean:.2f}%" in text


def test_labels_are_shown_as_they_are() -> None:
    text = rendered(hostile, 120, most_rows=50)
    for label in ("a|b", "[bold]x[/bold]", "two lines", "*x* _y_ `z`", "<b>h</b>", "[31mred", "''", "[/] a class"):
        assert label in text
    assert "runs/[old]|.parquet → new .parquet" in text
    assert "[red]im|ages/ " in text


def test_a_narrow_terminal_says_what_it_leaves_out() -> None:
    assert "Not shown in this width: 95% interval" in rendered(hostile, 60)
    assert "Not shown" not in rendered(hostile, 120)
    text = rendered(hostile, 40)
    assert "Not shown in this width: samples." in text
    assert max(map(len, text.splitlines())) <= 40
    assert "…" not in text


@pytest.mark.parametrize("update", [hostile, plain], ids=["hostile", "plain"])
def test_markdown_keeps_its_columns(update: UpdateComparison) -> None:
    text = update.to_markdown()
    assert not re.search(r"<b>|(?<!\\)[*`\[]|\x1b", text)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    for lines in tables:
        bars = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
        assert len(bars) == 1
        assert re.fullmatch(r"\|(:?---:?\|)+", lines[1].replace("|:---", "|---"))
    assert text.splitlines()[0].startswith("### Update: runs/\\[old\\]\\|.parquet → new .parquet")


def test_long_tables_are_cut_with_a_line_that_says_so() -> None:
    for text in (plain.to_markdown(most_rows=4), rendered(plain, 120, most_rows=4)):
        assert "... and 26 more classes." in text
        assert f"... and {len(plain.matrix.flips) - 4} more pairs of classes." in text
        assert f"... and {plain.worst.total - 4} more negative flips." in text
    whole = plain.to_markdown(most_rows=1000)
    assert f"... and {plain.worst.total - 20} more negative flips." in whole
    assert whole.count("... and") == 1
    shown = re.findall(r"^\| (class \d+) \| 1[34] \|", plain.to_markdown(most_rows=4), re.MULTILINE)
    assert shown == [plain.classes.names[place] for place in plain.classes.worst_first()[:4]]
    with pytest.raises(ValueError, match="most_rows must be at least 1, got 0"):
        plain.to_markdown(most_rows=0)


def test_decimals() -> None:
    value = plain.rates["negative_flip_rate"].value
    for text in (plain.to_markdown(decimals=4), rendered(plain, 120, decimals=4)):
        assert f"{100 * value:.4f}%" in text


@pytest.mark.parametrize("column", ["samples", "NFR", "right class", "[b]|\n"])
def test_a_slice_may_have_any_name(column: str) -> None:
    update = update_of(["a", "b"], column)
    text = rendered(update, 70)
    shown = re.sub(r"\s", " ", column)
    assert f"By {shown}, worst first" in text
    assert text.count("0| [b]") == 1
    assert update.to_markdown().count("| 134 |") == 1
    assert f"more values of {escape_markdown(column)}." in update.to_markdown(most_rows=1)


def test_markdown_names_no_person_and_no_issue() -> None:
    names = ["@team", "@a @b", "#12", "owner/it#7", "a@b.c"]
    text = update_of(names, "@column").to_markdown()
    assert not re.search(r"[@#]\w", text)
    assert "@\u2060team" in text
    assert escape_markdown("a @ b # c") == "a @ b # c"


def test_an_update_without_flips() -> None:
    model = predictions(0, "same", ["a", "b"])
    update = compare(model, PredictionSet(model.rows, "again"))
    for text in (update.to_markdown(), rendered(update, 80)):
        assert "Where negative flips go" not in text
        assert "Worst negative flips" not in text
        assert "p = 1)" in text
        assert "is a bootstrap" not in text


def test_what_was_left_out_and_how_large_the_models_are() -> None:
    rows: dict[str, list[Any]] = {"sample_id": ["a", "b", "c"], "target": [0, 1, 2], "pred": [0, 1, 2]}
    old = PredictionSet.from_table(pa.table(rows), "old", classes=(0, 1, 2), model_parameters=1234)
    few = {name: values[1:] for name, values in rows.items()}
    new = PredictionSet.from_table(pa.table(few), "new", classes=(0, 1), model_parameters=5678)
    text = compare(old, new, allow_partial=True, shared_classes=True).to_markdown()
    assert "Parameters: 1,234 before, 5,678 now." in text
    assert "Left out: 1 sample in the old model's file alone." in text
    assert "Left out: 1 sample of classes that only one of the models knows." in text
    assert "the new model's file alone" not in text


def test_without_confidences_the_order_is_told() -> None:
    rows = {"sample_id": ["b", "a", "c"], "target": [0, 0, 1]}
    sets = [PredictionSet.from_table(pa.table(rows | {"pred": [k, k, 1]}), str(k)) for k in (0, 1)]
    text = compare(*sets).to_markdown()
    assert "#### Worst negative flips, by sample id, as no confidence is known" in text
    assert text.index("| a | 0 | 1 | - | - |") < text.index("| b | 0 | 1 | - | - |")
    assert "p < 0.0001" not in text
