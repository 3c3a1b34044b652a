"""Names, paths and settings that are attacks are shown as text, and run nowhere."""

from __future__ import annotations

import csv

import pytest

from lightning_flip.reports.page import write_report
from lightning_flip.stores import read_history
from tests.browser.test_rendering import PLAIN
from tests.reports.report_runs import HOSTILE, REPORTABLE, hostile

SHOWN = HOSTILE[:12]


def use_everything(opened) -> None:
    """Move over, pick and filter whatever there is, so that handlers would run."""
    for place in range(0, 25, 4):
        opened.page.locator("#suspect-rows .pick").nth(place).click()
        opened.page.locator("#suspect-rows .pick").nth(place).hover()
    for choice in ("#filter-label", "#filter-suggestion"):
        for value in opened.page.locator(f"{choice} option").all()[1:4]:
            opened.page.select_option(choice, value=value.get_attribute("value"))
        opened.page.select_option(choice, value="")
    for _ in range(3):
        opened.page.click("#next")


def text_of_facts(opened) -> str:
    for one in opened.page.locator("#facts summary").all():
        one.click()
    return str(opened.page.locator("#facts").inner_text())


def test_nothing_planted_runs(report_of, open_page):
    path = report_of("hostile")
    opened = open_page(path.as_uri())
    assert opened.planted() is None
    use_everything(opened)
    opened.page.wait_for_timeout(200)
    assert opened.planted() is None
    assert opened.errors == []
    assert opened.requests == [path.as_uri()]
    assert (
        opened.page.locator("section script, section iframe, section img, section form, section [onload]").count() == 0
    )


def test_nothing_planted_runs_where_a_server_allows_everything(report_of, open_page, serve):
    index = report_of("hostile", folder=True)
    opened = open_page(serve(index.parent, "default-src * 'unsafe-inline' 'unsafe-eval' data:"))
    use_everything(opened)
    assert opened.planted() is None


def test_nothing_planted_runs_without_the_pages_own_policy(report_of, open_page, tmp_path):
    """Escaping alone is enough."""
    text = report_of("hostile").read_text(encoding="utf-8")
    start = text.index('<meta http-equiv="Content-Security-Policy"')
    path = tmp_path / "open.html"
    path.write_text(text[:start] + text[text.index(">", start) + 1 :], encoding="utf-8")
    opened = open_page(path.as_uri())
    use_everything(opened)
    assert opened.planted() is None
    assert opened.errors == []
    assert opened.requests == [path.as_uri()]


@pytest.mark.parametrize("scripts", [True, False])
def test_the_pages_policy_stops_what_was_planted_all_the_same(scripts, report_of, open_page, tmp_path):
    """The marker does work: with markup in the page that is not escaped, the policy alone stops it."""
    text = report_of("hostile").read_text(encoding="utf-8")
    planted = f"{HOSTILE[0]}<img src=x onerror={'window.__planted=1'}>"
    start = text.index('<meta http-equiv="Content-Security-Policy"')
    without = text[:start] + text[text.index(">", start) + 1 :]
    (tmp_path / "kept.html").write_text(text.replace("<main", planted + "<main"), encoding="utf-8")
    (tmp_path / "open.html").write_text(without.replace("<main", planted + "<main"), encoding="utf-8")
    assert open_page((tmp_path / "kept.html").as_uri(), scripts=scripts).planted() is None
    assert open_page((tmp_path / "open.html").as_uri(), scripts=scripts).planted() == (1 if scripts else None)


def test_names_are_shown_as_they_are(report_of, open_page):
    opened = open_page(report_of("hostile").as_uri())
    options = opened.page.locator("#filter-label option").all_inner_texts()
    for name in HOSTILE[:6]:
        assert any(option.startswith(name[:12]) for option in options), name
    facts = text_of_facts(opened)
    for name in SHOWN:
        assert name in facts, name


def test_ids_are_shown_as_they_are(report_of, open_page, tmp_path):
    path = report_of("hostile")
    opened = open_page(path.as_uri())
    seen = set()
    while True:
        seen |= {one.get_attribute("title") for one in opened.page.locator("#suspect-rows .pick").all()}
        if opened.page.locator("#next").is_disabled():
            break
        opened.page.click("#next")
    rows = read_history(hostile(tmp_path / "run")).samples("train")["sample_id"].to_pylist()
    plain = {name for name in rows if name.isprintable() and name.strip() and len(name) <= 200}
    assert len(plain) > 200
    assert plain <= seen


def test_no_direction_is_changed(report_of, open_page):
    """Characters that reverse text, or hide it, are not in the page."""
    opened = open_page(report_of("hostile").as_uri())
    for text in (opened.text(), opened.page.content()):
        assert not set(text) & set(
            "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u200b\ufeff\x00\x07\x1b"
        )


def test_no_cell_of_the_list_is_a_formula(report_of, open_page):
    opened = open_page(report_of("hostile").as_uri())
    with opened.page.expect_download() as download:
        opened.page.click("#csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 401
    assert {len(row) for row in rows} == {len(rows[0])}
    cells = [cell for row in rows[1:] for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [cell for cell in cells if cell.startswith("'=HYPERLINK")]


def test_one_long_name_does_not_widen_the_page(report_of, open_page):
    for width in (360, 1280):
        assert open_page(report_of("hostile").as_uri(), width=width).overflow() <= 0


def test_secrets_and_homes_are_not_in_the_file(tmp_path, open_page):
    import json

    run = REPORTABLE["one_epoch"](tmp_path / "run")
    content = json.loads((run / "run.json").read_text())
    content["info"] |= {
        "wandb_api_key": "PLANTED1",
        "remote": "https://ann:PLANTED2@example.org",
        "root": "/home/ann/x",
    }
    (run / "run.json").write_text(json.dumps(content))
    (run / "hparams.yaml").write_text("hf_token: PLANTED3\ncommand: [train.py, --password, PLANTED4]\n")
    path = write_report(run, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert "PLANTED" not in text
    assert "/home/ann" not in text
    shown = text_of_facts(open_page(path.as_uri()))
    assert "[hidden]" in shown
    assert "~/x" in shown


def test_ids_are_left_out_on_request(tmp_path):
    run = REPORTABLE["one_epoch"](tmp_path / "run")
    text = write_report(run, tmp_path / "report.html", redact_ids=True).read_text(encoding="utf-8")
    assert ".png" not in text
    assert ".png" in write_report(run, tmp_path / "other.html").read_text(encoding="utf-8")


def test_a_folder_stays_within_the_servers_policy(report_of, open_page, serve):
    index = report_of("hostile", folder=True)
    opened = open_page(serve(index.parent, PLAIN))
    assert opened.planted() is None
    assert HOSTILE[0] in opened.text()
