"""What `compare` and `gate` take, as whole processes, on a million samples of a thousand classes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("resource")  # Unix only

CLASSES, SLICES = 1000, 8
FULL, SMALL = 1_000_000, 20_000
# A process's peak memory counts from before its program was loaded, when it was a copy of its parent. Hence a slim
# parent in between, and not the one that runs the tests.
SLIM_PARENT = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds = time.perf_counter() - start
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
print(json.dumps({"status": status, "seconds": seconds, "peak": peak}))
"""
WORDS = {
    "compare": ["--slice", "site", "--json", "update.json"],
    "gate": ["--max-nfr", "5%", "--max-nfr-per-class", "9%", "--must-not-flip", "golden.txt", "--json", "gate.json"],
}
# 5 of 100 samples are right in the old file and wrong in the new one, so that a limit of 5% cannot be decided.
STATUS = {"compare": 0, "gate": 3}


def write_pair(folder: Path, rows: int) -> None:
    """Two models of 80% accuracy; the ids stand in another order in each file."""
    rng = np.random.default_rng(0)
    target = rng.integers(CLASSES, size=rows)
    turn = rng.permutation(rows) % 100
    for name, wrong in (("old", turn >= 80), ("new", (turn < 5) | (turn >= 85))):
        order = rng.permutation(rows)
        table = pa.table(
            {
                "index": order,
                "sample_id": pa.array([f"train/class-{target[row]:04d}/{row:08d}.jpeg" for row in order.tolist()]),
                "target": target[order],
                "pred": np.where(wrong, (target + 1) % CLASSES, target)[order],
                "confidence": rng.random(rows, np.float32),
                "site": pa.array([f"site-{row % SLICES}" for row in order.tolist()]),
            }
        )
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    kept = np.flatnonzero((turn >= 5) & (turn < 80))[:1000]
    (folder / "golden.txt").write_text("".join(f"train/class-{target[row]:04d}/{row:08d}.jpeg\n" for row in kept))


def measure(subcommand: str) -> dict[str, float]:
    command = [sys.executable, "-m", "lightning_flip.cli", subcommand, "--old", "old.parquet", "--new", "new.parquet"]
    parent = [sys.executable, "-c", SLIM_PARENT, *command, *WORDS[subcommand]]
    result = subprocess.run(parent, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.mark.benchmark(group="a million samples in two Parquet files, as a process")
@pytest.mark.parametrize("subcommand", WORDS)
def test_a_million_samples(benchmark, subcommand, tmp_path):
    rows, seconds, peak = (FULL, 10, 1e9) if benchmark.enabled else (SMALL, 30, 0.6e9)
    write_pair(tmp_path, rows)
    found = []
    benchmark.pedantic(lambda: found.append(measure(subcommand)), rounds=3)
    median = {name: statistics.median(one[name] for one in found) for name in found[0]}
    benchmark.extra_info.update(median, rows=rows)
    print(f"\n{subcommand}, {rows:,} samples: {median['seconds']:.2f} s, {median['peak'] / 1e6:.0f} MB at most")
    assert {one["status"] for one in found} == {STATUS[subcommand]}
    if subcommand == "compare":
        report = json.loads(Path("update.json").read_text(encoding="utf-8"))
        assert report["cells"]["negative"] == rows // 20
        assert len(report["slices"]["site"]) == SLICES
    else:
        report = json.loads(Path("gate.json").read_text(encoding="utf-8"))
        assert report["negative_flips"] == rows // 20
        assert [limit["status"] for limit in report["limits"]][::2] == ["inconclusive", "pass"]
    assert median["seconds"] < seconds
    assert max(one["peak"] for one in found) < peak
