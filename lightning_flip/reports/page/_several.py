"""The page of several runs side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from lightning_flip.reports.page._chart import percent
from lightning_flip.reports.page._dataset_map import small_map
from lightning_flip.reports.page._markup import Safe, element, joined
from lightning_flip.reports.page._parts import Section, missing
from lightning_flip.reports.page._run import RunNumbers
from lightning_flip.reports.page._timeline import runs_chart
from lightning_flip.reports.runs.comparison import Comparison, compare_runs
from lightning_flip.reports.text import shorten

__all__ = ["maps_section", "runs_flips_section", "runs_lead", "table_section", "titles"]

_HEADERS = {
    "accuracy": "accuracy",
    "flipping_error": "flipping error",
    "relative_flipping_error": "share of errors",
    "calibration_error": "calibration error",
    "mislabelled_auroc": "wrong labels found (AUROC)",
}


def runs_lead(runs: Sequence[RunNumbers]) -> list[Safe]:
    """Which runs flip least and most, and which are the most accurate at the end; means of the runs of one label."""
    groups: dict[str, list[RunNumbers]] = {}
    for run in runs:
        if run.timeline is not None and run.timeline.known[-1]:
            groups.setdefault(run.label, []).append(run)
    split = runs[0].split
    if not groups:
        return [joined(f"Flips were not computed: no run has a pass over split {split!r}.")]
    flipping = {label: statistics.fmean(map(_flipping, group)) for label, group in groups.items()}
    accuracy = {label: statistics.fmean(map(_accuracy, group)) for label, group in groups.items()}
    least, most, best = (
        min(flipping, key=flipping.__getitem__),
        max(flipping, key=flipping.__getitem__),
        max(accuracy, key=accuracy.__getitem__),
    )
    of = f"of the {split} samples" + (", on average of its runs," if max(map(len, groups.values())) > 1 else "")
    if len(groups) == 1:
        return [
            joined(f"{percent(flipping[least], 1)} {of} are wrong now and were right before in {least}."),
            joined(f"{percent(accuracy[best], 1)} are right at the end."),
        ]
    return [
        joined(
            [
                element("strong", f"{least} has the fewest flips"),
                f": {percent(flipping[least], 1)} {of} are wrong now and were right before; {most} has the most,"
                f" {percent(flipping[most], 1)}.",
            ]
        ),
        joined([element("strong", f"{best} is the most accurate"), f": {percent(accuracy[best], 1)}."]),
    ]


def titles(runs: Sequence[RunNumbers]) -> list[str]:
    """What tells runs apart: their labels, with their folders if labels repeat."""
    labels = [run.label for run in runs]
    return [
        f"{run.label} ({shorten(run.folder.resolve().name)})" if labels.count(run.label) > 1 else run.label
        for run in runs
    ]


def _accuracy(run: RunNumbers) -> float:
    assert run.timeline is not None
    return float(run.timeline.right[-1] / run.timeline.known[-1])


def _flipping(run: RunNumbers) -> float:
    assert run.timeline is not None
    return float((run.timeline.ever_right[-1] - run.timeline.right[-1]) / run.timeline.known[-1])


def table_section(runs: Sequence[RunNumbers]) -> Section:
    """The table of `compare_runs`: runs of one label share a row; those without the split are named below it."""
    title, split = "Runs side by side", runs[0].split
    there = [run.timeline is not None and bool(run.timeline.seen[-1]) for run in runs]
    compared = [run for run, complete in zip(runs, there, strict=True) if complete]
    lacking = ", ".join(run.label for run, complete in zip(runs, there, strict=True) if not complete)
    reason = f"the last pass saw no sample of split {split!r}, or there is none."
    if not compared:
        return Section("runs", title, missing(f"In every run, {reason}"))
    found = compare_runs([(run.label, run.folder) for run in compared], split)
    note = (
        f"Split {split!r}. Flipping error: the share that is wrong now and was right before; share of errors: the same,"
        " of all that is wrong. Runs of one label share a row: mean ± sample standard deviation."
    )
    table = element("div", _table(found), class_="scroll", tabindex=0, role="region", aria_label="Table of runs")
    return Section(
        "runs",
        title,
        joined([table, element("p", f"Not computed for {lacking}: {reason}", class_="count") if lacking else ""]),
        note,
    )


def _table(found: Comparison) -> Safe:
    head = [element("th", "run", scope="col"), element("th", "runs", scope="col", class_="number")]
    head += [element("th", name, scope="col", class_="number") for name in _HEADERS.values()]
    rows = []
    for row in found.to_rows():
        cells = [element("td", _shown(row, name), class_="number") for name in _HEADERS]
        rows.append(
            element("tr", element("th", row["method"], scope="row"), element("td", row["runs"], class_="number"), cells)
        )
    caption = element("caption", "Accuracy, flips and calibration of each run", class_="hushed")
    return element("table", caption, element("thead", element("tr", head)), element("tbody", rows))


def _shown(row: dict[str, str | int | float | None], name: str) -> str:
    mean, deviation = row[name], row[f"{name}_std"]
    if not isinstance(mean, (int, float)):
        return "not computed"
    scale, digits, unit = (1, 3, "") if name == "mislabelled_auroc" else (100, 1, "%")
    spread = f" ± {deviation * scale:.{digits}f}" if isinstance(deviation, (int, float)) else ""
    return f"{mean * scale:.{digits}f}{spread}{unit}"


def runs_flips_section(runs: Sequence[RunNumbers]) -> Section:
    """Right now and ever right of all runs in one chart."""
    title = "Flips over the epochs"
    drawn = [(run.label, run.timeline) for run in runs if run.timeline is not None and run.timeline.known[-1]]
    if not drawn:
        return Section("flips", title, missing(f"No run has a pass over split {runs[0].split!r}."))
    lacking = [run.label for run in runs if run.timeline is None or not run.timeline.known[-1]]
    note = (
        f"Split {runs[0].split!r}. Solid: the share that is right. Dashed: right in this epoch or an earlier one; the"
        " gap between the two lines of a run is what it forgot."
    )
    keys = [
        element(
            "span",
            element("svg", element("rect", x=0, y=5, width=14, height=4, class_=f"f-run-{place % 6}"), class_="key",
                    viewBox="0 0 14 14", aria_hidden="true"),
            label,
        )
        for place, label in enumerate(dict.fromkeys(label for label, _ in drawn))
    ]  # fmt: skip
    html: list[object] = [element("p", keys, class_="legend"), runs_chart(drawn, runs[0].split)]
    if lacking:
        html.append(
            element("p", f"Not computed for {', '.join(lacking)}: without a pass over this split.", class_="count")
        )
    return Section("flips", title, joined(html), note)


def maps_section(runs: Sequence[RunNumbers]) -> Section:
    """The dataset map of each run, with its numbers."""
    blocks = []
    for place, (title, run) in enumerate(zip(titles(runs), runs, strict=True)):
        if run.scores is None:
            drawn, words = missing(run.reasons[run.train_split]), ""
        else:
            wrong = run.column("is_label_issue", 0) > 0
            drawn = small_map(
                f"map-{place}", title, run.column("variability", np.nan), run.column("confidence", np.nan), wrong
            )
            never = run.forgetting.never_learned if run.forgetting is not None else 0
            words = (
                f"{int(wrong.sum()):,} of {len(run.order):,} labels almost certainly wrong,"
                f" {int(run.column('disagrees', 0).sum()):,} disagree; {never:,} never learned"
            )
        blocks.append(element("div", element("h3", title), drawn, element("p", words, class_="key-numbers")))
    note = (
        "How probable its label was for a sample, on average (up, 0 to 1) and how much that changed (to the right)."
        " Darker: more samples. Orange: most labels there are almost certainly wrong."
    )
    return Section("maps", "Dataset maps", element("div", blocks, class_="multiples"), note)
