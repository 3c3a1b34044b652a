"""The section of suspicious labels: a table whose first rows need no script."""

from __future__ import annotations

from lightning_flip.reports.page._chart import counted
from lightning_flip.reports.page._listing import FIRST_ROWS, Listing
from lightning_flip.reports.page._markup import Safe, element, joined
from lightning_flip.reports.page._parts import Section, Sprite, missing, thumbnail
from lightning_flip.reports.page._strips import strip, strip_legend

__all__ = ["suspects_section", "without_suspects"]

_ID, _TITLE = "suspects", "Suspicious labels"


def without_suspects(reason: str) -> Section:
    """The section of a run without training samples."""
    return Section(_ID, _TITLE, missing(reason))


def suspects_section(listing: Listing, sprite: Sprite | None) -> Section:
    """The table, the controls around it, and the data of all listed samples."""
    if not len(listing.rows):
        return without_suspects("No pass saw a sample of the training split.")
    shown = min(FIRST_ROWS, listing.detailed)
    columns = _columns(listing, sprite)
    head = [
        element("th", title, scope="col", class_=f"c-{name}" + (" number" if name in _NUMBERS else ""),
                data_sort=name if name in _SORTED else None)
        for name, title in columns
    ]  # fmt: skip
    rows = [_row(listing, sprite, row, [name for name, _ in columns]) for row in range(shown)]
    table = element(
        "table",
        element("caption", f"The {shown} samples whose labels look most wrong", class_="hushed", id="suspects-caption"),
        element("thead", element("tr", head)),
        element("tbody", rows, id="suspect-rows"),
        class_="suspects" if any(listing.ids(shown)) else "suspects short",
    )
    html = joined([strip_legend(), _controls(), table, _pager(), _below(listing, shown)])
    epochs = listing.numbers.history.chosen_epochs(listing.numbers.train_split)
    every = len({epoch for epoch, _ in listing.numbers.history.passes(listing.numbers.train_split)})
    note = (
        "The score is 0 for a label that is surely wrong and 1 for one that is surely right: the mean margin of the"
        f" label's probability over the best other class, over {len(epochs)} of {counted(every, 'epoch')}. A dot marks"
        " labels that are almost certainly wrong."
    )
    return Section(_ID, _TITLE, html, note, data=listing.data())


_NUMBERS = ("score", "forgotten")
_SORTED = ("sample", "score", "forgotten")


def _columns(listing: Listing, sprite: Sprite | None) -> list[tuple[str, str]]:
    return [
        *([("picture", "image")] if sprite is not None else []),
        ("sample", "sample"),
        ("label", "label"),
        ("suggestion", "suggestion"),
        *([("snippet", "text")] if listing.snippets else []),
        ("score", "score"),
        ("forgotten", "forgotten"),
        ("strip", "predictions over the epochs"),
    ]


def _row(listing: Listing, sprite: Sprite | None, row: int, columns: list[str]) -> Safe:
    """A row of the table; the script makes the same ones."""
    numbers, place = listing.numbers, int(listing.rows[row])
    assert numbers.scores is not None
    found = numbers.scores.slice(place, 1).to_pylist()[0]
    index, score = found["index"], found["label_score"]
    name = listing.ids(row + 1)[row] or str(index)
    certain = "suggested" + (" certain" if found["is_label_issue"] else "")
    cells = {
        "picture": element("td", thumbnail(sprite, index, name), class_="picture-cell"),
        "sample": element("td", element("span", _brief(name), title=name), class_="sample"),
        "label": element("td", numbers.name(_class(found["given_label"])), class_="label"),
        "suggestion": element(
            "td", element("span", numbers.name(_class(found["predicted_label"])), class_=certain), class_="suggestion"
        ),
        "snippet": element(
            "td", element("span", listing.snippets.get(index, ""), class_="snippet"), class_="snippet-cell"
        ),
        "score": element("td", "-" if score is None else f"{score:.3f}", class_="score number"),
        "forgotten": element("td", found["forgetting_events"], class_="forgotten number"),
        "strip": element("td", strip(listing.kinds[row]), class_="strip-cell"),
    }
    return element("tr", [cells[name] for name in columns])


def _brief(name: str) -> str:
    """Start and end of a long id, as the script shows it: the end of a path tells most."""
    return name if len(name) <= 30 else f"{name[:11]}…{name[-18:]}"


def _class(label: int | None) -> int:
    return -1 if label is None else label


def _controls() -> Safe:
    def choice(name: str, words: str) -> Safe:
        return element("label", words, " ", element("select", element("option", "any", value=""), id=f"filter-{name}"))

    return element(
        "div",
        choice("label", "label"),
        choice("suggestion", "suggestion"),
        element("button", "only almost certain", type="button", id="certain", aria_pressed="false"),
        element("button", "clear selection", type="button", id="clear", class_="hidden", data_region=""),
        element("span", id="count", class_="count", role="status"),
        element("button", "save list as CSV", type="button", id="csv"),
        class_="controls needs-script",
    )


def _pager() -> Safe:
    return element(
        "div",
        element("button", "before", type="button", id="before"),
        element("span", id="range"),
        element("button", "next", type="button", id="next"),
        class_="controls pager needs-script",
    )


def _below(listing: Listing, shown: int) -> Safe:
    total = listing.numbers.scores.num_rows if listing.numbers.scores is not None else 0
    words = []
    if not listing.complete:
        words.append(
            f"This page knows the {len(listing.rows):,} worst of {total:,} samples one by one; the other ones are"
            " counted, and drawn as squares of the map."
        )
    elif listing.detailed < len(listing.rows):
        words.append(f"The page has the strips of the {listing.detailed:,} worst samples.")
    if listing.every > 1:
        words.append(f"Strips show one in {listing.every} passes.")
    if listing.unseen:
        words.append(f"No pass saw {listing.unseen:,} of {total:,} samples; they have no score.")
    unscored = int((listing.of("label_score") < 0).sum())
    if unscored:
        words.append(
            f"{counted(unscored, 'sample')} were not seen in the epochs that the score is made of, and are listed last."
        )
    without = element(
        "span", f"These are the {shown} worst; with scripts the page lists more of them.", class_="no-script"
    )
    return element("p", " ".join(words), " ", without, class_="count")
