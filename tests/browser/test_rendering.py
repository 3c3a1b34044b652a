"""Every report is shown whole, without errors and requests: at every width, with scripts and where none may run."""

from __future__ import annotations

import re

import pytest

from tests.reports.report_runs import REPORTABLE

JENKINS = "sandbox; default-src 'none'; img-src 'self'; style-src 'self'"
PLAIN = "default-src 'none'; img-src 'self'; style-src 'self'"
WIDTHS = (360, 390, 768, 1280, 1920)
SECTIONS = {"suspects", "map", "confusion", "sample", "flips", "who", "forgetting", "facts"}
# What a number becomes that nobody computed.
NOT_NUMBERS = re.compile(r"\b(?:NaN|nan|undefined|null|None|Infinity|inf|-?1e\+?\d+)\b|\[object")

runs = pytest.mark.parametrize("name", REPORTABLE)


def check_sections(opened, name: str) -> None:
    """Every section has a heading and something below it that is seen."""
    found = opened.page.locator("section")
    shown = {found.nth(place).get_attribute("id") for place in range(found.count())}
    assert shown == (SECTIONS - {"map", "confusion", "sample"} if name == "no_rows" else SECTIONS)
    for place in range(found.count()):
        section = found.nth(place)
        assert section.locator("h2").inner_text()
        box = section.bounding_box()
        assert box["height"] > 60
        content = section.locator("svg.chart:visible, table:visible, .missing:visible, dl:visible")
        assert content.count(), section.get_attribute("id")


def check_text(opened, name: str) -> None:
    if name != "hostile":
        assert not NOT_NUMBERS.search(opened.text())


def check_widths(opened) -> None:
    for width in WIDTHS:
        opened.page.set_viewport_size({"width": width, "height": 900})
        if opened.overflow() > 0:  # the canvas of the map follows the window a moment later
            opened.page.wait_for_timeout(1_000)
        assert opened.overflow() <= 0, width


@runs
def test_one_file_with_scripts(name, report_of, open_page):
    path = report_of(name)
    opened = open_page(path.as_uri())
    check_sections(opened, name)
    check_text(opened, name)
    check_widths(opened)
    assert opened.errors == []
    assert opened.requests == [path.as_uri()]


@runs
def test_one_file_without_scripts(name, report_of, open_page):
    path = report_of(name)
    opened = open_page(path.as_uri(), scripts=False, dark=True)
    check_sections(opened, name)
    check_text(opened, name)
    assert opened.page.locator(".needs-script:visible, canvas:visible").count() == 0
    assert opened.errors == []
    assert opened.requests == [path.as_uri()]


@runs
def test_a_folder_where_scripts_are_forbidden(name, report_of, open_page, serve):
    index = report_of(name, folder=True)
    address = serve(index.parent, PLAIN)
    opened = open_page(address)
    check_sections(opened, name)
    check_text(opened, name)
    check_widths(opened)
    assert opened.page.locator(".needs-script:visible, canvas:visible").count() == 0
    assert {url.removeprefix(address) for url in opened.requests} <= {"", "page.css", "page.js", "favicon.ico"}
    (error,) = opened.errors  # of the server's policy, which forbids scripts
    assert "Loading the script" in error
    assert "page.js" in error


def test_a_folder_with_scripts(report_of, open_page, serve):
    index = report_of("ordinary", folder=True)
    opened = open_page(serve(index.parent, "default-src 'self'"))
    check_sections(opened, "ordinary")
    assert opened.errors == []
    assert opened.page.locator("#count:visible").inner_text() == "500 of 500 samples"


@pytest.mark.parametrize("policy", [PLAIN, JENKINS])
def test_pictures_and_style_where_nothing_may_be_inline(policy, report_of, open_page, serve):
    index = report_of("ordinary", folder=True, pictures=True)
    opened = open_page(serve(index.parent, policy))
    assert opened.page.evaluate("getComputedStyle(document.querySelector('section')).borderTopLeftRadius") != "0px"
    assert opened.page.locator("svg.thumb:visible").count() == 25
    assert _colors(opened, "svg.thumb >> nth=0") > 20


@pytest.mark.parametrize("scripts", [True, False])
def test_pictures_in_one_file(scripts, report_of, open_page):
    path = report_of("ordinary", pictures=True)
    opened = open_page(path.as_uri(), scripts=scripts)
    assert opened.page.locator("svg.thumb:visible").count() == 25
    for place in (0, 24):
        assert _colors(opened, f"svg.thumb >> nth={place}") > 20
    assert _colors(opened, "svg.picture") > 20
    assert opened.errors == []
    assert {url for url in opened.requests if not url.startswith("data:image/webp")} == {path.as_uri()}
    assert "Whoever gets this file gets labels, sample ids and pictures of the data." in opened.text()


def test_the_two_forms_show_the_same(report_of, open_page, serve):
    one = open_page(report_of("ordinary").as_uri(), scripts=False)
    other = open_page(serve(report_of("ordinary", folder=True).parent, PLAIN))
    assert one.text() == other.text()


def test_narrow_charts_take_the_place_of_wide_ones(report_of, open_page):
    opened = open_page(report_of("ordinary").as_uri(), width=360)
    assert opened.page.locator("#flips svg.narrow:visible").count() == 1
    assert opened.page.locator("#flips svg.wide:visible").count() == 0
    opened.page.set_viewport_size({"width": 1280, "height": 900})
    assert opened.page.locator("#flips svg.narrow:visible").count() == 0
    assert opened.page.locator("#flips svg.wide:visible").count() == 1


def _colors(opened, selector: str) -> int:
    """How many colors a part of the page is painted in."""
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(opened.page.locator(selector).screenshot()))
    return len(picture.convert("RGB").getcolors(2**24))
