"""The page of an old and a new model, against numbers counted from the rows in plain Python."""

import collections
import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip.reports.gating.decision import gate
from lightning_flip.reports.page import write_update_report
from lightning_flip.reports.page._document import render_page
from lightning_flip.reports.page._update import update_page
from lightning_flip.reports.update.comparison import compare, compare_joined
from lightning_flip.reports.update.join import JoinedPredictions

Z = 1.959963984540054
NAMES = [f"kind{number}" for number in range(6)]


def wilson(count: int, among: int) -> tuple[float, float]:
    """From the definition: the roots of (count / among - p)^2 = z^2 p (1 - p) / among."""
    share, a = count / among, Z * Z / among
    roots = np.roots([1 + a, -(2 * share + a), share * share])
    return float(min(roots)), float(max(roots))


def shown(share: float) -> str:
    if share < 1e-12 or share > 1 - 1e-12:
        return "0%" if share < 0.5 else "100%"
    return f"{100 * share:.1f}%" if 0.01 <= share <= 0.99 else f"{100 * share:.2f}%"


def plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def section(page: str, id_: str) -> str:
    found = re.search(rf'<section id="{id_}".*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def lead(page: str) -> str:
    return plain(page.split('<div class="lead">')[1].split("<section")[0])


def write(folder: Path, name: str, columns: dict[str, Any]) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


class Models:
    """An old model, a new one and two more of its seeds, on the same samples."""

    def __init__(self, folder: Path, samples: int = 400, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        target = rng.integers(len(NAMES), size=samples)
        self.target = [NAMES[code] for code in target]
        self.ids = [f"pictures/{number:04d}.png" for number in range(samples)]
        self.site = [("north", "south", "")[number % 3] for number in range(samples)]
        self.pred: list[list[str]] = []
        self.sure: list[list[float]] = []
        self.files: list[Path] = []
        for model, errors in enumerate((0.2, 0.15, 0.15, 0.15)):
            wrong = rng.random(samples) < errors
            pred = np.where(wrong, (target + rng.integers(1, len(NAMES), samples)) % len(NAMES), target)
            self.pred.append([NAMES[code] for code in pred])
            self.sure.append(rng.uniform(0.3, 1.0, samples).round(3).tolist())
            columns = {"sample_id": self.ids, "target": self.target, "pred": self.pred[-1]}
            columns |= {"confidence": self.sure[-1], "site": self.site}
            self.files.append(write(folder, f"model{model}", columns))

    def right(self, model: int) -> list[bool]:
        return [pred == target for pred, target in zip(self.pred[model], self.target, strict=True)]

    def flips(self, before: int = 0, after: int = 1) -> list[int]:
        pairs = zip(self.right(before), self.right(after), strict=True)
        return [row for row, (old, new) in enumerate(pairs) if old and not new]

    def by(self, column: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Flips and samples of each value."""
        flips, among = collections.Counter(column[row] for row in self.flips()), collections.Counter(column)
        return {name: (flips[name], count) for name, count in among.items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def page(models: Models) -> str:
    return written(models, floor=models.files[2:], slices=["site"], max_nfr=0.02)


def written(models: Models, **options: Any) -> str:
    out = models.files[0].parent / "page.html"
    return write_update_report(models.files[0], models.files[1], out, **options).read_text(encoding="utf-8")


def joined(target: Sequence[int], old: Sequence[int], new: Sequence[int], **more: Any) -> JoinedPredictions:
    labels = more.pop("labels", tuple(f"k{code}" for code in range(max([*target, *old, *new]) + 1)))
    ids = more.pop("ids", [f"id{number:02d}" for number in range(len(target))])
    return JoinedPredictions(pa.array(ids), labels, *(np.array(codes) for codes in (target, old, new)), **more)


def rendered(update: JoinedPredictions, **options: Any) -> str:
    return render_page(update_page(compare_joined(update), **options))


def test_the_lead_counts_what_breaks_and_what_is_mended(models: Models, page: str) -> None:
    old, new = sum(models.right(0)), sum(models.right(1))
    broken, mended = len(models.flips()), len(models.flips(1, 0))
    wrong = len(models.ids) - old
    words = lead(page)
    low, high = wilson(broken, old)
    breaks = f"The update breaks {broken} of {old} samples that the old model had right ({shown(broken / old)}, 95%"
    assert f"{breaks} interval {shown(low)} to {shown(high)})" in words
    low, high = wilson(mended, wrong)
    mends = f"mends {mended} of {wrong} that it had wrong ({shown(mended / wrong)}, 95% interval {shown(low)} to"
    assert f"{mends} {shown(high)})" in words
    assert f"Accuracy {shown(old / 400)} before, {shown(new / 400)} now ({100 * (new - old) / 400:+.2f} points" in words
    low, high = wilson(broken, 400)
    assert f"Negative flip rate: {shown(broken / 400)}, 95% interval {shown(low)} to {shown(high)}, of 400" in words


def test_the_table_has_the_four_counts_and_their_totals(models: Models, page: str) -> None:
    old, new = models.right(0), models.right(1)
    broken, mended = len(models.flips()), len(models.flips(1, 0))
    both = sum(one and other for one, other in zip(old, new, strict=True))
    table = section(page, "counts").split("</table>")[0]
    rows = [plain(row) for row in re.findall(r"<tr>.*?</tr>", table)]
    assert rows == [
        "new right new wrong total",
        f"old right {both} {broken} broken {sum(old)}",
        f"old wrong {mended} mended {400 - both - broken - mended} {400 - sum(old)}",
        f"total {sum(new)} {400 - sum(new)} 400",
    ]


def test_the_rate_stands_beside_the_rates_between_models_of_the_new_recipe(models: Models, page: str) -> None:
    seeds = (1, 2, 3)
    pairs = [len(models.flips(one, other)) / 400 for one in seeds for other in seeds if one != other]
    ours, mean = len(models.flips()) / 400, sum(pairs) / 6
    found = section(page, "rate")
    assert (
        f"Between 3 models of the new recipe it is {shown(mean)} on average (6 pairs, {shown(min(pairs))} to"
        in plain(found)
    )
    assert f"That of the update is {shown(ours)}, {ours / mean:.1f} times that mean." in plain(found)
    for question, missing in (("An unlucky seed?", 17), ("More than a reseed?", 16)):
        answer = plain(found).split(question)[1]
        assert f"No verdict: it takes {missing} more seeds." in answer or "No verdict: the old model's" in answer
    between = f"it is {shown(min(pairs))} to {shown(max(pairs))}."
    assert f"Between models of the new recipe, which differ in their seeds, {between}" in lead(page)
    wide = found.split('class="chart narrow"')[0]
    assert wide.count("<circle") == len(set(pairs))
    # All marks are on one axis from 0: 12 of 560 is its left end.
    dots = sorted(float(x) - 12 for x in re.findall(r'<circle cx="([\d.]+)"', wide))
    diamond = re.search(r'<path d="M[\d.]+ [\d.]+L([\d.]+)', wide)
    assert diamond is not None
    scale = (float(diamond[1]) - 12) / ours
    assert dots == pytest.approx([scale * value for value in sorted(set(pairs))], abs=0.3)


@pytest.mark.parametrize("kind", ["classes", "slice-0"])
def test_groups_come_with_counts_and_intervals_worst_first(models: Models, page: str, kind: str) -> None:
    groups = models.by(models.target if kind == "classes" else models.site)
    order = sorted(groups, key=lambda name: (-wilson(*groups[name])[0], -groups[name][0], groups[name][1]))
    wide = section(page, kind).split('class="chart narrow"')[0]
    expected = []
    for name in order:
        flips, among = groups[name]
        low, high = wilson(flips, among)
        ends = f"{shown(flips / among)} ({shown(max(low, 0))} to {shown(high)})"
        expected.append(f"{name or '(no value)'}: {ends}, {flips} of {among}")
    assert [html.unescape(told) for told in re.findall(r"<g><title>(.*?)</title>", wide)] == expected
    marks = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*></line><circle cx="([\d.]+)"', wide)
    drawn = np.array(marks, float)
    rates = [(*wilson(*groups[name]), groups[name][0] / groups[name][1]) for name in order]
    scale = np.polyfit(np.ravel(rates), np.ravel(drawn), 1)  # one line: positions are proportional to rates
    assert np.polyval(scale, np.ravel(rates)) == pytest.approx(np.ravel(drawn), abs=0.02)
    ticks = re.findall(r'<text x="([\d.]+)"[^>]*>([\d.]+)%</text>', wide)
    assert [float(x) for x, _ in ticks] == pytest.approx(np.polyval(scale, [float(p) / 100 for _, p in ticks]), abs=0.5)
    assert len(ticks) > 2


def test_classes_that_flip_into_each_other_are_counted(models: Models, page: str) -> None:
    pairs = collections.Counter((models.target[row], models.pred[1][row]) for row in models.flips())
    found = html.unescape(section(page, "pairs"))
    told = re.findall(r"<title>(\w+) → (\w+): (\d+)</title>", found.split('class="chart narrow"')[0])
    assert {(one, other): int(count) for one, other, count in told} == pairs
    first, most = max(pairs.items(), key=lambda pair: pair[1])
    assert re.search(rf"Most often, \w+ turns into \w+ : {most}\.", lead(page)), first


def test_worst_flips_are_listed_by_confidence(models: Models, page: str) -> None:
    def sure(row: int) -> float:
        return models.sure[0][row] + models.sure[1][row]

    rows = sorted(models.flips(), key=lambda row: (-sure(row), models.ids[row]))[:20]
    found = section(page, "worst")
    table = [plain(row) for row in re.findall(r"<tr>.*?</tr>", found)[1:]]
    assert table == [
        f"{models.ids[row]} {models.target[row]} → {models.pred[1][row]} {np.float32(models.sure[0][row]):.2f}"
        f" {np.float32(models.sure[1][row]):.2f}"
        for row in rows
    ]
    assert f"And {len(models.flips()) - 20} more flips." in plain(found)


def test_the_verdict_is_that_of_the_gate(models: Models, page: str) -> None:
    verdict = gate(models.files[0], models.files[1], max_nfr=0.02)
    assert verdict.status == "fail"
    assert "The update fails the gate." in lead(page)
    found = plain(section(page, "verdict"))
    assert "✗ fail: negative flip rate of all samples, at most 2%" in found
    assert verdict.outcomes[0].reason in found
    assert 'id="verdict"' not in written(models)


def test_the_gate_joins_as_the_comparison_does(tmp_path: Path) -> None:
    rows = {"sample_id": ["a", "b", "c"], "target": ["x", None, "y"], "pred": ["x", "x", "y"]}
    old, new = write(tmp_path, "old", rows), write(tmp_path, "new", rows | {"pred": ["y", "x", "y"]})
    out = write_update_report(old, new, tmp_path / "page.html", max_nfr=0.1, drop_unlabelled=True)
    text = out.read_text(encoding="utf-8")
    assert "Left out: 1 sample without a target." in lead(text).replace(" .", ".")
    assert "1 of 2 samples flipped" in plain(section(text, "verdict"))


@pytest.mark.parametrize("function", [False, True])
def test_pictures_of_the_worst_flips(models: Models, tmp_path: Path, function: bool) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    worst = [flip.sample_id for flip in compare(*models.files[:2]).worst.flips]
    missing = worst[3]
    asked: list[str] = []
    for name in worst:
        if name != missing:
            image.new("L", (8, 8), 90).save(tmp_path / name)

    def give(name: str) -> Any:
        asked.append(name)
        return image.open(tmp_path / name)

    images: str | Path | Callable[[str], Any] = give if function else tmp_path
    text = written(models, images=images)
    found = section(text, "worst")
    assert found.count("<use") == 19
    assert [plain(one) for one in re.findall(r"<li>.*?</li>", found)][3].startswith("no picture ")
    assert all(f'aria-label="picture of sample {name}"' in found for name in worst if name != missing)
    assert "1 of 20 pictures" in lead(text)
    assert asked == (worst if function else [])


def test_ids_stay_out_if_they_are_redacted(models: Models, tmp_path: Path) -> None:
    text = written(models, redact_ids=True, images=lambda name: np.ones((4, 4)))
    assert "pictures/" not in text
    assert "sample ids" not in lead(text)
    assert "pictures/" not in written(models, redact_ids=True)
    assert "pictures/" in written(models)
    update = joined([0, 1], [0, 1], [1, 1])
    verdict = gate(update, must_not_flip=["id00"])
    found = rendered(update, verdict=verdict, redact_ids=True)
    assert "id00" not in found
    assert "1 of 1 samples that must not flip are negative flips." in plain(found)
    assert "id00" in section(rendered(update, verdict=verdict), "verdict")


def test_warnings_come_first(tmp_path: Path) -> None:
    update = joined([0, 1], [0, 1], [1, 1], warnings=("The files <may> not belong together.",))
    assert lead(rendered(update)).startswith("old → new Warning: The files <may> not belong together. The update")
    verdict = gate(update, max_nfr=0.1)
    assert lead(rendered(update, verdict=verdict)).count("Warning:") == 1


def test_no_flips_are_said_in_words() -> None:
    found = rendered(joined([0, 1, 1], [0, 1, 0], [0, 1, 1]))
    assert "The update breaks none of 2 samples that the old model had right (0%, 95% interval 0% to" in lead(found)
    assert plain(section(found, "pairs")).endswith("There are no negative flips.")
    assert plain(section(found, "worst")).endswith("There are no negative flips.")
    assert "Most often" not in lead(found)


def test_an_old_model_that_is_never_right_or_always() -> None:
    found = lead(rendered(joined([0, 1], [1, 0], [0, 0])))
    assert "The old model had no sample right , so that the update could break none, and mends 1 of 2" in found
    found = lead(rendered(joined([0, 1], [0, 1], [0, 0])))
    assert "breaks 1 of 2 samples" in found
    assert "The old model had none wrong, so that there was nothing to mend." in found


def test_a_rate_of_nothing_is_not_zero() -> None:
    found = section(rendered(joined([0, 1], [0, 1], [0, 1])), "counts")
    assert "negative flips among the errors now (NFI) - unknown 0 of 0" in plain(found)


def test_one_class_and_no_floor_are_said_in_words() -> None:
    found = rendered(joined([0] * 9, [0] * 9, [0] * 9, labels=("cat",)))
    assert "All samples are of this one class." in section(found, "classes")
    assert "chance alone makes is not known" in section(found, "rate")
    assert "new recipe" not in lead(found)
    assert "<circle" not in section(found, "rate")


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ((), "Neither file has confidences"),
        (("old",), "The new model's confidences are not known."),
        (("new",), "The old model's confidences are not known."),
        (("old", "new"), "right class before plus that of the wrong class now."),
    ],
)
def test_unknown_confidences_are_not_shown_as_numbers(known: Sequence[str], words: str) -> None:
    sure = {f"{name}_confidence": np.array([0.25, 0.5, np.nan]) for name in known}
    found = section(rendered(joined([0, 0, 1], [0, 0, 1], [1, 1, 0], **sure)), "worst")
    assert words in plain(found)
    rows = [plain(row) for row in re.findall(r"<tr>.*?</tr>", found)[1:]]
    if known:
        assert rows[0] == "id01 k0 → k1" + " 0.50" * len(known)
        assert rows[-1] == "id02 k1 → k0" + " -" * len(known)
    else:
        assert rows[0] == "id00 k0 → k1"


def test_many_groups_are_cut_with_a_sentence() -> None:
    target = np.repeat(np.arange(50), 4)
    new = target.copy()
    new[::4] = (target[::4] + 1) % 50
    new[:8] = 49
    update = joined(target.tolist(), target.tolist(), new.tolist())
    found = plain(section(rendered(update), "classes"))
    assert "Not shown: 30 more classes, with 30 negative flips in all, of 120 samples." in found


def test_hostile_names_are_escaped_and_cut() -> None:
    names = ("<script>alert(1)</script>" + "x" * 500, "\u202eturned\n<b>")
    ids = ["<img src=x onerror=alert(1)>" + "y" * 900, 'b"><svg onload=a()>']
    slices = {"<i>site</i>": np.array(["<u>a</u>", ""], object)}
    update = joined([0, 1], [0, 1], [1, 0], labels=names, ids=ids, slices=slices, old_name="/home/ann/<b>")
    for redact in (False, True):
        found = rendered(update, redact_ids=redact)
        for hostile in ("<script>alert", "<img", "<svg onload", "<i>", "<u>", "<b>", "\u202e", "x" * 41, "y" * 81):
            assert hostile not in found, hostile
        assert "ann" not in lead(found)
        assert not re.search(r'\sstyle="', found)
    assert "&lt;script&gt;alert(1)" in found


def test_equal_input_gives_equal_bytes_and_a_folder_form(models: Models, tmp_path: Path) -> None:
    options = {"floor": models.files[2:], "slices": ["site"]}
    assert written(models, **options) == written(models, **options)
    index = write_update_report(*models.files[:2], tmp_path / "folder", **options)
    assert index.name == "index.html"
    assert "<style" not in index.read_text(encoding="utf-8")


def test_a_floor_on_fewer_samples_says_so(models: Models, tmp_path: Path) -> None:
    few = pq.read_table(models.files[2]).slice(0, 100)
    pq.write_table(few, tmp_path / "few.parquet")
    text = written(models, floor=[tmp_path / "few.parquet"], allow_partial=True)
    ours = len([row for row in models.flips() if row < 100]) / 100
    found = plain(section(text, "rate"))
    assert "Here among the 100 of 400 samples that all models have." in found
    assert f"That of the update is {shown(ours)}" in found
    assert f"this update, {shown(ours)}" in found
