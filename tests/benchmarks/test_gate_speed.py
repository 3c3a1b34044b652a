"""The gate's processor time and memory as a whole process, next to the same counts as one DuckDB query."""

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

CLASSES = 1000
FULL, SMALL = 5_000_000, 50_000
MOST_BYTES = {FULL: 1e9, SMALL: 0.3e9}
# In between, so that the peak memory is not that of the process that runs the tests, of which a child is first a copy.
SLIM_PARENT = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"status": status, "user": used.ru_utime, "sys": used.ru_stime, "peak": peak}))
"""
QUERY = """
import duckdb
duckdb.sql('''
    SELECT old.target,
        count(*) FILTER (old.pred = old.target AND new.pred = new.target),
        count(*) FILTER (old.pred = old.target AND new.pred <> new.target),
        count(*) FILTER (old.pred <> old.target AND new.pred = new.target),
        count(*) FILTER (old.pred <> old.target AND new.pred <> new.target)
    FROM 'old.parquet' old JOIN 'new.parquet' new USING (sample_id) GROUP BY old.target
''').fetchall()
"""
LIMITS = ["--max-nfr", "1%", "--max-nfr-per-class", "3%"]
GATE = ["-m", "lightning_flip.cli", "gate", "--old", "old.parquet", "--new", "new.parquet", "--json", "gate.json"]


def write_pair(folder: Path, rows: int, kind: str) -> None:
    """Two models of 80% and 81% accuracy and 5 negative flips in 1,000; the new file is shuffled."""
    rng = np.random.default_rng(0)
    target, turn = rng.integers(CLASSES, size=rows), rng.permutation(rows) % 1000
    orders = {"old": np.arange(rows), "new": rng.permutation(rows)}
    for name, wrong in (("old", turn >= 800), ("new", (turn < 5) | (turn >= 815))):
        order = orders[name]
        ids = order if kind == "integer" else [f"images/train/{row:07d}.png" for row in order.tolist()]
        other = (target + 1 + rng.integers(CLASSES - 1, size=rows)) % CLASSES
        columns = {"sample_id": pa.array(ids), "target": target[order], "pred": np.where(wrong, other, target)[order]}
        pq.write_table(pa.table(columns | {"confidence": rng.random(rows, np.float32)}), folder / f"{name}.parquet")


def measure(words: list[str]) -> dict[str, float]:
    parent = [sys.executable, "-c", SLIM_PARENT, sys.executable, *words]
    result = subprocess.run(parent, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    used = json.loads(result.stdout)
    return used | {"cpu": used["user"] + used["sys"]}


@pytest.mark.benchmark(group="two Parquet files of shuffled samples, as a process")
@pytest.mark.parametrize("kind", ["text", "integer"])
def test_gate_next_to_a_query(benchmark, kind, tmp_path):
    rows, rounds = (FULL, 5) if benchmark.enabled else (SMALL, 1)
    write_pair(tmp_path, rows, kind)
    found = {"gate": [], "query": []}

    def both() -> None:
        found["gate"].append(measure([*GATE, *LIMITS]))
        if benchmark.enabled:
            found["query"].append(measure(["-c", QUERY]))

    benchmark.pedantic(both, rounds=rounds)
    report = json.loads(Path("gate.json").read_text(encoding="utf-8"))
    assert report["negative_flips"] == rows // 200
    for name, runs in found.items():
        if runs:
            user, system, cpu, peak = (
                statistics.median(run[key] for run in runs) for key in ("user", "sys", "cpu", "peak")
            )
            print(f"\n{name}, {rows:,} {kind} ids: {user:.2f} + {system:.2f} = {cpu:.2f} s, {peak / 1e6:.0f} MB")
    if benchmark.enabled:
        ratios = [gate["cpu"] / query["cpu"] for gate, query in zip(found["gate"], found["query"], strict=True)]
        print(f"median of the ratios: {statistics.median(ratios):.2f}")
        assert {run["status"] for run in found["query"]} == {0}
    assert max(run["peak"] for run in found["gate"]) < MOST_BYTES[rows]
