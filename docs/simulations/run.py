"""Simulates the gate's statistics and writes docs/gate_statistics.md (`make simulate`)."""

import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TITLE = """# The statistics of the gate

`make simulate` prints this page. "exact" sums the probability of every possible count; elsewhere the number of draws
stands beside the rate, with the standard error of the simulation. Seeds are fixed.
"""
# Each has a `section()` that returns Markdown.
MODULES = ("limits", "clusters", "gates", "coverage")


def main() -> None:
    """Run every simulation and write the page."""
    sys.path.insert(0, str(HERE))
    sections = [TITLE]
    for name in MODULES:
        start = time.process_time()
        sections.append(importlib.import_module(name).section().strip() + "\n")
        print(f"{name}: {time.process_time() - start:.0f} s", file=sys.stderr)
    (HERE.parent / "gate_statistics.md").write_text("\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
