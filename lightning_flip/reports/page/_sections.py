"""The other sections of a run's page, and the sentences that it begins with."""

from __future__ import annotations

import numpy as np

from lightning_flip.reports.page._chart import counted, percent
from lightning_flip.reports.page._dataset_map import map_chart
from lightning_flip.reports.page._forgetting import forgetting_chart
from lightning_flip.reports.page._learning_paths import simplex
from lightning_flip.reports.page._listing import Listing
from lightning_flip.reports.page._markup import Safe, element, joined
from lightning_flip.reports.page._matrices import pairs_chart
from lightning_flip.reports.page._parts import Section, Sprite, missing, thumbnail
from lightning_flip.reports.page._run import RunNumbers
from lightning_flip.reports.page._strips import course_chart
from lightning_flip.reports.page._timeline import flips_chart

__all__ = ["confusion_section", "flips_section", "forgetting_section", "lead", "map_section", "sample_section",
           "tiles", "who_section"]  # fmt: skip


# Least variability and confidence, then the largest ones, in steps of the script's data.
_REGIONS = {"hard to learn": "0 0 4000 3000", "ambiguous": "6000 0 10000 10000", "easy": "0 7000 4000 10000"}


def lead(numbers: RunNumbers) -> list[Safe]:
    """Two or three sentences with numbers."""
    return [*_about_labels(numbers), *_about_flips(numbers)]


def _about_labels(numbers: RunNumbers) -> list[Safe]:
    if numbers.scores is None:
        return [joined(["Suspicious labels were not computed. ", numbers.reasons[numbers.train_split]])]
    scored = len(numbers.order)
    if not scored:
        return [joined("No pass saw a sample of the training split, so no label was judged.")]
    surely, disagreeing = _counts(numbers)
    first = [
        element("strong", f"{surely:,} of {scored:,} labels"),
        f" are almost certainly wrong, and {disagreeing:,} disagree with their averaged prediction.",
    ]
    if numbers.pairs is not None and len(numbers.pairs.count):
        label, suggestion = (numbers.name(int(side[0])) for side in (numbers.pairs.first, numbers.pairs.second))
        first += [f" Most often {label} looks like ", element("strong", suggestion), "."]
    return [joined(first), *_about_truth(numbers)]


def _about_truth(numbers: RunNumbers) -> list[Safe]:
    """What is known of the count, where the run recorded labels before noise was added."""
    truth, label = numbers.column("true_target"), numbers.column("given_label")
    known = (truth >= 0) & (label >= 0)
    wrong, surely = known & (truth != label), known & (numbers.column("is_label_issue", 0) > 0)
    if not known.any() or not wrong.any():
        return []
    hits = int((surely & wrong).sum())
    right, found = percent(hits, int(surely.sum())), percent(hits, int(wrong.sum()))
    return [
        joined(
            f"The true labels are known: {int(wrong.sum()):,} of {int(known.sum()):,} are wrong. Of the labels that are"
            f" called almost certainly wrong, {right} are; they are {found} of all wrong ones."
        )
    ]


def _about_flips(numbers: RunNumbers) -> list[Safe]:
    timeline = numbers.timeline
    if timeline is None:
        return [joined(["Flips were not computed. ", numbers.reasons[numbers.split]])]
    if not timeline.known[-1]:
        return [joined(f"No pass saw a sample of split {numbers.split!r}, so there are no flips.")]
    known, right, ever = int(timeline.known[-1]), int(timeline.right[-1]), int(timeline.ever_right[-1])
    was = "is wrong now and was" if ever - right == 1 else "are wrong now and were"
    words: list[object] = [
        element("strong", f"{ever - right:,} of {counted(known, f'{numbers.split} sample')}"),
        f" ({percent(ever - right, known)}) {was} right before: {percent(ever - right, known - right)} of all errors.",
    ]
    if len(timeline.epoch) == 1:
        words = [
            f"{percent(right, known)} of {counted(known, f'{numbers.split} sample')} are right. After a single pass"
        ]
        words += [" there are no flips yet."]
    if numbers.flips is not None and len(numbers.flips.count):
        first, second = (numbers.name(int(side[0])) for side in (numbers.flips.first, numbers.flips.second))
        words += [f" Most often {first} turns into ", element("strong", second), "."]
    return [joined(words)]


def _counts(numbers: RunNumbers) -> tuple[int, int]:
    return int(numbers.column("is_label_issue", 0).sum()), int(numbers.column("disagrees", 0).sum())


def tiles(numbers: RunNumbers) -> list[tuple[str, str]]:
    """The key numbers; what was not computed says so."""
    none = "not computed"
    found: list[tuple[str, str]] = []
    history = numbers.history
    epochs = {epoch for split in (numbers.train_split, numbers.split) if split in history.splits
              for epoch, _ in history.passes(split)}  # fmt: skip
    if numbers.scores is not None:
        found.append((f"{numbers.train_split} samples", f"{numbers.scores.num_rows:,}"))
    found.append(("epochs", f"{len(epochs):,}"))
    timeline = numbers.timeline
    if timeline is None or not timeline.known[-1]:
        found += [(f"{numbers.split} accuracy", none), ("flipping error", none)]
    else:
        known, right = int(timeline.known[-1]), int(timeline.right[-1])
        found.append((f"{numbers.split} accuracy", percent(right, known)))
        flipping = percent(int(timeline.ever_right[-1]) - right, known) if len(timeline.epoch) > 1 else none
        found.append(("flipping error", flipping))
    if numbers.scores is None or numbers.forgetting is None or not len(numbers.order):
        return [*found, ("labels almost certainly wrong", none)]
    learned = int(numbers.forgetting.events.sum())
    forgotten = percent(learned - int(numbers.forgetting.events[:1].sum()), learned)
    once = int(numbers.column("visits", 0).max()) < 2
    return [
        *found,
        ("labels almost certainly wrong", f"{_counts(numbers)[0]:,}"),
        ("disagree with their average", f"{_counts(numbers)[1]:,}"),
        ("forgotten at least once", none if once else forgotten),
        ("never learned", f"{numbers.forgetting.never_learned:,}"),
    ]


def map_section(listing: Listing) -> Section:
    """The dataset map; the script draws samples and a selection into it."""
    numbers = listing.numbers
    chart = map_chart(
        numbers.column("variability", np.nan),
        numbers.column("confidence", np.nan),
        numbers.column("is_label_issue", 0) > 0,
        replaced=listing.complete,
    )
    buttons = [
        element("button", name, type="button", class_="region", data_region=region) for name, region in _REGIONS.items()
    ]
    legend = element(
        "p",
        *(
            _swatch(class_, words)
            for class_, words in (("f-suggestion", "almost certainly wrong"), ("f-point", "other"))
        ),
        class_="legend map-keys",
    )
    note = "How probable its label was for a sample, on average (up) and how much that changed (to the right)."
    if not listing.complete:
        note += f" The squares count all samples; a selection is one of the {len(listing.rows):,} worst."
    help_ = element(
        "p",
        "Drag over the map to choose samples; the table above follows. With the keyboard: arrow keys move the"
        " selection, with shift they change its size, Escape clears it.",
        class_="count needs-script", id="map-help",
    )  # fmt: skip
    canvas = element(
        "canvas", tabindex=0, id="map-canvas", role="application", aria_label="Selection of samples on the dataset map",
        aria_describedby="map-help",
    )  # fmt: skip
    html = joined(
        [
            legend,
            element("div", *buttons, element("button", "all", type="button", class_="region", data_region=""),
                    class_="controls needs-script"),
            element("div", chart, canvas, class_="map"),
            help_,
        ]
    )  # fmt: skip
    return Section("map", "Dataset map", html, note, half=True)


def _swatch(class_: str, words: str) -> Safe:
    mark = element("circle", cx=7, cy=7, r=5, class_=class_)
    return element("span", element("svg", mark, class_="key", viewBox="0 0 14 14", aria_hidden="true"), words)


def confusion_section(numbers: RunNumbers) -> Section:
    """Which labels are confused."""
    title, note = "Which labels are confused", "Labels that are almost certainly wrong, and what they probably are."
    if numbers.pairs is None:
        html = missing(numbers.reasons[numbers.train_split])
    elif not len(numbers.pairs.count):
        html = element("p", "No label is almost certainly wrong.", class_="missing")
    else:
        html = pairs_chart("confusion", title, numbers.pairs, numbers.name, ("given label", "suggested label"))
    return Section("confusion", title, html, note, half=True)


def sample_section(listing: Listing, sprite: Sprite | None) -> Section:
    """The worst sample; the script shows others in its place."""
    numbers, place = listing.numbers, int(listing.rows[0])
    assert numbers.scores is not None
    found = numbers.scores.slice(place, 1).to_pylist()[0]
    name = listing.ids(1)[0] or str(found["index"])
    label = numbers.name(-1 if found["given_label"] is None else found["given_label"])
    suggestion = numbers.name(-1 if found["predicted_label"] is None else found["predicted_label"])
    course, kinds = listing.courses, listing.kinds[0]
    seen = int((course.pred[0] >= 0).sum())
    score = "-" if found["label_score"] is None else f"{found['label_score']:.3f}"
    facts = [
        ("label", label),
        ("suggestion", suggestion),
        ("score", score),
        ("right", f"in {int((course.pred[0] == found['given_label']).sum())} of {counted(seen, 'pass', 'passes')}"),
        ("forgotten", f"{counted(found['forgetting_events'], 'time')}"),
    ]
    written = [
        element("dt", fact)
        + element("dd", words, id=f"sample-{fact}", class_="suggested" if fact == "suggestion" else None)
        for fact, words in facts
    ]
    path, jumps, paths = simplex(listing)
    top = element(
        "div",
        element("div", thumbnail(sprite, found["index"], name, "picture"), id="sample-picture", class_=None),
        element("dl", [Safe(one) for one in written], class_="facts"),
        element("p", listing.snippets.get(found["index"], ""), class_="text", id="sample-text")
        if listing.snippets
        else "",
        path,
        class_="sample-facts",
    )
    names = [numbers.name(int(one)) if one >= 0 else "" for one in course.pred[0]]
    html = joined(
        [
            element("p", "Sample ", element("strong", name, id="sample-name"), class_="note", role="status"),
            top,
            jumps,
            course_chart(course.prob_label[0], kinds, names, course.epoch.tolist()),
        ]
    )
    note = "The line is the probability of the label; the cells below it show what was predicted."
    return Section("sample", "The picked sample", html, note, data=paths)


def flips_section(numbers: RunNumbers) -> Section:
    """Right now, ever right, and what changed in each pass."""
    title = "Flips over the epochs"
    timeline = numbers.timeline
    if timeline is None:
        return Section("flips", title, missing(numbers.reasons[numbers.split]))
    if not timeline.known[-1]:
        return Section("flips", title, missing(f"No pass saw a sample of split {numbers.split!r}."))
    note = (
        f"Split {numbers.split!r}. Blue: the share that is right. Dashed: right in this epoch or before; the gap"
        " is what was forgotten. Bars: samples that changed to right (up) and to wrong (down) since the pass before."
    )
    below: list[object] = []
    if int(timeline.known[-1]) < timeline.samples:
        unseen = timeline.samples - int(timeline.known[-1])
        below.append(f"No pass saw {unseen:,} of {timeline.samples:,} samples; shares are of the others. ")
    partial = int((timeline.seen < timeline.known).sum())
    if partial:
        below.append(
            f"{counted(partial, 'pass', 'passes')} did not see every sample; a sample that is not seen keeps its state."
        )
    html = joined([flips_chart(timeline), element("p", below, class_="count") if below else ""])
    return Section("flips", title, html, note)


def who_section(numbers: RunNumbers) -> Section:
    """From which right class to which wrong one samples flipped."""
    title, note = "Who flips", f"Split {numbers.split!r}: from the right class to the predicted one, in all epochs."
    if numbers.flips is None:
        html = missing(numbers.reasons[numbers.split])
    elif not len(numbers.flips.count):
        html = element("p", "No sample flipped from right to wrong.", class_="missing")
    else:
        html = pairs_chart("who-flips", title, numbers.flips, numbers.name, ("right class", "became"))
    return Section("who", title, html, note, half=True)


def forgetting_section(numbers: RunNumbers) -> Section:
    """How often training samples were forgotten."""
    title = "Forgetting"
    if numbers.forgetting is None:
        return Section("forgetting", title, missing(numbers.reasons[numbers.train_split]), half=True)
    found = numbers.forgetting
    if not found.events.sum() and not found.never_learned:
        return Section("forgetting", title, missing("No pass saw a sample of the training split."), half=True)
    note = "How often a training sample was right at one visit and wrong at the next one."
    return Section("forgetting", title, forgetting_chart(found), note, half=True)
