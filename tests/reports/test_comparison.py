import csv
import io
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import lightning_flip.reports
from lightning_flip.reports import Comparison, RunSummary, compare_runs, parse_run, summarize_run

ODD_LABELS = [
    "a|b",
    "[bold]x[/bold]",
    "[/]",
    "*x* _y_ `z`",
    'quo"te,comma',
    "two\nlines",
    "<b>h</b>",
    "\x1b[31mred",
    "back\\|slash",
]


def summary(accuracy: float, auroc: float | None = None) -> RunSummary:
    return RunSummary(accuracy, accuracy, 0.05, 0.5, 0.1, 0.0123, auroc, 10, 100, 1.0)


def rendered(comparison: Comparison, width: int = 120) -> str:
    text = io.StringIO()
    comparison.render(Console(file=text, width=width, color_system=None))
    return text.getvalue()


def test_runs_of_one_label_are_summarized_together(record: Callable[..., Path]) -> None:
    folders = [
        record(f"seed-{seed}", [0, 0, 0, 0], [[0, 0, 0, 0], preds])
        for seed, preds in enumerate([[0] * 4, [0, 0, 1, 1], [0, 1, 1, 1]])
    ]
    alone = record("alone", [0, 1], [[0, 0]])
    comparison = compare_runs([("plain", folders[0]), ("FER", alone), ("plain", folders[1]), ("plain", folders[2])])
    plain, fer = comparison.to_rows()
    accuracies = [1.0, 0.5, 0.25]
    assert (plain["method"], plain["runs"], fer["method"], fer["runs"]) == ("plain", 3, "FER", 1)
    assert plain["accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert plain["accuracy_std"] == pytest.approx(statistics.stdev(accuracies))
    assert plain["flipping_error"] == pytest.approx((0 + 0.5 + 0.75) / 3)
    assert plain["relative_flipping_error"] == pytest.approx(2 / 3)
    assert (fer["accuracy"], fer["accuracy_std"], fer["mislabelled_auroc"]) == (0.5, None, None)
    assert comparison.groups["FER"] == [summarize_run(alone)]


def test_a_single_run_has_no_spread() -> None:
    text = Comparison({"one": [summary(0.9)], "two": [summary(0.9), summary(0.8)]}).to_markdown()
    one, two = text.splitlines()[2:]
    assert one == "| one | 90.0% | 5.0% | 50.0% | 1.2% | - |"
    assert two == "| two | 85.0 ± 7.1% | 5.0 ± 0.0% | 50.0 ± 0.0% | 1.2 ± 0.0% | - |"


def test_decimals_and_header() -> None:
    text = Comparison({"one": [summary(0.91234, 0.98765)]}, accuracy_header="top-1|x").to_markdown(decimals=2)
    assert text.splitlines()[0] == r"| method | top-1\|x | FE | RFE | ECE | mislabelled found (AUROC) |"
    assert text.splitlines()[2] == "| one | 91.23% | 5.00% | 50.00% | 1.23% | 0.988 |"


def test_the_accuracy_header_names_the_split(record: Callable[..., Path]) -> None:
    folder = record("run", [0], [[0]], split="test")
    assert compare_runs([("a", folder)], split="test").accuracy_header == "test acc"
    assert compare_runs([("a", folder)], split="test", accuracy_header="top-1").accuracy_header == "top-1"


def test_runs_without_an_auroc_do_not_spoil_the_others() -> None:
    (row,) = Comparison({"a": [summary(0.9, 0.8), summary(0.9), summary(0.9, 0.6)]}).to_rows()
    assert row["mislabelled_auroc"] == pytest.approx(0.7)


@pytest.mark.parametrize("label", ODD_LABELS)
def test_markdown_keeps_its_columns_whatever_the_label(label: str) -> None:
    lines = Comparison({label: [summary(0.9)]}).to_markdown().splitlines()
    assert len(lines) == 3
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 7
    cell = lines[2].split(" | ")[0]
    assert not re.search(r"<b>|(?<!\\)[*`\[]|\x1b", cell)


@pytest.mark.parametrize("label", ODD_LABELS)
def test_csv_reads_back(label: str) -> None:
    (row,) = csv.DictReader(io.StringIO(Comparison({label: [summary(0.9)]}).to_csv()))
    assert row["method"] == label.replace("\n", " ").replace("\x1b", "")
    assert (float(row["accuracy"]), row["accuracy_std"], row["runs"]) == (0.9, "", "1")


@pytest.mark.parametrize("label", ODD_LABELS)
def test_the_terminal_shows_labels_as_they_are(label: str) -> None:
    text = rendered(Comparison({label: [summary(0.9)]}))
    assert label.replace("\n", " ").replace("\x1b", "") in text
    assert "\x1b" not in text
    assert "90.0%" in text


def test_a_narrow_terminal_cuts_no_number() -> None:
    runs = [summary(0.9, 0.9), summary(0.8, 0.7)]
    text = rendered(Comparison({"a method with a rather long name": runs, "b": runs}), width=80)
    assert text.count("85.0 ± 7.1%") == 2
    assert text.count("0.800 ± 0.141") == 2
    assert "…" not in text


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        compare_runs([])


def test_a_folder_counts_once_a_label(record: Callable[..., Path]) -> None:
    folder = record("run", [0], [[0]])
    with pytest.raises(ValueError, match=r"'a' has .* twice"):
        compare_runs([("a", folder), ("a", folder / ".." / "run")])
    assert len(compare_runs([("a", folder), ("b", folder)]).groups) == 2


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("FER=runs/fer", ("FER", "runs/fer")),
        ("FER =runs/lr=0.1", ("FER", "runs/lr=0.1")),
        ("runs/plain", ("plain", "runs/plain")),
        ("runs/plain/", ("plain", "runs/plain")),
    ],
)
def test_parse_run(argument: str, expected: tuple[str, str]) -> None:
    label, folder = parse_run(argument)
    assert (label, folder.as_posix()) == expected


def test_parse_run_of_a_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lr=0.1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_run("lr=0.1") == ("lr=0.1", Path("lr=0.1"))
    assert parse_run(".") == (tmp_path.name, Path())


@pytest.mark.parametrize("argument", ["", "=runs/a", "label=", " = "])
def test_parse_run_refuses(argument: str) -> None:
    with pytest.raises(ValueError, match="label=folder"):
        parse_run(argument)


def test_public_names_are_sorted_and_there() -> None:
    names = lightning_flip.reports.__all__
    assert names == sorted(names)
    assert all(hasattr(lightning_flip.reports, name) for name in names)
