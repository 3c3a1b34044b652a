"""The program of the guide to learning paths runs as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]

from lightning_flip import reports

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "paths.md").read_text(encoding="utf-8")
PROGRAM = "\n".join(re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
def test_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict[str, Any] = {"__name__": "guide"}
    try:
        exec(compile(PROGRAM, "docs/paths.md", "exec"), names)
    finally:
        torch.set_num_threads(threads)
    assert names["paths"].path.shape == (6, 100, 10)
    assert not np.isnan(names["paths"].path).any()
    assert len(names["path"]) == 6
    assert names["zigzag"].num_rows == 1097
    assert {path.stem for path in Path("teacher/soft_targets").glob("*.safetensors")} == set(
        re.findall(r"^\| `((?:filtered|eval)_\w+)` \|", GUIDE, re.MULTILINE)
    )
    assert names["kernel"].shape == (1, 3, 10, 10)
    assert float(names["change"].sum()) == pytest.approx(0, abs=1e-6)
    assert all(Path(name).stat().st_size for name in ("paths.png", "recovery.png"))
    assert names["curve"][-1] > 0.1  # better than chance: the snippet is about something
    assert "torch.Size" not in capsys.readouterr().out


def test_the_figures_that_it_names_are_there() -> None:
    rows = re.findall(r"^\| [^|]+ \| (`\w+`(?:, `\w+`)*) \| `(plot_\w+)` \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 6
    for prepare, draw in rows:
        for name in [draw, *re.findall(r"\w+", prepare)]:
            assert hasattr(reports, name), name


def test_the_experiment_is_the_example() -> None:
    printed = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
    assert printed == yaml.safe_load((ROOT / "examples/distill/filterkd.yaml").read_text(encoding="utf-8"))
