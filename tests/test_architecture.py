"""docs/architecture.md names files that are there, and its walks are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def walks() -> list[list[str]]:
    """The files of every walk, in order."""
    section = PAGE.split("## Three walks", 1)[1].split("\n## ", 1)[0]
    return [re.findall(r"^\d+\. `([^`]+)`", walk, re.MULTILINE) for walk in section.split("\n**")[1:]]


@pytest.mark.parametrize(("number", "most"), [(0, 10), (1, 8), (2, 12)])
def test_a_walk_opens_few_files(number: int, most: int) -> None:
    files = walks()[number]
    assert 0 < len(files) == len(set(files)) <= most
    assert all((ROOT / "lightning_flip" / file).is_file() for file in files)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE))))
def test_a_file_that_the_page_names_is_there(name: str) -> None:
    assert (ROOT / name).is_file() or any((ROOT / "lightning_flip").rglob(name))
