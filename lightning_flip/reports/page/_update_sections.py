"""The sections of an update's page."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_flip.reports.dynamics import ClassPairs
from lightning_flip.reports.gating.decision import GateResult, LimitOutcome
from lightning_flip.reports.intervals import wilson_interval
from lightning_flip.reports.page._chart import counted
from lightning_flip.reports.page._markup import Safe, element, joined
from lightning_flip.reports.page._matrices import pairs_chart
from lightning_flip.reports.page._parts import Section, Sprite, thumbnail
from lightning_flip.reports.page._redaction import hide_home
from lightning_flip.reports.page._whiskers import Whisker, floor_chart, rate, whiskers_chart
from lightning_flip.reports.text import shorten
from lightning_flip.reports.update._tables import floor_answers
from lightning_flip.reports.update.comparison import UpdateComparison
from lightning_flip.reports.update.counts import FlipGroups, FlipRate, WorstFlip
from lightning_flip.reports.update.floor import NoiseFloor

__all__ = [
    "class_name",
    "classes_section",
    "counts_section",
    "floor_position",
    "pairs_section",
    "rate_section",
    "slice_sections",
    "verdict_section",
    "worst_section",
]

_GROUPS = 20  # of a chart
_LONGEST_ID = 80
_SIGNS = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "? inconclusive"}
_LIMITS = {
    "max_nfr": "negative flip rate of all samples, at most",
    "max_nfr_per_class": "negative flip rate of each class, at most",
    "max_nfr_per_slice": "negative flip rate of each slice, at most",
    "must_not_flip": "samples that must not flip",
    "min_old_accuracy": "accuracy of the old model, at least",
}
_RATES = {
    "negative_flip_rate": "negative flip rate (NFR)",
    "positive_flip_rate": "positive flip rate (PFR)",
    "old_accuracy": "accuracy before",
    "new_accuracy": "accuracy now",
    "trust_score": "still right, of what was right (trust score)",
    "error_compatibility": "still wrong, of what was wrong (error compatibility)",
    "negative_flip_impact": "negative flips among the errors now (NFI)",
    "positive_flip_impact": "positive flips among the errors before (PFI)",
    "churn": "predictions that changed (churn)",
    "relative_negative_flip_rate": "NFR relative to independent errors",
}
_SURE = {"old": "sure before", "new": "sure now"}


def class_name(comparison: UpdateComparison, code: int) -> str:
    """The name of a class on the page."""
    return shorten(comparison.matrix.labels[code])


def verdict_section(verdict: GateResult, redact_ids: bool) -> Section:
    """The status of the gate, and of each limit with its reason."""
    parts = [
        [
            element("h3", f"{_SIGNS[outcome.status]}: {_limit(outcome)}"),
            element("p", _reason(outcome, redact_ids), class_="reason"),
        ]
        for outcome in verdict.outcomes
    ]
    note = (
        "Each limit is decided on exact bounds, for all samples like these. The chance that it passes although the true"
        f" rate breaks it is at most {100 * verdict.error:g}%; the chance that it fails although it holds, too."
    )
    return Section("verdict", f"Gate: {verdict.status}", joined(parts), note)


def _limit(outcome: LimitOutcome) -> str:
    name = _LIMITS.get(outcome.name, outcome.name)
    return name if outcome.limit is None else f"{name} {100 * outcome.limit:.4g}%"


def _reason(outcome: LimitOutcome, redact_ids: bool) -> str:
    if redact_ids and outcome.watched is not None:  # the reason names samples
        return f"{len(outcome.flipped):,} of {outcome.watched:,} samples that must not flip are negative flips."
    return shorten(outcome.reason, 1000)


def counts_section(comparison: UpdateComparison) -> Section:
    """The table of right and wrong, and every rate."""
    cells = comparison.cells
    rows = [
        ("old right", _cell(int(cells.both_right)), _cell(int(cells.negative), "broken"), int(cells.old_right)),
        ("old wrong", _cell(int(cells.positive), "mended"), _cell(int(cells.both_wrong)), int(cells.old_wrong)),
    ]
    body = [
        element("tr", element("th", name, scope="row"), one, other, _cell(total)) for name, one, other, total in rows
    ]
    totals = [int(cells.new_right), int(cells.new_wrong), int(cells.total)]
    body.append(element("tr", element("th", "total", scope="row"), [_cell(count) for count in totals]))
    head = ["", "new right", "new wrong", "total"]
    table = _table("Samples by what each model has right", head, body, numbers=(1, 2, 3))
    return Section("counts", "What changed", joined([table, _all_rates(comparison)]), half=True)


def _cell(count: int, word: str = "") -> Safe:
    if not word:
        return element("td", f"{count:,}", class_="number")
    return element("td", element("strong", f"{count:,} {word}"), class_=f"number {word}")


def _all_rates(comparison: UpdateComparison) -> Safe:
    rows = []
    for name, words in _RATES.items():
        found = comparison.rates[name]
        ends = [rate(found.value), _interval(found)]
        if found.count is None:  # a ratio of rates, which may be over 1
            ends[0] = f"{found.value:.2f}"
            ends[1] = "unknown" if found.low is None or found.high is None else f"{found.low:.2f} to {found.high:.2f}"
        if found.low is None:  # there is nothing that it is a share of
            ends[0] = "-"
        rows.append(
            element(
                "tr",
                element("th", words, scope="row"),
                [element("td", end, class_="number") for end in ends],
                element("td", "-" if found.count is None else f"{found.count:,} of {found.among:,}", class_="number"),
            )
        )
    head = ["rate", "value", f"{100 * comparison.confidence:g}% interval", "samples"]
    table = _table("Every rate with its interval", head, rows, numbers=(1, 2, 3))
    return element("details", element("summary", "All rates"), _scrolled("All rates", table))


def _interval(found: FlipRate) -> str:
    return "unknown" if found.low is None or found.high is None else f"{rate(found.low)} to {rate(found.high)}"


def rate_section(comparison: UpdateComparison) -> Section:
    """The negative flip rate beside those between models of the new recipe."""
    floor = comparison.floor
    note = "The share of all samples that the old model has right and the new one wrong."
    found = comparison.rates["negative_flip_rate"]
    value, count, among = found.value, int(found.count or 0), comparison.num_samples
    pairs: Sequence[float] = ()
    more: list[Safe] = []
    if floor is not None:
        value, count, among = floor.update, round(floor.update * floor.samples), floor.samples
        pairs = floor.pairs.tolist()
        if floor.samples != comparison.num_samples:
            note += f" Here among the {floor.samples:,} of {comparison.num_samples:,} samples that all models have."
        more.append(_floor_table(floor))
    low, high = (float(end) for end in wilson_interval(count, among, comparison.confidence))
    drawn = floor_chart("floor", Whisker("this update", value, low, high, f"{count:,} of {among:,}"), pairs)
    words = [element("p", sentence, class_="count") for sentence in _floor_sentences(comparison)]
    return Section("rate", "Negative flip rate", joined([drawn, words, more]), note, half=True)


def floor_position(floor: NoiseFloor) -> str:
    """What the rate of the update is beside those of chance, to follow the rate."""
    return (
        f"Between models of the new recipe, which differ in their seeds, it is {rate(floor.lowest)} to"
        f" {rate(floor.highest)}."
    )


def _floor_sentences(comparison: UpdateComparison) -> list[str]:
    """How the update's rate compares with that of chance; without a floor, that this is not known."""
    floor = comparison.floor
    if floor is None:
        return [
            "How many flips chance alone makes is not known, as no predictions of further seeds (a floor) were given."
        ]
    times = "" if floor.times_mean is None else f", {floor.times_mean:.1f} times that mean"
    return [
        f"Between {len(floor.names) - 1} models of the new recipe it is {rate(floor.mean)} on average"
        f" ({len(floor.pairs):,} pairs, {rate(floor.lowest)} to {rate(floor.highest)}). That of the update is"
        f" {rate(floor.update)}{times}.",
        *(f"{question} {answer}" for question, answer in floor_answers(floor, 2).items()),
    ]


def _floor_table(floor: NoiseFloor) -> Safe:
    from_old = ["-", *map(rate, floor.rates[0, 1:].tolist())]
    models = zip(floor.names, floor.accuracies.tolist(), from_old, floor.mean_rates.tolist(), strict=True)
    rows = [
        element(
            "tr",
            element("th", shorten(hide_home(name), 60), scope="row"),
            [element("td", cell, class_="number") for cell in (rate(accuracy), replacing, rate(mean))],
        )
        for name, accuracy, replacing, mean in models
    ]
    title = "NFR: in the new model's place; mean NFR: to and from the others"
    head = ["model", "accuracy", "NFR", "mean NFR"]
    table = _table(title, head, rows, numbers=(1, 2, 3))
    return element("details", element("summary", "These models"), _scrolled("Models", table))


def classes_section(comparison: UpdateComparison) -> Section:
    """Negative flip rates by right class."""
    html = _groups_chart(
        "by-class", "Negative flip rate by class", comparison.classes, comparison, ("class", "classes")
    )
    if len(comparison.classes.names) == 1:
        html = joined([html, element("p", "All samples are of this one class.", class_="count")])
    return Section("classes", "Breaks by class", html, _groups_note(comparison), half=True)


def slice_sections(comparison: UpdateComparison) -> list[Section]:
    """Negative flip rates by the values of each slice column."""
    sections = []
    for place, (column, groups) in enumerate(comparison.slices.items()):
        title = f"Breaks by {shorten(column)}"
        html = _groups_chart(f"by-slice-{place}", title, groups, comparison, ("value", "values"), "(no value)")
        sections.append(Section(f"slice-{place}", title, html, _groups_note(comparison), half=True))
    return sections


def _groups_note(comparison: UpdateComparison) -> str:
    return (
        f"Negative flip rate with its {100 * comparison.confidence:g}% interval, and flips of samples. The highest"
        " lower ends come first, so that a small group does not lead by chance."
    )


def _groups_chart(
    id_: str, title: str, groups: FlipGroups, comparison: UpdateComparison, noun: tuple[str, str], empty: str = ""
) -> Safe:
    flips, totals = groups.cells.negative, groups.cells.total
    rates = groups.cells.rate("negative_flip_rate")
    order = groups.worst_first().tolist()
    rows = [
        Whisker(
            empty if empty and groups.names[place] == "" else shorten(groups.names[place]),
            float(rates[place]),
            float(groups.low[place]),
            float(groups.high[place]),
            f"{int(flips[place]):,} of {int(totals[place]):,}",
        )
        for place in order[:_GROUPS]
    ]
    drawn = whiskers_chart(id_, title, rows, comparison.rates["negative_flip_rate"].value)
    rest = order[_GROUPS:]
    if not rest:
        return drawn
    words = (
        f"Not shown: {counted(len(rest), *(f'more {name}' for name in noun))}, with"
        f" {counted(int(flips[rest].sum()), 'negative flip')} in all, of {int(totals[rest].sum()):,} samples."
    )
    return joined([drawn, element("p", words, class_="count")])


def pairs_section(comparison: UpdateComparison) -> Section:
    """Which classes flip into which."""
    title, matrix = "What breaks into what", comparison.matrix
    if not len(matrix.flips):
        return Section("pairs", title, element("p", "There are no negative flips.", class_="count"), half=True)
    pairs = ClassPairs(matrix.right, matrix.wrong, matrix.flips)
    drawn = pairs_chart(
        "flip-pairs", title, pairs, lambda code: class_name(comparison, code), ("right class", "prediction now")
    )
    note = "Negative flips by the class that was right, and the one that is predicted now."
    return Section("pairs", title, drawn, note, half=True)


def worst_section(comparison: UpdateComparison, sprite: Sprite | None, redact_ids: bool) -> Section:
    """The worst negative flips: with pictures as cards, without as a table."""
    worst = comparison.worst
    title = "Worst flips"
    if not worst.flips:
        none = "There are no negative flips." if not worst.total else f"None of {worst.total:,} flips was to be listed."
        return Section("worst", title, element("p", none, class_="count"))
    known = {name for name in ("old", "new") if any(_confidence(flip, name) is not None for flip in worst.flips)}
    parts = [
        _rows(worst.flips, known, redact_ids) if sprite is None else _cards(worst.flips, sprite, known, redact_ids)
    ]
    if worst.total > len(worst.flips):
        parts.append(element("p", f"And {counted(worst.total - len(worst.flips), 'more flip')}.", class_="count"))
    return Section("worst", title, joined(parts), _order(known))


def _order(known: set[str]) -> str:
    if not known:
        return "Neither file has confidences; the flips are in the order of their ids."
    before, now = "the probability of the right class before", "that of the wrong class now"
    if known == {"old"}:
        return f"The surest first: {before}. The new model's confidences are not known."
    if known == {"new"}:
        return "The surest first: the probability of the wrong class now. The old model's confidences are not known."
    return f"The surest first: {before} plus {now}."


def _confidence(flip: WorstFlip, name: str) -> float | None:
    return flip.old_confidence if name == "old" else flip.new_confidence


def _sure(flip: WorstFlip, name: str) -> str:
    value = _confidence(flip, name)
    return "-" if value is None else f"{value:.2f}"


def _cards(flips: Sequence[WorstFlip], sprite: Sprite, known: set[str], redact_ids: bool) -> Safe:
    """A list of pictures with what became of them."""
    cards = []
    for place, flip in enumerate(flips):
        name = f"{place + 1}" if redact_ids else shorten(flip.sample_id, _LONGEST_ID)
        picture = thumbnail(sprite, place, name) or element("span", "no picture", class_="thumb faint")
        sure = element("span", f"{_sure(flip, 'old')} → {_sure(flip, 'new')}", class_="faint") if known else ""
        named = "" if redact_ids else element("span", shorten(flip.sample_id, 26), class_="faint", title=name)
        cards.append(element("li", picture, element("span", _change(flip)), sure, named))
    return element("ul", cards, class_="cards")


def _rows(flips: Sequence[WorstFlip], known: set[str], redact_ids: bool) -> Safe:
    """A table of flips."""
    names = [name for name in ("old", "new") if name in known]
    rows = []
    for place, flip in enumerate(flips):
        name = f"{place + 1}" if redact_ids else shorten(flip.sample_id, _LONGEST_ID)
        sure = [element("td", _sure(flip, model), class_="number", data_name=_SURE[model]) for model in names]
        rows.append(element("tr", element("th", name, scope="row"), element("td", _change(flip)), sure))
    head = ["number" if redact_ids else "sample", "right class → prediction now"]
    head += [_SURE[name] for name in names]
    return _table("The worst negative flips", head, rows, numbers=range(2, len(head)), class_="plain flips")


def _change(flip: WorstFlip) -> Safe:
    return joined([shorten(flip.right), " → ", element("strong", shorten(flip.wrong))])


def _table(
    caption: str, head: Sequence[str], rows: Sequence[Safe], numbers: Sequence[int] = (), class_: str = "plain"
) -> Safe:
    columns = [
        element("th", name, scope="col", class_="number" if place in numbers else None)
        for place, name in enumerate(head)
    ]
    columns[0] = columns[0] if head[0] else element("td")
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", columns)),
        element("tbody", rows),
        class_=class_,
    )


def _scrolled(name: str, table: Safe) -> Safe:
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=name)
