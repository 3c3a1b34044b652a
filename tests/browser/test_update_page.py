"""The page of an old and a new model: whole at every width, without errors, requests and violations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_flip.reports.page import write_update_report
from tests.browser.test_accessibility import violations
from tests.reports import report_runs

OPEN = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
HOSTILE = [
    f"<script>window.{report_runs.MARKER}=1</script>{number} & a name that goes on and on" for number in range(10)
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One with everything, and one with hostile names and without pictures, floor and slices."""
    folder = tmp_path_factory.mktemp("updates")
    models = report_runs.write_models(folder / "models")
    options: dict[str, Any] = {"floor": [models["seed"]], "slices": ["site"], "max_nfr": 0.02}
    ids = [f"{number}<script>window.{report_runs.MARKER}=1</script>{'x' * 300}" for number in range(600)]
    hostile = report_runs.write_models(folder / "hostile", names=HOSTILE, ids=ids)
    return {
        "whole": write_update_report(
            models["old"], models["new"], folder / "a.html", images=lambda name: np.eye(8), **options
        ),
        "hostile": write_update_report(hostile["old"], hostile["new"], folder / "b.html"),
    }


@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_every_width_shows_the_whole_page(name, pages, open_page):
    opened = open_page(pages[name].as_uri())
    opened.page.evaluate(OPEN)
    for width in (320, 360, 390, 768, 1280, 1920):
        opened.page.set_viewport_size({"width": width, "height": 900})
        assert opened.overflow() <= 0, width
        table = opened.page.locator("#counts > table").bounding_box()
        card = opened.page.locator("#counts").bounding_box()
        assert table["x"] + table["width"] <= card["x"] + card["width"], width
    assert opened.errors == []
    assert opened.planted() is None
    assert {url for url in opened.requests if not url.startswith("data:")} == {pages[name].as_uri()}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_no_violations(name, width, dark, pages, open_page):
    opened = open_page(pages[name].as_uri(), dark=dark, width=width)
    opened.page.evaluate(OPEN)
    assert violations(opened) == []
