"""What the page on pipelines shows runs as printed, with the packages that it names and no others."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from lightning_flip import cli

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(yaml|groovy)\n(.*?)```", PAGE, re.DOTALL)
GITHUB, GITLAB = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")
(JENKINS,) = (text for kind, text in BLOCKS if kind == "groovy")
INSTALLED = re.findall(r"pip install ([a-z][a-z -]*)$", PAGE, re.MULTILINE)
JOB = GITLAB["update gate"]


def gate_commands() -> dict[str, str]:
    (github,) = (
        step["run"] for step in GITHUB["jobs"]["gate"]["steps"] if "lightning-flip gate" in step.get("run", "")
    )
    (gitlab,) = (line for line in JOB["script"] if "lightning-flip gate" in line)
    (jenkins,) = re.findall(r"\.gate/bin/(lightning-flip gate .*?)'''", JENKINS, re.DOTALL)
    return {"github": github, "gitlab": gitlab, "jenkins": jenkins.replace("\\\n", " ")}


@pytest.fixture
def files(predictions) -> None:
    Path("predictions").mkdir()
    predictions("predictions/production.parquet", 1000, wrong=[7])
    predictions("predictions/candidate.parquet", 1000, wrong=[3])
    Path("golden_ids.txt").write_text("img/10.png\nimg/20.png\n")


@pytest.mark.parametrize("place", ["github", "gitlab", "jenkins"])
def test_the_command_runs_as_printed(place, files, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    program, *words = shlex.split(gate_commands()[place])
    assert program == "lightning-flip"
    assert cli.main(words) == 0  # one flip among 1,000 samples is within 1%, and among 200 of a class within 3%
    out, err = capsys.readouterr()
    assert err == ""
    assert ("::notice title=Update gate%3A pass::" in out) == Path("summary.md").exists() == (place == "github")
    assert all(Path(name).stat().st_size for name in ("gate.xml", "gate.json", "flips.csv"))


def test_the_pipelines_keep_what_the_gate_writes():
    (upload,) = (step for step in GITHUB["jobs"]["gate"]["steps"] if "upload-artifact" in step.get("uses", ""))
    kept: dict[str, Any] = {
        "github": upload["with"]["path"].split(),
        "gitlab": [*JOB["artifacts"]["paths"], JOB["artifacts"]["reports"]["junit"]],
        "jenkins": re.findall(r"[a-z]+\.(?:xml|json|csv)", JENKINS[JENKINS.index("post {") :]),
    }
    for place, line in gate_commands().items():
        assert sorted(kept[place]) == sorted(re.findall(r"[a-z]+\.(?:xml|json|csv)\b", line)), place
    assert upload["if"] == "always()"
    assert JOB["artifacts"]["when"] == "always"
    assert JOB["allow_failure"] == {"exit_codes": 3}


def test_every_pipeline_installs_the_same():
    assert len(INSTALLED) == 4
    assert len(set(INSTALLED)) == 1
    assert PAGE.count("pip install --no-deps lightning-flip\n") == 4


def test_the_gate_runs_with_the_packages_that_are_named(files):
    """In a process in which no other package can be imported."""
    line = [
        sys.executable,
        "-c",
        _ALONE,
        ",".join(modules(INSTALLED[0].split())),
        *shlex.split(gate_commands()["github"])[1:],
    ]
    result = subprocess.run(line, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Update gate: PASS" in result.stdout


def test_a_package_that_is_named_is_needed(files):
    """Else the list could grow without a test that sees it."""
    words = shlex.split(gate_commands()["github"])[1:]
    for package in INSTALLED[0].split():
        others = [name for name in INSTALLED[0].split() if name != package]
        left = modules(others) - modules([package])
        result = subprocess.run(
            [sys.executable, "-c", _ALONE, ",".join(left), *words], capture_output=True, text=True, timeout=60
        )
        assert result.returncode != 0, package


def modules(packages: list[str]) -> set[str]:
    """The names that packages and their dependencies are imported by."""
    wanted = list(packages)
    for name in wanted:  # grows while it is read
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.name not in wanted and (
                not requirement.marker or requirement.marker.evaluate({"extra": ""})
            ):
                wanted.append(requirement.name)
    distributions = importlib.metadata.packages_distributions()
    return {module for module, names in distributions.items() if any(name.lower() in wanted for name in names)}


_ALONE = """
import sys

named = {"lightning_flip", *sys.argv.pop(1).split(",")}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in named and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv[0] = "lightning-flip"
from lightning_flip.cli import main
sys.exit(main())
"""
