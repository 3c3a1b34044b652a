from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lightning_flip import cli

GUIDE = Path(__file__).parents[2] / "docs" / "update.md"

WORDS = ["plan", "--limit", "1%", "--nfr", "0.4%", "2%"]


def test_the_table_on_the_terminal(command):
    result = command(*WORDS)  # torch and lightning may not be imported there
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("A limit of 1%: samples for a power of 80%\n")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["0.4%", "pass", "1,182", "1,441", "87.1%"] in rows
    assert ["2%", "fail", "905", "1,015", "80%"] in rows
    assert "Fix the number of samples before the test" in " ".join(result.stdout.split())


def test_the_guide_shows_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = [line[4:] for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    place = next(place for place, line in enumerate(lines) if line.startswith("$ lightning-flip plan"))
    assert cli.main(lines[place].split()[2:]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    table = printed[: printed.index(next(line for line in printed if line.startswith("Power:")))]
    assert len(table) == 8
    assert lines[place + 1 :][: len(table)] == table


def test_every_option_reaches_the_plan(capsys):
    options = ["--power", "90%", "--error", "0.1", "--groups", "3", "--looks", "2"]
    options += ["--cluster-size", "4.5", "--samples", "700", "--json", "-"]
    assert cli.main([*WORDS, *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    given = {"limit": 0.01, "goal": 0.9, "error": 0.1, "groups": 3, "looks": 2, "cluster_size": 4.5, "available": 700}
    assert {name: plan[name] for name in given} == given
    assert [one["rate"] for one in plan["rates"]] == [0.004, 0.02]


def test_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = ["--json", "plan.json", "--markdown", "plan.md"]
    assert cli.main([*WORDS, *files, "--figure", "plan.png"]) == 0
    assert capsys.readouterr().out.startswith("A limit of 1%")
    assert json.loads((tmp_path / "plan.json").read_text())["rates"][0]["samples"] == 1441
    assert "| 0.4% | pass | 1,182 | 1,441 | 87.1% |" in (tmp_path / "plan.md").read_text()
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*WORDS, "--figure", "plan.SVG"]) == 0
    assert ElementTree.parse(tmp_path / "plan.SVG").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--limit"),
        (["--limit", "0"], "limit must be between 0 and 1"),
        (["--limit", "1%", "--nfr", "110%"], "--nfr"),
        (["--limit", "1%", "--power", "1"], "power must be between 0 and 1"),
        (["--limit", "1%", "--groups", "0"], "whole number from 1, got '0'"),
        (["--limit", "1%", "--looks", "two"], "whole number from 1, got 'two'"),
        (["--limit", "1%", "--cluster-size", "nan"], "number from 1, got 'nan'"),
        (["--limit", "1%", "--figure", "plan.pdf"], "--figure must end in .png or .svg, got plan.pdf"),
        (["--limit", "1%", "--figure", "-"], "--figure must name a file"),
        (["--limit", "1%", "--figure", "nowhere/plan.png"], "folder that exists"),
        (["--limit", "1%", "--json", "-", "--markdown", "-"], "printed"),
    ],
)
def test_misuse(words, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["plan", *words])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_no_rate_to_draw_writes_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["plan", "--limit", "1%", "--nfr", "1%", "--json", "plan.json", "--figure", "plan.png"]
    assert cli.main(words) == 2
    assert "some number of samples decides" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["scipy", "matplotlib"])
def test_a_missing_package_is_named(package, hide, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    hide(package)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main([*WORDS, "--figure", "plan.png"]) == 2
    assert "pip install 'lightning-flip[report]'" in capsys.readouterr().err
