"""The commands of the guide to updates do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lightning_flip import cli

GUIDE = (Path(__file__).parents[2] / "docs" / "update.md").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[1])
STEPS = WORKFLOW["jobs"]["gate"]["steps"]
INDENTED = re.findall(r"^    lightning-flip (?:compare|gate) (?:.*\\\n)*.*", GUIDE, re.MULTILINE)
IN_WORKFLOW = [step["run"] for step in STEPS if "lightning-flip gate" in step.get("run", "")]


@pytest.mark.parametrize("line", [*INDENTED, *IN_WORKFLOW], ids=["compare", "gate", "workflow"])
def test_a_command_runs_as_printed(line, predictions, capsys):
    Path("predictions").mkdir()
    site = {"site": ["a", "b"] * 500}
    for name in ("old", "predictions/production"):
        predictions(f"{name}.parquet", 1000, wrong=[7], **site)
    for shift, name in enumerate(("new", "new-seed1", "new-seed2", "predictions/candidate")):
        predictions(f"{name}.parquet", 1000, wrong=[shift], **site)
    Path("golden_ids.txt").write_text("img/10.png\nimg/20.png\n")
    program, *words = shlex.split(line.replace("\\\n", " "))
    assert program == "lightning-flip"
    # One flip among 1,000 samples is within 1%, and among 200 of a class within 3%.
    assert cli.main(words) == 0
    assert capsys.readouterr().err == ""
    named = [words[place + 1] for place, word in enumerate(words) if word in ("--junit", "--json", "--markdown")]
    assert all(Path(name).stat().st_size for name in named)


def test_the_workflow_uses_what_the_gate_writes():
    (command,) = IN_WORKFLOW
    after = [step for step in STEPS if step.get("run") != command]
    used = set(re.findall(r"\bgate\.\w+", yaml.safe_dump(after)))
    assert used == {"gate.md", "gate.json", "gate.xml"}
    assert used <= set(shlex.split(command))
