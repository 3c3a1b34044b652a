"""The tables of a chain of updates, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_flip.reports.text import PlainTable, shorten
from lightning_flip.reports.update._tables import header, interval, more, percent
from lightning_flip.reports.update.counts import FlipRate

__all__ = ["courses_table", "flips_table", "steps_table"]

_LONGEST_ID = 120
_LONGEST_PATH = 60


def steps_table(
    names: Sequence[str], rates: Sequence[Mapping[str, FlipRate]], confidence: float, decimals: int
) -> PlainTable:
    """One row per version, with the rates of the update to it."""
    first = percent(rates[0]["old_accuracy"].value, decimals)
    rows = [(shorten(names[0], _LONGEST_PATH), first, *"-----")]
    for name, found in zip(names[1:], rates, strict=True):
        negative, positive = found["negative_flip_rate"], found["positive_flip_rate"]
        rows.append(
            (
                shorten(name, _LONGEST_PATH),
                percent(found["new_accuracy"].value, decimals),
                f"{negative.count:,}",
                f"{positive.count:,}",
                percent(negative.value, decimals),
                interval(negative.low, negative.high, decimals),
                percent(positive.value, decimals),
            )
        )
    return PlainTable(
        "What each update broke, compared with the version above it",
        ("version", "accuracy", "broken", "fixed", "NFR", header(confidence), "PFR"),
        tuple(rows),
        spare=(6, 5),
    )


def flips_table(counts: Sequence[int], decimals: int) -> PlainTable:
    """How many samples flip never, once, twice, ..."""
    rows = [(str(flips), f"{count:,}", percent(count / sum(counts), decimals)) for flips, count in enumerate(counts)]
    return PlainTable(
        "How often samples flip, in either direction",
        ("flips", "samples", "share"),
        tuple(rows),
        words=(),
    )


def courses_table(courses: Sequence[tuple[str, Sequence[bool], int]], total: int, most_rows: int) -> PlainTable:
    """Samples by id with whether each version has them right and how often they flip; there are `total` of them."""
    rows = [
        (shorten(name, _LONGEST_ID), "".join("✓" if one else "✗" for one in right), str(flips))
        for name, right, flips in courses[:most_rows]
    ]
    return PlainTable(
        "Samples that flip back and forth",
        ("sample", "right ✓ or wrong ✗", "flips"),
        tuple(rows),
        words=(0, 1),
        notes=more(total, len(rows), "samples"),
    )
