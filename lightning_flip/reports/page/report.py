"""Write the report of recorded runs, or of an old and a new model, as a web page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_flip.reports.dynamics import flip_timeline
from lightning_flip.reports.gating.decision import gate
from lightning_flip.reports.page._document import check_out, write_page
from lightning_flip.reports.page._facts import run_facts
from lightning_flip.reports.page._facts_section import facts_section
from lightning_flip.reports.page._listing import LISTED, Listing, list_samples
from lightning_flip.reports.page._parts import Page, Section, Sprite
from lightning_flip.reports.page._run import RunNumbers, read_numbers
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
from lightning_flip.reports.page._several import maps_section, runs_flips_section, runs_lead, table_section, titles
from lightning_flip.reports.page._suspects import suspects_section, without_suspects
from lightning_flip.reports.page._update import update_page
from lightning_flip.reports.text import shorten
from lightning_flip.reports.update.comparison import compare
from lightning_flip.reports.update.join import Source, join_predictions

__all__ = ["Images", "Runs", "write_report", "write_update_report"]

#: A folder of pictures that sample ids are paths in; or what gives a picture, or a sample that begins with one.
Images = str | os.PathLike[str] | Callable[[int], Any] | Sequence[Any]
#: A folder, or several, each alone or behind its label.
Runs = str | os.PathLike[str] | Sequence[str | os.PathLike[str] | tuple[str, str | os.PathLike[str]]]

_LONGEST_TITLE = 120
_JOINING = ("allow_partial", "shared_classes", "shared_argmax", "slices", "drop_unlabelled", "min_coverage")


def write_report(
    runs: Runs,
    out: str | os.PathLike[str],
    *,
    split: str = "val",
    train_split: str = "train",
    images: Images | None = None,
    text: str | None = None,
    top: int = LISTED,
    redact_ids: bool = False,
    title: str | None = None,
) -> Path:
    """Write what is known of recorded runs as a web page: which labels look wrong, and what flips.

    The page needs no server, loads nothing and sends nothing; without scripts it shows the same charts and the worst
    samples. The same runs give the same bytes. Names of samples and classes, labels, settings of the run and, if given,
    pictures and texts are in the page: whoever gets the file gets them.

    Args:
        runs: the folder of a run; or several ones, alone or as (label, folder): then they are compared.
        out: a file that ends in .html; or a folder, for viewers that forbid content within the page: `index.html` with
            style, script and pictures beside it. Another report is replaced, any other file is not.
        split: the split whose flips are shown.
        train_split: the split whose labels are judged.
        images: pictures of the worst samples, of one run: a folder that sample ids are paths in, or a dataset (or a
            function) that gives a picture, or a tuple or dict that has one, for an index.
        text: texts in the place of pictures, as FILE/COLUMN of a CSV or Parquet file.
        top: so many of the worst samples have a picture, at most 600.
        redact_ids: whether samples are known by their index alone.
        title: heading of the page; None takes the run's label.

    Returns:
        The path of the HTML file.

    Raises:
        HistoryError: if a run or the texts cannot be read, or a run has neither split.
        FileExistsError: if `out` exists and is not a report.
        ValueError: if there are no runs, a run is given twice, or an option does not fit several runs.
        ModuleNotFoundError: without jinja2, or without Pillow for pictures.

    Example:
        >>> from lightning_flip.reports.page import write_report
        >>> try:
        ...     write_report([], "report.html")
        ... except ValueError as error:
        ...     print(error)
        runs must name at least one run, got none.
    """
    chosen = _named(runs)
    if not 0 <= top <= LISTED:
        raise ValueError(f"top must be from 0 to {LISTED}, got {top}.")
    if len(chosen) > 1 and (images is not None or text is not None):
        raise ValueError(f"images and text are for the samples of one run, got {len(chosen)} runs. Leave them out.")
    check_out(out)
    if len(chosen) == 1:
        (label, folder), = chosen  # fmt: skip
        numbers = read_numbers(folder, label, split, train_split)
        page = _page_of_run(numbers, images, text, top, redact_ids, title)
    else:
        numbers_of = [read_numbers(folder, label, split, train_split) for label, folder in chosen]
        page = _page_of_runs(numbers_of, title)
    return write_page(page, out)


def _named(runs: Runs) -> list[tuple[str, Path]]:
    """Runs with their labels; those of equal names get the names of their parents, too."""
    given = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    if not given:
        raise ValueError("runs must name at least one run, got none.")
    found = [
        (one[0], Path(one[1])) if isinstance(one, tuple) else (Path(one).resolve().name, Path(one)) for one in given
    ]
    places = [folder.resolve() for _, folder in found]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"runs must name a folder once, but {place} is given {places.count(place)} times.")
    return found


def _page_of_run(
    numbers: RunNumbers, images: Images | None, text: str | None, top: int, redact_ids: bool, title: str | None
) -> Page:
    sections: list[Section] = []
    warnings: list[str] = []
    sprite = None
    if numbers.scores is None:
        sections.append(without_suspects(numbers.reasons[numbers.train_split]))
    else:
        listing = list_samples(numbers, redact_ids=redact_ids)
        listing, notes = _with_texts(listing, text)
        sprite = None if images is None else _pictures(listing, images, top)
        warnings += [*notes, *(() if sprite is None else sprite.notes)]
        sprite = sprite if sprite is not None and sprite.place else None
        sections.append(suspects_section(listing, sprite))
        if len(listing.rows):
            sections += [map_section(listing), confusion_section(numbers), sample_section(listing, sprite)]
    sections += [flips_section(numbers), who_section(numbers), forgetting_section(numbers), _facts([numbers])]
    ids = numbers.scores is not None and numbers.scores["sample_id"].null_count < numbers.scores.num_rows
    leaving = [
        "labels",
        *(["sample ids"] if ids and not redact_ids else []),
        *(["pictures"] if sprite is not None else []),
    ]
    leaving += ["texts"] if text is not None else []
    words = " and ".join([", ".join(leaving[:-1]), leaving[-1]] if len(leaving) > 1 else leaving)
    warnings.insert(0, f"Whoever gets this file gets {words} of the data.")
    return Page(
        title=shorten(numbers.label if title is None else title, _LONGEST_TITLE),
        lead=lead(numbers),
        tiles=tiles(numbers),
        sections=sections,
        subtitle=_subtitle(numbers),
        sprite=sprite,
        warnings=warnings,
    )


def _page_of_runs(runs: Sequence[RunNumbers], title: str | None) -> Page:
    sections = [table_section(runs), runs_flips_section(runs), maps_section(runs), _facts(runs)]
    heading = " and ".join(dict.fromkeys(run.label for run in runs)) if len(runs) == 2 else f"{len(runs)} runs"
    return Page(
        title=shorten(heading if title is None else title, _LONGEST_TITLE),
        lead=runs_lead(runs),
        tiles=(),
        sections=sections,
    )


def _subtitle(numbers: RunNumbers) -> str:
    run = numbers.history.run
    return f"Recorded {run.created[:16].replace('T', ' ')} UTC · run {run.run_id[:8]}"


def _facts(runs: Sequence[RunNumbers]) -> Section:
    found = []
    for title, run in zip(titles(runs), runs, strict=True):
        timelines = {run.split: run.timeline} if run.timeline is not None else {}
        if run.scores is not None and run.train_split != run.split:
            timelines = {run.train_split: flip_timeline(run.history, run.train_split)} | timelines
        found.append((title, run_facts(run.folder, run.history, timelines)))
    return facts_section(found)


def _with_texts(listing: Listing, text: str | None) -> tuple[Listing, tuple[str, ...]]:
    if text is None:
        return listing, ()
    import dataclasses

    from lightning_flip.reports.page._snippets import read_snippets

    samples = listing.numbers.history.samples(listing.numbers.train_split)
    found = read_snippets(text, samples, listing.index[: listing.detailed].tolist())
    return dataclasses.replace(listing, snippets=found.text), found.notes


def _pictures(listing: Listing, images: Images, top: int) -> Sprite | None:
    from lightning_flip.reports.page._thumbnails import folder_pictures, make_sprite
    from lightning_flip.reports.pictures import picture_of

    indices = listing.index[:top].tolist()
    if isinstance(images, (str, os.PathLike)):
        assert listing.numbers.scores is not None
        names = listing.numbers.scores["sample_id"].take(listing.rows[:top]).to_pylist()
        return make_sprite(indices, folder_pictures(images, dict(zip(indices, names, strict=True))))
    return make_sprite(indices, lambda index: picture_of(images(index) if callable(images) else images[index]))


def write_update_report(
    old: Source,
    new: Source,
    out: str | os.PathLike[str],
    *,
    max_nfr: float | None = None,
    images: str | os.PathLike[str] | Callable[[str], Any] | None = None,
    redact_ids: bool = False,
    title: str | None = None,
    **options: Any,
) -> Path:
    """Write what an update of a model changes as a web page; see `write_report` for the page.

    Args:
        old: the old model's predictions, or the path of a file that `read_predictions` reads.
        new: the new model's.
        out: a file that ends in .html, or a folder.
        max_nfr: a limit on the negative flip rate, in [0, 1]: the page then has the verdict of a gate.
        images: pictures of the worst flips: a folder that sample ids are paths in, or a function that gives the picture
            for an id.
        redact_ids: whether ids of samples are left out.
        title: heading of the page; None takes the names of both files.
        options: of `compare`, such as `allow_partial` or `floor`.

    Returns:
        The path of the HTML file.

    Raises:
        FileExistsError: if `out` exists and is not a report.
        ValueError: if the predictions do not fit together, or an option is wrong.
    """
    check_out(out)
    comparison = compare(old, new, **options)
    verdict = None
    if max_nfr is not None:
        shared = {name: options[name] for name in _JOINING if name in options}
        verdict = gate(join_predictions(old, new, **shared), max_nfr=max_nfr)
    page = update_page(comparison, verdict=verdict, images=images, redact_ids=redact_ids, title=title)
    return write_page(page, out)
