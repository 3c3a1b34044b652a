"""The page of an old and a new model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lightning_flip.reports.gating.decision import GateResult
from lightning_flip.reports.page._markup import element, joined
from lightning_flip.reports.page._parts import Page, Section
from lightning_flip.reports.text import shorten
from lightning_flip.reports.update.comparison import UpdateComparison

__all__ = ["update_page"]


def update_page(
    comparison: UpdateComparison,
    *,
    verdict: GateResult | None = None,
    images: str | os.PathLike[str] | Callable[[str], Any] | None = None,
    redact_ids: bool = False,
    title: str | None = None,
) -> Page:
    """The page of an update.

    Args:
        comparison: its numbers.
        verdict: what a gate says about it; None: no gate was asked.
        images: a folder that ids are paths in, or what gives the picture for an id; None: no pictures.
        redact_ids: whether ids of samples are left out.
        title: heading; None: the names of both files.
    """
    cells = comparison.cells
    broken, mended = int(cells.negative), int(cells.positive)
    lead = joined(
        [
            element("strong", f"The update breaks {broken:,} of {comparison.num_samples:,} samples"),
            f" that the old model had right, and mends {mended:,}.",
        ]
    )
    rows = [
        ("old right", int(cells.both_right), broken),
        ("old wrong", mended, int(cells.both_wrong)),
    ]
    body = [
        element("tr", element("th", name, scope="row"), element("td", f"{one:,}"), element("td", f"{other:,}"))
        for name, one, other in rows
    ]
    head = element("tr", *(element("th", name, scope="col") for name in ("", "new right", "new wrong")))
    table = element("table", element("caption", "Samples"), element("thead", head), element("tbody", body))
    heading = f"{comparison.old_name} → {comparison.new_name}" if title is None else title
    return Page(shorten(heading, 120), [lead], (), [Section("update", "Update", table)])
