"""The commands of the guide to updates do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lightning_flip import cli

GUIDE = (Path(__file__).parents[2] / "docs" / "update.md").read_text(encoding="utf-8")
INDENTED = re.findall(r"^    lightning-flip (?:compare|gate) (?:.*\\\n)*.*", GUIDE, re.MULTILINE)


@pytest.mark.parametrize("line", INDENTED, ids=["compare", "gate"])
def test_a_command_runs_as_printed(line, predictions, capsys):
    site = {"site": ["a", "b"] * 500}
    for name in ("old",):
        predictions(f"{name}.parquet", 1000, wrong=[7], **site)
    for shift, name in enumerate(("new", "new-seed1", "new-seed2")):
        predictions(f"{name}.parquet", 1000, wrong=[shift], **site)
    Path("golden_ids.txt").write_text("img/10.png\nimg/20.png\n")
    program, *words = shlex.split(line.replace("\\\n", " "))
    assert program == "lightning-flip"
    # One flip among 1,000 samples is within 1%, and among 200 of a class within 3%.
    assert cli.main(words) == 0
    assert capsys.readouterr().err == ""
    named = [words[place + 1] for place, word in enumerate(words) if word in ("--junit", "--json", "--markdown")]
    assert all(Path(name).stat().st_size for name in named)
