"""Write the report of recorded runs, or of an old and a new model, as a web page."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_flip.reports.page._document import check_out, write_page
from lightning_flip.reports.page._parts import Page, Section
from lightning_flip.reports.page._run import read_numbers
from lightning_flip.reports.page._timeline import flips_chart
from lightning_flip.reports.page._markup import Safe, element

__all__ = ["write_report", "write_update_report"]


def write_report(run: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Skeleton."""
    check_out(out)
    numbers = read_numbers(run)
    assert numbers.timeline is not None
    section = Section("flips", "Flips over the epochs", flips_chart(numbers.timeline), "A note.")
    lead = [Safe(element("strong", f"{int(numbers.timeline.right[-1]):,} samples") + " are right.")]
    return write_page(Page(numbers.label, lead, [("samples", f"{numbers.timeline.samples:,}")], [section]), out)


def write_update_report() -> None:
    """Skeleton."""
