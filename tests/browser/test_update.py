"""The page of an old and a new model has the numbers of `compare`, and is as safe and as readable as that of a run."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_flip.reports.page import write_update_report
from lightning_flip.reports.update.comparison import compare
from tests.browser.test_accessibility import violations
from tests.browser.test_rendering import NOT_NUMBERS, PLAIN, WIDTHS
from tests.reports import report_runs
from tests.reports.report_runs import HOSTILE


@pytest.fixture
def models(tmp_path):
    return report_runs.write_models(tmp_path / "models")


def test_the_numbers_of_an_update(models, tmp_path, open_page):
    images = report_runs.write_images(tmp_path / "img", report_runs.picture_names("val", 600), np.arange(600) % 10)
    path = write_update_report(
        models["old"],
        models["new"],
        tmp_path / "u.html",
        max_nfr=0.2,
        images=images,
        floor=models["seed"],
        slices=["site"],
    )
    opened = open_page(path.as_uri(), dark=True)
    update = compare(models["old"], models["new"], floor=models["seed"], slices=["site"])
    cells = opened.page.locator("#update table >> nth=0 >> tbody td").all_inner_texts()
    expected = [update.cells.both_right, update.cells.negative, update.cells.positive, update.cells.both_wrong]
    assert [int(cell.strip("▼▲ ")) for cell in cells] == [int(count) for count in expected]
    assert f"breaks {update.cells.negative} of 600 samples" in opened.text()
    assert f"{100 * update.floor.mean:.1f}% on average" in opened.text()
    assert "? inconclusive" in opened.text() or "✓ pass" in opened.text()
    groups = opened.page.locator("#classes svg.wide text.muted").all_text_contents()
    worst = update.classes.worst_first()[0]
    assert f"{update.classes.cells.negative[worst]} of {update.classes.cells.total[worst]}" in groups
    assert opened.page.locator("#slice-0 svg.wide circle").count() == 3
    assert opened.page.locator("#worst tbody tr").count() == 20
    assert opened.page.locator("#worst svg.thumb:visible").count() == 20
    for width in WIDTHS:
        opened.page.set_viewport_size({"width": width, "height": 900})
        assert opened.overflow() <= 0, width
    assert not NOT_NUMBERS.search(opened.text())
    assert opened.errors == []
    assert violations(opened) == []


def test_what_was_not_given_is_not_computed(models, tmp_path, open_page):
    opened = open_page(write_update_report(models["old"], models["new"], tmp_path / "u.html").as_uri(), scripts=False)
    assert "Not computed. The noise floor" in opened.text()
    assert opened.page.locator("#gate").count() == 0
    assert opened.errors == []


def test_two_equal_models(models, tmp_path, open_page):
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(models["old"].read_bytes())
    opened = open_page(write_update_report(models["old"], copy, tmp_path / "u.html", max_nfr=0.0).as_uri())
    assert "breaks 0 of 600 samples" in opened.text()
    assert "No sample is wrong now that was right before." in opened.text()
    assert not NOT_NUMBERS.search(opened.text())


def test_hostile_names_of_an_update(tmp_path, open_page, serve):
    ids = [f"{text}{number}" for number, text in zip(range(600), HOSTILE * 40, strict=False)]
    names = [f"{text}x" for text in HOSTILE[:10]]
    models = report_runs.write_models(tmp_path / "models", names=names, ids=ids, sites=[*HOSTILE[:6]])
    options = {"slices": ["site"], "max_nfr": 0.1}
    one = write_update_report(models["old"], models["new"], tmp_path / "u.html", **options)
    opened = open_page(one.as_uri())
    assert opened.planted() is None
    assert opened.requests == [one.as_uri()]
    assert opened.errors == []
    assert opened.overflow() <= 0
    assert HOSTILE[0] in opened.text()
    assert not set(opened.page.content()) & set("\u202e\u2066\x00\x07\x1b")
    write_update_report(models["old"], models["new"], tmp_path / "folder", **options)
    assert open_page(serve(tmp_path / "folder", PLAIN)).planted() is None


def test_ids_of_an_update_are_left_out_on_request(models, tmp_path):
    hidden = write_update_report(models["old"], models["new"], tmp_path / "u.html", redact_ids=True)
    assert ".png" not in hidden.read_text(encoding="utf-8")
