"""The page of an old and a new model: whole, without errors, requests and violations, and nothing runs in it."""

from __future__ import annotations

import pytest

from lightning_flip.reports.page import write_update_report
from tests.browser.test_accessibility import violations
from tests.browser.test_rendering import NOT_NUMBERS, PLAIN, check_widths
from tests.reports.report_runs import HOSTILE, write_models

CASES = {
    "ordinary": {},
    "hostile": {
        "names": HOSTILE[:10],
        "ids": [f"{HOSTILE[number % len(HOSTILE)]}{number}" for number in range(600)],
        "sites": HOSTILE[:5],
    },
    "no_names": {"names": None},
    "thousand_classes": {"names": [f"class {number}" for number in range(1_000)], "classes": 1_000},
}
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """page_of(case, folder=False): the HTML file of the page of two models."""

    def write(case: str, *, folder: bool = False):
        root = tmp_path_factory.mktemp("models")
        paths = write_models(root, **CASES[case])
        out = root / ("page" if folder else "page.html")
        return write_update_report(
            paths["old"], paths["new"], out, max_nfr=0.05, slices=["site"], floor=[paths["seed"]]
        )

    return write


def check(opened, case: str) -> None:
    sections = opened.page.locator("section").all()
    assert len(sections) >= 6
    for section in sections:
        assert section.locator("h2").inner_text()
        assert section.bounding_box()["height"] > 60
        assert len(section.inner_text().splitlines()) > 2
    assert opened.page.locator("section svg:visible").count()
    assert opened.page.locator("section table:visible").count() >= 2
    assert opened.planted() is None
    if case == "hostile":
        assert HOSTILE[0] in opened.text()
    else:
        assert not NOT_NUMBERS.search(opened.text())


@cases
def test_one_file(case, page_of, open_page):
    path = page_of(case)
    opened = open_page(path.as_uri())
    check(opened, case)
    check_widths(opened)
    assert opened.errors == []
    assert opened.requests == [path.as_uri()]
    plain = open_page(path.as_uri(), scripts=False)
    assert plain.errors == []
    assert plain.page.inner_text("main") == opened.page.inner_text("main")


@cases
def test_a_folder_where_scripts_are_forbidden(case, page_of, open_page, serve):
    address = serve(page_of(case, folder=True).parent, PLAIN)
    opened = open_page(address)
    check(opened, case)
    check_widths(opened)
    assert {url.removeprefix(address) for url in opened.requests} <= {"", "page.css", "page.js", "favicon.ico"}
    assert [error for error in opened.errors if "Loading the script" not in error] == []


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False), (390, False), (1280, True)])
@pytest.mark.parametrize("case", ["ordinary", "hostile"])
def test_no_violations(case, width, dark, page_of, open_page):
    assert violations(open_page(page_of(case).as_uri(), dark=dark, width=width)) == []
