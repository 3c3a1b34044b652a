"""The page of an old and a new model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lightning_flip.reports.gating.decision import GateResult
from lightning_flip.reports.intervals import wilson_interval
from lightning_flip.reports.page._chart import counted
from lightning_flip.reports.page._markup import Safe, element, joined
from lightning_flip.reports.page._parts import Page, Sprite
from lightning_flip.reports.page._redaction import hide_home
from lightning_flip.reports.page._update_sections import (
    class_name,
    classes_section,
    counts_section,
    floor_position,
    pairs_section,
    rate_section,
    slice_sections,
    verdict_section,
    worst_section,
)
from lightning_flip.reports.page._whiskers import rate
from lightning_flip.reports.text import shorten
from lightning_flip.reports.update.comparison import UpdateComparison
from lightning_flip.reports.update.counts import FlipRate

__all__ = ["update_page"]

_LONGEST_WARNING = 400
_LEFT_OUT = {
    "only_old": "in the old model's file alone",
    "only_new": "in the new model's file alone",
    "outside_classes": "of classes that only one of the models knows",
    "unlabelled": "without a target",
}


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
    sprite = None if images is None else _pictures(comparison, images)
    verdicts = [] if verdict is None else [verdict_section(verdict, redact_ids)]
    sections = [
        *verdicts,
        counts_section(comparison),
        rate_section(comparison),
        classes_section(comparison),
        pairs_section(comparison),
        *slice_sections(comparison),
        worst_section(comparison, sprite, redact_ids),
    ]
    return Page(
        title=shorten(_heading(comparison) if title is None else title, 120),
        lead=[*_doubts(comparison, verdict), *_verdict(verdict), *_lead(comparison)],
        tiles=_tiles(comparison),
        sections=sections,
        sprite=sprite,
        warnings=[_leaving(comparison, sprite, redact_ids), *(() if sprite is None else sprite.notes)],
    )


def _heading(comparison: UpdateComparison) -> str:
    """The names of both files, without their folders if these names differ."""
    names = [comparison.old_name, comparison.new_name]
    files = [name.replace("\\", "/").rpartition("/")[2] for name in names]
    names = files if files[0] != files[1] and all(files) else [hide_home(name) for name in names]
    return " → ".join(shorten(name, 55) for name in names)


def _pictures(comparison: UpdateComparison, images: str | os.PathLike[str] | Callable[[str], Any]) -> Sprite | None:
    """Pictures of the worst flips, by their place in the list."""
    from lightning_flip.reports.page._thumbnails import folder_pictures, make_sprite
    from lightning_flip.reports.pictures import picture_of

    ids = [flip.sample_id for flip in comparison.worst.flips]
    if callable(images):
        return make_sprite(range(len(ids)), lambda place: picture_of(images(ids[place])))
    return make_sprite(range(len(ids)), folder_pictures(images, dict(enumerate(ids))))


def _leaving(comparison: UpdateComparison, sprite: Sprite | None, redact_ids: bool) -> str:
    parts = ["names of classes"]
    parts += ["values of slices"] if comparison.slices else []
    parts += ["sample ids"] if comparison.worst.flips and not redact_ids else []
    parts += ["pictures"] if sprite is not None else []
    words = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return f"Whoever gets this file gets {words} of the data."


def _doubts(comparison: UpdateComparison, verdict: GateResult | None) -> list[Safe]:
    """What makes the numbers doubtful, before any of them."""
    found = dict.fromkeys([*comparison.warnings, *(() if verdict is None else verdict.warnings)])
    return [
        joined([element("strong", "Warning: "), shorten(hide_home(words), _LONGEST_WARNING)]) for words in found
    ]  # fmt: skip


def _verdict(verdict: GateResult | None) -> list[Safe]:
    if verdict is None:
        return []
    words = {
        "pass": "The update passes the gate.",
        "fail": "The update fails the gate.",
        "inconclusive": "The gate cannot decide on this update.",
    }
    return [joined([element("strong", words[verdict.status]), " The reasons are below."])]


def _lead(comparison: UpdateComparison) -> list[Safe]:
    return [
        *_broken(comparison),
        _accuracies(comparison),
        _rate(comparison),
        *_most_often(comparison),
        *_left_out(comparison),
    ]


def _broken(comparison: UpdateComparison) -> list[Safe]:
    """How much the update breaks of what was right, and mends of what was wrong."""
    cells, confidence = comparison.cells, comparison.confidence
    broken, mended = int(cells.negative), int(cells.positive)
    right, wrong = int(cells.old_right), int(cells.old_wrong)
    if right:
        breaks = [
            element("strong", f"The update breaks {_some(broken)} of {counted(right, 'sample')}"),
            f" that the old model had right ({_with_interval(broken, right, confidence)})",
        ]
    else:
        breaks = [element("strong", "The old model had no sample right"), ", so that the update could break none"]
    mends = (
        f", and mends {_some(mended)} of {wrong:,} that it had wrong ({_with_interval(mended, wrong, confidence)})."
        if wrong
        else ". The old model had none wrong, so that there was nothing to mend."
    )
    return [joined([breaks, mends])]


def _accuracies(comparison: UpdateComparison) -> Safe:
    old, new = comparison.rates["old_accuracy"].value, comparison.rates["new_accuracy"].value
    test = f"p = {comparison.mcnemar_p:.2g}" if comparison.mcnemar_p >= 1e-4 else "p < 0.0001"
    words = [
        f"Accuracy {rate(old)} before, ",
        element("strong", f"{rate(new)} now"),
        f" ({100 * (new - old):+.2f} points; exact McNemar test of no change: {test}).",
    ]
    if comparison.old_parameters is not None and comparison.new_parameters is not None:
        words.append(f" Parameters: {comparison.old_parameters:,} before, {comparison.new_parameters:,} now.")
    return joined(words)


def _rate(comparison: UpdateComparison) -> Safe:
    found = comparison.rates["negative_flip_rate"]
    words = f"Negative flip rate: {_in_words(found, comparison.confidence)}, of {comparison.num_samples:,} samples."
    return joined(words if comparison.floor is None else f"{words} {floor_position(comparison.floor)}")


def _most_often(comparison: UpdateComparison) -> list[Safe]:
    matrix = comparison.matrix
    if not len(matrix.flips):
        return []
    first, second = (class_name(comparison, int(side[0])) for side in (matrix.right, matrix.wrong))
    return [joined([f"Most often, {first} turns into ", element("strong", second), f": {int(matrix.flips[0]):,}."])]


def _left_out(comparison: UpdateComparison) -> list[Safe]:
    found = [
        f"{counted(getattr(comparison, name), 'sample')} {reason}"
        for name, reason in _LEFT_OUT.items()
        if getattr(comparison, name)
    ]
    return [joined([element("strong", "Left out: "), "; ".join(found), "."])] if found else []


def _tiles(comparison: UpdateComparison) -> list[tuple[str, str]]:
    rates = comparison.rates
    return [
        ("samples", f"{comparison.num_samples:,}"),
        ("broken", f"{int(comparison.cells.negative):,}"),
        ("mended", f"{int(comparison.cells.positive):,}"),
        ("negative flip rate", rate(rates["negative_flip_rate"].value)),
        ("accuracy before", rate(rates["old_accuracy"].value)),
        ("accuracy now", rate(rates["new_accuracy"].value)),
    ]


def _some(count: int) -> str:
    return f"{count:,}" if count else "none"


def _with_interval(count: int, among: int, confidence: float) -> str:
    low, high = wilson_interval(count, among, confidence)
    return _in_words(FlipRate(count / among, float(low), float(high)), confidence)


def _in_words(found: FlipRate, confidence: float) -> str:
    if found.low is None or found.high is None:
        return rate(found.value)
    return f"{rate(found.value)}, {100 * confidence:g}% interval {rate(found.low)} to {rate(found.high)}"
