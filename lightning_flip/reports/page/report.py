"""Write the report of recorded runs, or of an old and a new model, as a web page."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_flip.reports.page._document import check_out, write_page
from lightning_flip.reports.page._listing import list_samples
from lightning_flip.reports.page._parts import Page
from lightning_flip.reports.page._run import read_numbers
from lightning_flip.reports.page._sections import (
    confusion_section,
    flips_section,
    forgetting_section,
    lead,
    map_section,
    sample_section,
    tiles,
    who_section,
)
from lightning_flip.reports.page._suspects import suspects_section, without_suspects

__all__ = ["write_report", "write_update_report"]


def write_report(run: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Skeleton."""
    check_out(out)
    numbers = read_numbers(run)
    sections = []
    sprite = None
    if numbers.scores is None:
        sections.append(without_suspects(numbers.reasons[numbers.train_split]))
    else:
        listing = list_samples(numbers)
        sections.append(suspects_section(listing, sprite))
        if len(listing.rows):
            sections += [map_section(listing), confusion_section(numbers), sample_section(listing, sprite)]
    sections += [flips_section(numbers), who_section(numbers), forgetting_section(numbers)]
    return write_page(Page(numbers.label, lead(numbers), tiles(numbers), sections), out)


def write_update_report() -> None:
    """Skeleton."""
