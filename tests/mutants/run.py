"""Apply one mutant after the other to a copy of the package: ``python tests/mutants/run.py [--only NAME] [FOLDER]``.

A mutant is a mistake that a change could make, and the tests that have to notice it. ``steps.toml`` holds those of
``lightning_flip/steps/``: the text ``find`` occurs once in that folder and becomes ``replace``. A test is named as
``folder::name`` or ``file::name`` below ``tests/``. Files of the package and of tests may be merged and renamed.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("lightning_flip", "tests", "examples", "docs", "README.md", "CHANGELOG.md", "pyproject.toml", "Makefile")
MOST_SECONDS = 240  # a rank that waits for another one has noticed something, too


@dataclass(frozen=True)
class Mutant:
    """``why`` says what goes wrong for a user."""

    name: str
    folder: str
    find: str
    replace: str
    why: str
    tests: tuple[str, ...]

    def place(self, root: Path) -> Path:
        """The one file of the package that holds the text, and holds it once."""
        files = sorted((root / "lightning_flip" / self.folder).rglob("*.py"))
        counts = {path: path.read_text(encoding="utf-8").count(self.find) for path in files}
        if sum(counts.values()) != 1:
            found = {path.name: count for path, count in counts.items() if count}
            raise LookupError(f"{self.name}: the text has to occur once in {self.folder}/, and it is in {found}.")
        return max(counts, key=lambda path: counts[path])

    def node_ids(self, root: Path) -> list[str]:
        """The tests as pytest knows them."""
        found = []
        for test in self.tests:
            folder, name = test.split("::")
            start = root / "tests" / folder
            for path in sorted(start.rglob("test_*.py")) if start.is_dir() else [start]:
                holders = _holders(path, name.partition("[")[0])
                found += [f"{path.relative_to(root).as_posix()}::{holder}{name}" for holder in holders]
            if not found:
                raise LookupError(f"{self.name}: there is no {name} in tests/{folder}.")
        return found


def _holders(path: Path, name: str) -> Iterator[str]:
    """The classes, or "" for the module, in which a file has a test of that name."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if f"def {name}(" in text:
        module = ast.parse(text)
        for part in (module, *(node for node in module.body if isinstance(node, ast.ClassDef))):
            if any(isinstance(node, ast.FunctionDef) and node.name == name for node in part.body):
                yield f"{part.name}::" if isinstance(part, ast.ClassDef) else ""


def mutants() -> Iterator[Mutant]:
    """Read all records."""
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for name, record in tomllib.loads(path.read_text(encoding="utf-8")).items():
            yield Mutant(name, path.stem, **record | {"tests": tuple(record["tests"])})


def verdict(mutant: Mutant, root: Path) -> str:
    """Run the mutant's tests on a copy of the project: "caught", "survived", or what stopped them.

    "caught by waiting" says that they did not end; on a busy machine that may be said of any mutant.
    """
    place = mutant.place(root)
    whole = place.read_text(encoding="utf-8")
    process = multiprocessing.get_context("fork").Process(target=_run, args=(mutant.node_ids(root), root))
    try:
        _write(place, whole.replace(mutant.find, mutant.replace))
        process.start()
        process.join(MOST_SECONDS)
        if process.is_alive() and process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return "caught by waiting"
    finally:
        _write(place, whole)
    output = (root / "output.txt").read_text(encoding="utf-8")
    if process.exitcode == 1 and re.search(r"^\d+ failed|, \d+ failed|\d+ error", output, re.MULTILINE):
        return "caught"
    return "survived" if process.exitcode == 0 else f"stopped with {process.exitcode}: {output[-2000:]}"


def _run(tests: list[str], root: Path) -> None:
    """In a fork, which has imported all but the package."""
    os.setsid()
    os.chdir(root)
    output = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    import pytest

    os._exit(pytest.main(["-q", "-x", "--no-header", "--tb=line", *tests]))


def _import_what_tests_need() -> None:
    """Everything but the package, once for all forks."""
    import lightning.pytorch  # noqa: F401 - half of the time of a small test
    import pytorch_lightning  # noqa: F401
    import torchvision  # noqa: F401

    assert "lightning_flip" not in sys.modules


def _write(place: Path, text: str) -> None:
    place.write_text(text, encoding="utf-8")
    Path(cache_from_source(str(place))).unlink(missing_ok=True)  # it is told by seconds and size, which may be the same


def main() -> int:
    """Print a line for each mutant; the number of those that were not caught."""
    parser = argparse.ArgumentParser(description="Apply one mutant after the other to a copy of the package.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="these mutants alone")
    parser.add_argument("folders", nargs="*", help="mutants of these folders of the package alone")
    asked = parser.parse_args()
    chosen = [
        mutant
        for mutant in mutants()
        if (not asked.only or mutant.name in asked.only) and (not asked.folders or mutant.folder in asked.folders)
    ]
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, root / name)  # type: ignore[operator]
        os.environ |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1"}
        sys.path[:0] = [str(root)]
        sys.dont_write_bytecode = False
        _import_what_tests_need()
        for mutant in chosen:
            begin = time.perf_counter()
            said = verdict(mutant, root)
            missed += not said.startswith("caught")
            print(f"{mutant.name:52} {said} in {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} were caught")
    return missed


if __name__ == "__main__":
    sys.exit(main())
