"""The programs and commands of the guide to wrong labels run as printed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "suspects.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|console|text)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def printed(blocks: list[tuple[str, str]]) -> list[str]:
    """What each block of the page prints, in order; for the text of a page, nothing."""
    from lightning_flip import cli

    names: dict[str, Any] = {"__name__": "guide"}
    found = []
    for kind, content in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if kind == "python":
                exec(compile(content, "docs/suspects.md", "exec"), names)
            for line in re.findall(r"^\$ lightning-flip (.*)", content, re.MULTILINE) if kind == "console" else ():
                print(f"$ lightning-flip {line}")
                assert cli.main(shlex.split(line)) == 0, line
        found.append(out.getvalue())
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which the page ran, and what it printed; in a process of its own: `datasets` leaves files open."""
    folder = tmp_path_factory.mktemp("page")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "COLUMNS": "100"}
    environment = os.environ | offline | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-W", "ignore", str(Path(__file__)), str(folder / "printed.json")]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "printed.json").read_text(encoding="utf-8"))


def without_numbers(text: str) -> set[str]:
    """The sentences of a text, whatever their numbers; rows of a table and strips are left out."""
    words = re.sub(r"\s+", " ", re.sub(r"^.*[▁█▄·].*$|^─+$", "", text, flags=re.MULTILINE))
    return {re.sub(r"[\d.,%]+", "#", sentence).strip() for sentence in re.split(r"(?<=[.:;]) |\$ ", words)} - {""}


@pytest.mark.slow
def test_the_page_prints_what_it_shows(page: tuple[Path, list[str]]) -> None:
    _, found = page
    for place, (kind, content) in enumerate(BLOCKS):
        if kind == "text":
            assert without_numbers(content) == without_numbers(found[place - 1])
        elif kind == "console" and set(re.findall("^.", content, re.MULTILINE)) != {"$"}:  # shows what is printed
            assert without_numbers(content) == without_numbers(found[place])


@pytest.mark.slow
def test_most_of_what_is_found_is_wrong(page: tuple[Path, list[str]]) -> None:
    _, found = page
    shares = [float(share) for share in re.findall(r"of which ([\d.]+)% are wrong", "".join(found))]
    assert len(shares) == 3
    assert min(shares) > 90


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Support for class-based `config` is deprecated")
@pytest.mark.filterwarnings(r"ignore:Keys \['score'\] in data")
def test_argilla_takes_the_records_with_the_settings_shown(
    page: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import argilla as rg
    from argilla.records._mapping import IngestedRecordMapper

    (program,) = (block for block in re.findall(r"^```py\n(.*?)^```", GUIDE, re.M | re.S) if "argilla" in block)
    monkeypatch.chdir(page[0])
    monkeypatch.setattr(rg.Argilla, "__new__", lambda cls, **options: mock.MagicMock())
    monkeypatch.setattr(rg.Argilla, "_get_default", mock.MagicMock())
    monkeypatch.setattr(rg, "Dataset", mock.MagicMock())
    with mock.patch("builtins.open", lambda name: io.StringIO(Path(name).read_text(encoding="utf-8"))):
        exec(compile(program, "docs/suspects.md", "exec"), names := {})
    settings = names["settings"]
    ((records,), options) = names["dataset"].records.log.call_args
    dataset = mock.Mock(settings=settings, schema=settings.schema, questions=settings.questions)
    read = list(map(IngestedRecordMapper(dataset, user_id=None, **options), records))
    assert len(read) == 50
    assert all(record.fields.to_dict()["image"].startswith("data:image/png;base64,") for record in read)
    assert all(0 < record.suggestions["label"].score <= 1 for record in read)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(printed(BLOCKS)), encoding="utf-8")
