"""What a reader can do: sort, filter, turn pages, choose on the map, pick a sample, save the list, change the theme."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from lightning_flip.stores import read_history
from tests.reports import report_runs


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> list[dict]:
    """The samples of the ordinary run, the worst first."""
    run = report_runs.ordinary(tmp_path_factory.mktemp("run") / "ordinary")
    rows = read_history(run).label_scores("train").to_pylist()
    return sorted(rows, key=lambda row: (row["label_score"], row["index"]))


@pytest.fixture
def opened(report_of, open_page):
    found = open_page(report_of("ordinary").as_uri())
    yield found
    assert found.errors == []


def column(opened, name: str) -> list[str]:
    return [text.strip() for text in opened.page.locator(f"#suspect-rows td.{name}").all_inner_texts()]


def samples(opened) -> list[str]:
    return column(opened, "sample")


def names(rows: list[dict]) -> list[str]:
    return [row["sample_id"] for row in rows]


def press(opened, name: str, within: str = "#suspects") -> None:
    opened.page.locator(within).get_by_role("button", name=name, exact=True).click()


def saved(opened) -> list[dict[str, str]]:
    with opened.page.expect_download() as download:
        opened.page.click("#csv")
    assert download.value.suggested_filename == "suspects.csv"
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def brush(opened, low: tuple[float, float], high: tuple[float, float]) -> None:
    """Drag from one place of the map to another, in shares of its width and height from the lower left."""
    canvas = opened.page.locator("#map-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + (1 - y) * box["height"]) for x, y in (low, high)]
    opened.page.mouse.move(*places[0])
    opened.page.mouse.down()
    opened.page.mouse.move(*np.mean(places, axis=0))
    opened.page.mouse.move(*places[1])
    opened.page.mouse.up()


def test_the_worst_labels_come_first(opened, scores):
    assert samples(opened) == names(scores[:25])
    assert column(opened, "score") == [f"{row['label_score']:.3f}" for row in scores[:25]]
    assert column(opened, "label") == [row["given_name"] for row in scores[:25]]
    assert column(opened, "suggestion") == [row["predicted_name"] for row in scores[:25]]


def test_the_table_is_the_same_without_scripts(opened, report_of, open_page):
    plain = open_page(report_of("ordinary").as_uri(), scripts=False)
    for name in ("sample", "label", "suggestion", "score", "forgotten"):
        assert column(opened, name) == column(plain, name)
    strips = "#suspect-rows svg.strip >> nth=3"
    drawn = [one.page.locator(strips).inner_html().replace(".00 ", " ") for one in (opened, plain)]
    assert opened.page.locator(strips).get_attribute("aria-label") == plain.page.locator(strips).get_attribute(
        "aria-label"
    )
    assert drawn[0] == drawn[1]


def test_pages(opened, scores):
    assert opened.page.locator("#before").is_disabled()
    press(opened, "next")
    assert samples(opened) == names(scores[25:50])
    assert opened.page.locator("#range").inner_text() == "26 to 50"
    press(opened, "before")
    assert samples(opened) == names(scores[:25])
    for _ in range(19):
        press(opened, "next")
    assert samples(opened) == names(scores[475:])
    assert opened.page.locator("#next").is_disabled()


def test_sorting(opened, scores):
    press(opened, "forgotten")
    most = sorted(scores, key=lambda row: -row["forgetting_events"])
    assert column(opened, "forgotten") == [str(row["forgetting_events"]) for row in most[:25]]
    header = opened.page.locator("th[data-sort=forgotten]")
    assert header.get_attribute("aria-sort") == "descending"
    press(opened, "forgotten ↓")
    assert set(column(opened, "forgotten")) == {"0"}
    assert header.get_attribute("aria-sort") == "ascending"
    press(opened, "score")
    press(opened, "score ↑")
    assert samples(opened) == names(scores[:-26:-1])


def test_filters(opened, scores):
    opened.page.select_option("#filter-label", label="cat")
    cats = [row for row in scores if row["given_name"] == "cat"]
    assert samples(opened) == names(cats[:25])
    assert opened.page.locator("#count").inner_text() == f"{len(cats)} of 500 samples"
    opened.page.select_option("#filter-suggestion", label="bird")
    both = [row for row in cats if row["predicted_name"] == "bird"]
    assert samples(opened) == names(both[:25])
    press(opened, "only almost certain")
    certain = [row for row in both if row["is_label_issue"]]
    assert samples(opened) == names(certain[:25])
    assert 0 < len(certain) < len(both) < len(cats)


def test_nothing_matches(opened):
    opened.page.select_option("#filter-label", label="cat")
    opened.page.select_option("#filter-suggestion", label="cat")
    assert samples(opened) == []
    assert opened.page.locator("#range").inner_text() == "none"
    assert opened.page.locator("#next").is_disabled()


def test_a_selection_on_the_map_filters_the_table(opened, scores):
    brush(opened, (0.02, 0.02), (0.5, 0.5))
    chosen = {row["sample_id"] for row in saved_rows(opened)}
    inside = [row for row in scores if 0.012 < row["variability"] < 0.248 and 0.022 < row["confidence"] < 0.498]
    around = [row for row in scores if 0.008 < row["variability"] < 0.252 and 0.018 < row["confidence"] < 0.502]
    assert len(inside) > 20
    assert set(names(inside)) <= chosen <= set(names(around))
    assert opened.page.locator("#count").inner_text() == f"{len(chosen)} of 500 samples"
    press(opened, "clear selection")
    assert opened.page.locator("#count").inner_text() == "500 of 500 samples"


def saved_rows(opened) -> list[dict[str, str]]:
    return saved(opened)


def test_a_region_of_the_map(opened, scores):
    press(opened, "hard to learn", "#map")
    hard = [row for row in scores if row["variability"] <= 0.2 and row["confidence"] <= 0.3]
    assert opened.page.locator("#count").inner_text() == f"{len(hard)} of 500 samples"
    assert opened.page.locator(".region[aria-pressed=true]").inner_text() == "hard to learn"
    press(opened, "all", "#map")
    assert opened.page.locator("#count").inner_text() == "500 of 500 samples"


def test_the_map_with_the_keyboard(opened):
    opened.page.focus("#map-canvas")
    opened.page.keyboard.press("ArrowLeft")
    first = opened.page.locator("#count").inner_text()
    assert first != "500 of 500 samples"
    for _ in range(4):
        opened.page.keyboard.press("Shift+ArrowRight")
    assert opened.page.locator("#count").inner_text() != first
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#count").inner_text() == "500 of 500 samples"


def test_picking_a_sample(opened, scores):
    press(opened, scores[3]["sample_id"])
    assert opened.page.locator("#sample-name").inner_text() == scores[3]["sample_id"]
    assert opened.page.locator("#sample-label").inner_text() == scores[3]["given_name"]
    assert opened.page.locator("#sample-score").inner_text() == f"{scores[3]['label_score']:.3f}"
    right = f"in {scores[3]['times_right']} of {scores[3]['visits']} passes"
    assert opened.page.locator("#sample-right").inner_text() == right
    assert opened.page.locator("#suspect-rows tr.picked td.sample").inner_text() == scores[3]["sample_id"]


def test_the_worst_sample_is_drawn_as_it_is_without_scripts(opened, report_of, open_page, scores):
    plain = open_page(report_of("ordinary").as_uri(), scripts=False)
    press(opened, scores[1]["sample_id"])
    press(opened, scores[0]["sample_id"])
    for fact in ("name", "label", "suggestion", "score", "forgotten"):
        shown = [one.page.locator(f"#sample-{fact}").inner_text() for one in (opened, plain)]
        assert shown[0] == shown[1]
    lines = [one.page.locator("#sample svg.wide .line").get_attribute("d") for one in (opened, plain)]
    points = [
        [float(part) for part in line.replace("h.1", "").replace("M", " ").replace("L", " ").split()] for line in lines
    ]
    assert len(points[0]) == len(points[1]) == 24
    np.testing.assert_allclose(points[0], points[1], atol=0.6)


def test_a_click_on_the_map_picks_the_sample_there(opened, scores):
    lonely = scores[-1]
    canvas = opened.page.locator("#map-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    place = box["x"] + lonely["variability"] * 2 * box["width"], box["y"] + (1 - lonely["confidence"]) * box["height"]
    opened.page.mouse.click(*place)
    shown = opened.page.locator("#sample-name").inner_text()
    picked = next(row for row in scores if row["sample_id"] == shown)
    assert abs(picked["confidence"] - lonely["confidence"]) < 0.01


def test_the_list_as_csv(opened, scores):
    opened.page.select_option("#filter-label", label="dog")
    rows = saved(opened)
    dogs = [row for row in scores if row["given_name"] == "dog"]
    assert [row["sample_id"] for row in rows] == names(dogs)
    for row, expected in zip(rows, dogs, strict=True):
        assert int(row["index"]) == expected["index"]
        assert (row["given_label"], row["given_name"]) == (str(expected["given_label"]), "dog")
        assert row["predicted_name"] == expected["predicted_name"]
        assert float(row["label_score"]) == pytest.approx(expected["label_score"], abs=1e-4)
        assert row["is_label_issue"] == str(expected["is_label_issue"])
        assert row["disagrees"] == str(expected["disagrees"])
        assert int(row["forgetting_events"]) == expected["forgetting_events"]


def test_the_theme(opened):
    def background() -> str:
        return str(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    def map_colors() -> set:
        from PIL import Image

        picture = Image.open(io.BytesIO(opened.page.locator("#map-canvas").screenshot())).convert("RGB")
        return {color for _, color in picture.getcolors(2**24)}

    light, points = background(), map_colors()
    opened.page.click("#theme")
    assert sum(map(int, background()[4:-1].split(","))) < 200 < sum(map(int, light[4:-1].split(",")))
    assert map_colors().isdisjoint(set(list(points)[:3])) or map_colors() != points
    opened.page.click("#theme")
    assert background() == light


def test_the_keyboard_reaches_every_control(opened):
    reached = set()
    for _ in range(80):
        opened.page.keyboard.press("Tab")
        reached.add(opened.page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = {
        "skip",
        "theme",
        "filter-label",
        "filter-suggestion",
        "certain",
        "csv",
        "pick",
        "next",
        "region",
        "map-canvas",
    }
    assert wanted <= reached


def test_links_lead_to_sections(opened):
    opened.page.emulate_media(reduced_motion="reduce")  # a click while the page glides ends that, and its own way, too
    links = opened.page.locator("nav a").all()
    assert len(links) >= 8
    for link in links:
        link.click()
        target = opened.page.locator(link.get_attribute("href"))
        opened.page.wait_for_function(
            "one => { const top = one.getBoundingClientRect().top; return top > 0 && top < innerHeight }",
            arg=target.locator("h2").element_handle(),
        )
