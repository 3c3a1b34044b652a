"""No violation of what axe-core checks, in both themes, wide and narrow, with scripts and without."""

from __future__ import annotations

import pytest

from tests.browser.test_rendering import PLAIN


def violations(opened) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(opened.page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for one in found
        for node in one["nodes"][:3]
    ]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["ordinary", "hostile", "no_rows"])
def test_no_violations(name, width, dark, report_of, open_page):
    opened = open_page(report_of(name, pictures=name == "ordinary").as_uri(), dark=dark, width=width)
    assert violations(opened) == []


def test_no_violations_after_use(report_of, open_page):
    opened = open_page(report_of("ordinary").as_uri())
    opened.page.click("#theme")
    opened.page.click("#certain")
    opened.page.select_option("#filter-label", index=2)
    opened.page.locator(".region").first.click()
    opened.page.locator("#suspect-rows .pick").first.click()
    assert violations(opened) == []


def test_no_violations_where_scripts_are_forbidden(report_of, open_page, serve):
    """axe-core itself waits for ever in a browser without scripts; it runs where the page's own are forbidden."""
    opened = open_page(serve(report_of("missing_parts", folder=True).parent, PLAIN))
    assert opened.page.locator(".needs-script:visible").count() == 0
    assert violations(opened) == []


def test_a_strip_can_be_read_without_color(report_of, open_page):
    """Cells differ in height: low for the label, high for the suggestion."""
    opened = open_page(report_of("ordinary").as_uri())
    heights = dict.fromkeys(("f-label", "f-other", "f-suggestion"), 0.0)
    for _ in range(2):  # the worst labels were never predicted, those most often forgotten were; the legend has all
        for style in heights:
            found = opened.page.evaluate(
                """(style) => [...document.querySelectorAll(
                    `#suspects .legend .${style}, #suspect-rows .strip .${style}`
                )].map((path) => path.getBBox().height)""",
                style,
            )
            heights[style] = max([heights[style], *found])
        opened.page.click("[data-sort=forgotten]")
    assert 0 < heights["f-label"] < heights["f-other"] < heights["f-suggestion"]
