from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from tests.sweep.configured import built


@pytest.fixture(scope="session")
def earlier_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the configurations with a teacher or an old model look for: the runs of those two."""
    folder = tmp_path_factory.mktemp("earlier")
    with contextlib.chdir(folder):
        for config in ("update/old.yaml", "distill/teacher.yaml"):
            run = built(config, "--trainer.max_epochs=2")
            run.trainer.fit(run.model, run.datamodule)
    return folder / "runs"


@pytest.fixture
def runs(earlier_runs: Path) -> Path:
    """The same in the test's own folder, which is the working directory."""
    return Path(shutil.copytree(earlier_runs, "runs"))
