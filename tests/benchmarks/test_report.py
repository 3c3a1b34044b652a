"""How long the HTML report of a large run takes, how large the file is, and how much memory the process needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reports import report_runs

# In a process of its own. Its peak memory is read from Linux, since `getrusage` begins with that of the parent process.
_PROGRAM = """
import json, re, sys, time
began = time.perf_counter()
from lightning_flip.reports.page import write_report
path = write_report(sys.argv[1], sys.argv[2])
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps([time.perf_counter() - began, time.process_time(), path.stat().st_size, peak * 1024]))
"""


@pytest.mark.benchmark(group="HTML report of a run")
@pytest.mark.parametrize(
    ("samples", "epochs", "classes", "seconds", "size", "memory"),
    [(50_000, 100, 100, 10, 2e6, 1e9), (1_280_000, 8, 1_000, 60, 1e6, 2e9)],
    ids=["50,000 x 100", "1,280,000 x 8"],
)
def test_report_of_a_large_run(benchmark, tmp_path, samples, epochs, classes, seconds, size, memory):
    if benchmark.disabled:
        samples, epochs = 2_000, 2
    run = report_runs.big(tmp_path / "run", samples, epochs, classes)

    def write() -> list[float]:
        command = [sys.executable, "-c", _PROGRAM, str(run), str(tmp_path / "report.html")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        found: list[float] = json.loads(done.stdout)
        return found

    took, busy, bytes_, peak = benchmark.pedantic(write, rounds=1)
    print(
        f"\n{samples:,} samples x {epochs} epochs: {took:.1f} s ({busy:.1f} s of processor time),"
        f" {bytes_ / 1e6:.2f} MB, {peak / 1e9:.2f} GB at most"
    )
    assert bytes_ < size
    assert peak < memory
    assert benchmark.disabled or busy < seconds  # of processor time, which other work does not change
