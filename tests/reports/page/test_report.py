from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lightning_flip import cli
from lightning_flip.reports import compare_runs
from lightning_flip.reports.page import _listing, write_report, write_update_report
from lightning_flip.stores import read_history
from tests.reports import report_runs

SECTIONS = ["suspects", "map", "confusion", "sample", "flips", "who", "forgetting", "facts"]


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of each one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        self.content.setdefault(inside, []).append(data)
        if inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def ids(self, tag: str) -> list[str | None]:
        return [attributes.get("id") for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.content["script"][0])


def parse(path: Path) -> Parsed:
    return Parsed(path.read_text(encoding="utf-8"))


def unpacked(column: list[str]) -> np.ndarray:
    kind = {"Uint8Array": "<u1", "Uint16Array": "<u2", "Uint32Array": "<u4"}[column[0]]
    values = np.frombuffer(base64.b64decode(column[1]), kind)
    return np.where(values == np.iinfo(values.dtype).max, -1, values.astype(np.int64))


def rows_of(folder: Path, split: str) -> list[dict[int, dict[str, Any]]]:
    """What each pass saw, as plain Python: row by the sample's index."""
    passes: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted((folder / "history" / split).glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            passes.setdefault(path.name.partition("-rank")[0], {})[row["index"]] = row
    return list(passes.values())


def targets_of(folder: Path, split: str) -> dict[int, int]:
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    return {row["index"]: row["target"] for row in rows if row["split"] == split}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ordinary"
    report_runs.ordinary(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Parsed:
    return parse(write_report(run, run.parent / "ordinary.html"))


def test_sections_are_in_order(page: Parsed) -> None:
    assert page.ids("section") == SECTIONS


def test_flips_are_those_of_the_rows(run: Path, page: Parsed) -> None:
    target = targets_of(run, "val")
    right: dict[int, bool] = {}
    ever: set[int] = set()
    to_right, to_wrong, pairs = [], [], {}
    for seen in rows_of(run, "val"):
        changes = [0, 0]
        for index, row in seen.items():
            now = row["pred"] == target[index]
            if index in right and right[index] != now:
                changes[now] += 1
                if not now:
                    pair = (target[index], row["pred"])
                    pairs[pair] = pairs.get(pair, 0) + 1
            right[index] = now
            ever |= {index} if now else set()
        to_wrong.append(changes[0])
        to_right.append(changes[1])
    wrong_now = len(ever) - sum(right.values())
    assert f"{wrong_now} of 200 val samples" in page.text
    assert f"{100 * wrong_now / (200 - sum(right.values())):.1f}% of all errors" in page.text
    for epoch, (up, down) in enumerate(zip(to_right, to_wrong, strict=True)):
        assert re.search(rf"epoch {epoch}: right [\d.]+%, ever [\d.]+%, {up} to right, {down} to wrong", page.text)
    names = report_runs.ANIMALS
    for (one, other), count in pairs.items():
        assert f"{names[one]} → {names[other]}: {count}" in page.text
    told = re.search(r"Most often (\w+) turns into (\w+)", page.text)
    assert told is not None
    assert pairs[names.index(told[1]), names.index(told[2])] == max(pairs.values())


def test_forgetting_is_that_of_the_rows(run: Path, page: Parsed) -> None:
    target = targets_of(run, "train")
    passes = rows_of(run, "train")
    events = {}
    for index, label in target.items():
        course = [seen[index]["pred"] == label for seen in passes if index in seen]
        events[index] = sum(one and not other for one, other in itertools.pairwise(course))
        if not any(course):
            events[index] = -1
    learned = [count for count in events.values() if count >= 0]
    words = f"Of {len(learned)} samples that were learned, {sum(count > 0 for count in learned)} were forgotten"
    assert words in page.text
    assert f"{len(events) - len(learned)} were never learned" in page.text


def test_the_table_begins_with_the_worst_labels(run: Path, page: Parsed) -> None:
    suspects = read_history(run).suspects(25).to_pylist()
    found = re.findall(r"(train/\S+|\S+…\S+) (\w+) (\w+) (0\.\d{3}) (\d+)", page.text)[:25]
    names = [row["sample_id"] for row in suspects]
    shown = [name if len(name) <= 30 else f"{name[:11]}…{name[-18:]}" for name in names]
    assert [row[0] for row in found] == shown
    assert [row[1:3] for row in found] == [(row["given_name"], row["predicted_name"]) for row in suspects]
    assert [row[3] for row in found] == [f"{row['label_score']:.3f}" for row in suspects]


def test_the_counts_are_two_and_say_what_they_count(run: Path, page: Parsed) -> None:
    scores = read_history(run).label_scores()
    surely, disagree = sum(scores["is_label_issue"].to_pylist()), sum(scores["disagrees"].to_pylist())
    assert f"{surely} of 500 labels are almost certainly wrong" in page.text.replace("  ", " ")
    assert f"{disagree} disagree with their averaged prediction" in page.text
    assert "about" not in page.text.lower()


def test_the_script_knows_every_sample(run: Path, page: Parsed) -> None:
    data = page.data["suspects"]
    scores = read_history(run).label_scores()
    index = unpacked(data["index"])
    assert sorted(index.tolist()) == scores["index"].to_pylist()
    by_index = {row["index"]: row for row in scores.to_pylist()}
    for name, column, scale in (("label_score", "score", 1e6), ("confidence", "y", 1e4), ("variability", "x", 2e4)):
        expected = [by_index[one][name] * scale for one in index.tolist()]
        np.testing.assert_allclose(unpacked(data[column]), expected, atol=0.51)
    for name, column in (("given_label", "label"), ("predicted_label", "suggestion")):
        assert unpacked(data[column]).tolist() == [by_index[one][name] for one in index.tolist()]
    passes = rows_of(run, "train")
    pred = unpacked(data["pred"]).reshape(-1, len(passes))
    prob = unpacked(data["prob"]).reshape(-1, len(passes))
    for row in (0, 7, data["detailed"] - 1):
        seen = [one.get(int(index[row])) for one in passes]
        assert pred[row].tolist() == [-1 if one is None else one["pred"] for one in seen]
        expected = [-1 if one is None else 250 * one["prob_label"] for one in seen]
        np.testing.assert_allclose(prob[row], expected, atol=0.51)


def test_strips_show_the_rows(run: Path, page: Parsed) -> None:
    worst = read_history(run).suspects(1).to_pylist()[0]
    seen = [one[worst["index"]]["pred"] for one in rows_of(run, "train") if worst["index"] in one]
    label, suggestion = seen.count(worst["given_label"]), seen.count(worst["predicted_label"])
    other = len(seen) - label - suggestion
    words = f"{label} times the label, {suggestion} times the suggestion, {other} times another class"
    strips = [attributes for tag, attributes in page.elements if attributes.get("class") == "strip"]
    assert len(strips) == 25
    assert str(strips[0]["aria-label"]).startswith(words)


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    one, other = (write_report(run, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def test_the_policy_allows_what_is_in_the_page_alone(page: Parsed) -> None:
    policy = next(str(one["content"]) for tag, one in page.elements if one.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    for kind, text in (("script", page.content["script"][1]), ("style", page.content["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not [one for _, one in page.elements if "style" in one or any(name.startswith("on") for name in one)]


def test_the_script_is_small_and_makes_no_markup(page: Parsed) -> None:
    script = page.content["script"][1]
    assert len(script.encode()) <= 15_000
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|new Function|fetch|XMLHttp", script)


def test_a_folder_has_nothing_within_the_page(run: Path, tmp_path: Path) -> None:
    index = write_report(run, tmp_path / "page", images=lambda index: np.full((8, 8), index % 200, np.uint8))
    assert index == tmp_path / "page" / "index.html"
    assert sorted(path.name for path in index.parent.iterdir()) == [
        "index.html",
        "page.css",
        "page.js",
        "pictures.webp",
    ]
    found = parse(index)
    assert "style" not in found.content
    scripts = [one for tag, one in found.elements if tag == "script"]
    assert [one.get("type", one.get("src")) for one in scripts] == ["application/json", "page.js"]
    assert [one["href"] for tag, one in found.elements if tag == "image"] == ["pictures.webp"]
    assert "data:" not in index.read_text(encoding="utf-8")
    assert write_report(run, tmp_path / "page") == index


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (report_runs.no_rows, ["no label was judged", "not computed"]),
        (report_runs.one_epoch, ["After a single pass there are no flips yet", "not computed"]),
        (report_runs.one_class, ["Which labels are confused"]),
        (report_runs.thousand_classes, ["other pairs"]),
        (report_runs.interrupted, ["interrupted"]),
        (report_runs.gaps, ["No pass saw 4 of 500 samples", "never seen"]),
        (report_runs.missing_parts, ["missing"]),
        (report_runs.no_validation, ["The run has no split 'val'", "Not computed."]),
        (report_runs.no_names, ["almost certainly wrong"]),
        (report_runs.hostile, ["almost certainly wrong"]),
    ],
)
def test_every_kind_of_run_has_a_page_that_says_what_it_lacks(
    kind: Callable[[Path], object], words: list[str], tmp_path: Path
) -> None:
    kind(tmp_path / "run")
    found = parse(write_report(tmp_path / "run", tmp_path / "page.html"))
    for word in words:
        assert word in found.text
    assert page_is_safe(found)
    assert "nan" not in found.text.lower().split()


def page_is_safe(found: Parsed) -> bool:
    tags = [tag for tag, _ in found.elements]
    allowed = {"href": ("#", "data:image/webp;base64,")}
    return (
        tags.count("script") == 2
        and tags.count("style") == 1
        and not {"img", "iframe", "object", "embed", "link", "form", "foreignobject", "i", "b"} & set(tags)
        and not any(name.startswith("on") or name == "style" for _, one in found.elements for name in one)
        and all(str(one["href"]).startswith(allowed["href"]) for _, one in found.elements if "href" in one)
        and "<" not in found.content["script"][0]
    )


def test_empty_runs_say_why(tmp_path: Path) -> None:
    from lightning_flip.stores import HistoryError

    report_runs.empty(tmp_path / "run")
    with pytest.raises(HistoryError, match="holds no part"):
        write_report(tmp_path / "run", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_other_files_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    with pytest.raises(FileExistsError, match="not a report"):
        write_report(run, mine)
    assert mine.read_text() == "<p>mine"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(FileExistsError, match="not a report"):
        write_report(run, tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(FileExistsError, match=r"ends in \.html"):
        write_report(run, tmp_path / "notes")


def test_an_earlier_report_is_replaced(run: Path, tmp_path: Path) -> None:
    write_report(run, tmp_path / "page.html", title="first")
    assert "second" in write_report(run, tmp_path / "page.html", title="second").read_text(encoding="utf-8")


def test_redacted_ids_are_nowhere(run: Path, tmp_path: Path) -> None:
    ids = pq.read_table(run / "samples.parquet")["sample_id"].to_pylist()
    shown, hidden = (
        write_report(run, tmp_path / f"{redact}.html", redact_ids=redact).read_text(encoding="utf-8")
        for redact in (False, True)
    )
    worst = read_history(run).suspects(1)["sample_id"][0].as_py()
    assert worst in shown
    assert not [one for one in ids if one in hidden]
    assert "labels and sample ids" in shown
    assert "sample ids" not in hidden


def test_many_samples_are_drawn_as_bins(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listing, "_MOST_POINTS", 100)
    monkeypatch.setattr(_listing, "LISTED", 40)
    monkeypatch.setattr(_listing, "_CELLS", 0)
    found = parse(write_report(run, tmp_path / "page.html"))
    assert "This page knows the 40 worst of 500 samples one by one" in found.text
    data = found.data["suspects"]
    assert (len(unpacked(data["index"])), data["complete"], data["total"]) == (40, False, 500)
    assert not [one for _, one in found.elements if "replaced" in str(one.get("class", ""))]
    scores = read_history(run).label_scores()
    surely = sum(scores["is_label_issue"].to_pylist())
    assert f"{surely} of 500 labels" in found.text


def test_texts_take_the_place_of_pictures(run: Path, tmp_path: Path) -> None:
    ids = pq.read_table(run / "samples.parquet").to_pylist()
    lines = [f"{row['sample_id']},text of {row['index']} <b>" for row in ids if row["split"] == "train"]
    (tmp_path / "texts.csv").write_text("id,review\n" + "\n".join(lines) + "\n")
    found = parse(write_report(run, tmp_path / "page.html", text=f"{tmp_path}/texts.csv/review"))
    worst = read_history(run).suspects(1)["index"][0].as_py()
    assert f"text of {worst} <b>" in found.text
    assert found.data["suspects"]["text"][0] == f"text of {worst} <b>"
    assert page_is_safe(found)


def test_pictures_are_those_of_the_worst_samples(run: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def picture(index: int) -> tuple[np.ndarray, int]:
        asked.append(index)
        return np.full((3, 8, 8), index % 256, np.uint8), 0

    found = parse(write_report(run, tmp_path / "page.html", images=picture, top=30))
    worst = read_history(run).suspects(30)["index"].to_pylist()
    assert asked == worst
    assert found.data["sprite"]["place"] == {str(index): place for place, index in enumerate(worst)}
    thumbs = [one for _, one in found.elements if one.get("class") == "thumb"]
    assert len(thumbs) == 25
    assert "pictures of the data" in found.text


def test_several_runs_are_compared(run: Path, tmp_path: Path) -> None:
    report_runs.write_run(tmp_path / "other", samples=300, epochs=5, seed=3)
    report_runs.no_validation(tmp_path / "bare")
    runs = [("plain", run), ("other", tmp_path / "other")]
    found = parse(write_report(runs, tmp_path / "page.html"))
    for row in compare_runs(runs).to_rows():
        assert f"{row['method']} 1 {100 * float(row['accuracy'] or 0):.1f}%" in found.text
        assert f"{100 * float(row['flipping_error'] or 0):.1f}%" in found.text
    assert found.ids("section") == ["runs", "flips", "maps", "facts"]
    lacking = parse(write_report([run, tmp_path / "bare"], tmp_path / "lacking.html"))
    assert "Not computed for bare" in lacking.text
    assert page_is_safe(lacking)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"images": "."}, "one run"), ({"text": "a.csv/b"}, "one run"), ({"top": 601}, "from 0 to 600")],
)
def test_options_that_do_not_fit_are_refused(run: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    report_runs.no_validation(tmp_path / "bare")
    with pytest.raises(ValueError, match=said):
        write_report([run, tmp_path / "bare"], tmp_path / "page.html", **options)
    assert not (tmp_path / "page.html").exists()


def test_a_run_is_given_once(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="given 2 times"):
        write_report([run, run], tmp_path / "page.html")


def test_the_command_writes_a_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "page.html"
    assert cli.main(["report", str(run), "--out", str(place), "--title", "My run"]) == 0
    assert capsys.readouterr().out == f"Wrote {place}.\n"
    assert "<h1>My run</h1>" in place.read_text(encoding="utf-8")
    assert cli.main(["report", str(tmp_path / "nowhere"), "--out", str(place)]) == 2
    assert "run.json" in capsys.readouterr().err
    (tmp_path / "mine.html").write_text("mine")
    assert cli.main(["report", str(run), "--out", str(tmp_path / "mine.html")]) == 2
    assert "not a report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "got none"),
        (["RUN", "--old", "a.csv", "--new", "b.csv"], "not both"),
        (["--old", "a.csv"], "--new is missing"),
        (["RUN", "--floor", "a.csv"], "only with --old and --new"),
        (["--old", "a.csv", "--new", "b.csv", "--top", "3"], "only for recorded runs"),
        (["RUN", "--images", "no.such.Class"], "not a class path"),
        (["RUN", "--top", "601"], "from 0 to 600"),
    ],
)
def test_the_command_refuses(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["report", *(str(run) if word == "RUN" else word for word in words), "--out", "page.html"]
    assert status_of(given) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("page.html").exists()


def status_of(words: list[str]) -> int | str | None:
    try:
        return cli.main(words)
    except SystemExit as stopped:
        return stopped.code


def test_an_update_has_a_page(tmp_path: Path) -> None:
    old, new = (path for path in list(report_runs.write_models(tmp_path / "models").values())[:2])
    found = parse(write_update_report(old, new, tmp_path / "page.html"))
    assert "The update breaks" in found.text
    assert page_is_safe(found)


def test_runs_of_one_label_are_averaged(run: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        report_runs.write_run(tmp_path / f"seed-{seed}", samples=200, epochs=4, seed=seed)
    runs = [("method", tmp_path / "seed-1"), ("method", tmp_path / "seed-2"), ("plain", run)]
    found = parse(write_report(runs, tmp_path / "page.html"))
    rows = {row["method"]: row for row in compare_runs(runs).to_rows()}
    least = min(rows, key=lambda label: float(rows[label]["flipping_error"] or 0))
    rate = 100 * float(rows[least]["flipping_error"] or 0)
    assert f"{least} has the fewest flips : {rate:.1f}% of the val samples, on average of its runs" in found.text
    assert "method (seed-1)" in found.text
    assert "method (seed-2)" in found.text
