"""The program of the guide to wrong labels runs as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lightning_flip
from lightning_flip import callbacks

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "noise.md").read_text(encoding="utf-8")
PROGRAM = "\n".join(re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:TemperatureScaling. T = ")
def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(PROGRAM, "docs/noise.md", "exec"), names)
    folder = Path("corrected/prediction_history/version_0/diagnostics")
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {
        "train_feature_projection",
        "train_feature_projection.csv",
        "train_logit_gaps",
        "train_logit_gaps.csv",
        "train_noise_accuracy.csv",
        "val_calibration",
        "val_calibration.csv",
        "val_winning_scores",
        "val_winning_scores.csv",
    }
    assert len(names["last"]) == 5
    assert Path("gaps.png").read_bytes().startswith(b"\x89PNG")
    assert names["found"]["test_ece_scaled"] != names["found"]["test_ece_unscaled"]
    temperature = lightning_flip.read_temperature("corrected.ckpt")
    assert names["found"]["test_temperature"] == pytest.approx(temperature, rel=1e-6)
    assert "train_accuracy_noisy_label" in capsys.readouterr().out


def test_the_names_and_files_that_it_names_are_there() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (?:LS-noise|PLS), ", GUIDE, re.MULTILINE)
    assert len(rows) == 6
    assert set(rows) <= set(callbacks.__all__)
    table = GUIDE[GUIDE.index("## 3.") :]
    for name in set(re.findall(r"`([A-Z]\w+)", table)):
        assert name in lightning_flip.__all__, name
    folders = set(re.findall(r"`(examples/\w+)`", GUIDE))
    assert len(folders) == 5
    for folder in folders:
        assert (ROOT / folder / "README.md").is_file(), folder
