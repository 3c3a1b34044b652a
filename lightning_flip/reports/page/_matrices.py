"""Which class goes with which: a table of counts, or the most frequent pairs where a table would not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_flip.reports.dynamics import ClassPairs
from lightning_flip.reports.page._chart import chart, counted, text, wide_and_narrow
from lightning_flip.reports.page._markup import Safe, element

__all__ = ["MOST_CLASSES", "pairs_chart"]

#: More classes than these are shown as a list of pairs.
MOST_CLASSES = 16
_NARROW_CLASSES = 10
_LISTED = 12
_LETTER = 6.7  # width of an average letter


def pairs_chart(id_: str, title: str, pairs: ClassPairs, name: Callable[[int], str], axes: tuple[str, str]) -> Safe:
    """Counts of pairs; wide and narrow. `axes` name the first and the second class."""
    classes, table = pairs.matrix()
    names = [name(label) for label in classes.tolist()]
    words = _description(pairs, name)

    def form(kind: str, width: float, most: int) -> Safe:
        if len(classes) > most:
            return _list(id_, title, words, pairs, name, kind, width)
        return _matrix(id_, title, words, names, table.tolist(), axes, kind, width)

    return wide_and_narrow(form("wide", 560, MOST_CLASSES), form("narrow", 350, _NARROW_CLASSES))


def _description(pairs: ClassPairs, name: Callable[[int], str]) -> str:
    top = [
        f"{name(first)} to {name(second)} {count}"
        for first, second, count in zip(
            pairs.first[:3].tolist(), pairs.second[:3].tolist(), pairs.count[:3].tolist(), strict=True
        )
    ]
    pairs_found = counted(len(pairs.count), "pair of classes", "pairs of classes")
    return f"{pairs.total:,} in {pairs_found}. Most often: {', '.join(top)}."


def _matrix(
    id_: str, title: str, words: str, names: Sequence[str], table: list[list[int]], axes: tuple[str, str], form: str,
    width: float,
) -> Safe:  # fmt: skip
    most = 14 if form == "wide" else 8
    short = [_cut(name, most) for name in names]
    longest = max(len(name) for name in short) * _LETTER
    left, count = longest + 30, len(names)
    cell = min((width - left - 4) / count, 46 if form == "wide" else 40)
    turned = longest > cell - 4
    top = 22 + (longest * 0.72 + 10 if turned else 18)
    high = min(cell, 38.0)
    largest = max(max(row) for row in table)
    # Letters of turned names need room to the right.
    drawn: list[Safe] = [text(left + cell * count / 2, 13, f"{axes[1]} →", anchor="middle", class_="muted")]
    middle = top + high * count / 2
    drawn.append(
        text(12, middle, f"← {axes[0]}", anchor="middle", class_="muted", transform=f"rotate(-90 12 {middle:g})")
    )
    for place, name in enumerate(short):
        x, y = left + cell * (place + 0.5), top - 8
        turn = f"rotate(-46 {x:g} {y:g})" if turned else None
        anchor = "start" if turned else "middle"
        drawn.append(text(x, y, name, anchor=anchor, transform=turn))
        drawn.append(text(left - 8, top + high * (place + 0.5) + 4, name, anchor="end"))
    for row, counts in enumerate(table):
        for column, value in enumerate(counts):
            x, y = left + cell * column, top + high * row
            cell_box = {"x": x + 1, "y": y + 1, "width": cell - 2, "height": high - 2, "rx": 3}
            told = element("title", f"{names[row]} → {names[column]}: {value:,}")
            if not value:
                drawn.append(element("rect", **cell_box, class_="f-inset", fill_opacity=1 if row == column else 0.45))
                continue
            strength, dark = _strength(value / largest)
            drawn.append(element("rect", told, **cell_box, class_="f-heat", fill_opacity=strength))
            drawn.append(
                text(x + cell / 2, y + high / 2 + 4, _brief(value, cell), anchor="middle",
                     class_="f-on-heat" if dark else None, pointer_events="none")
            )  # fmt: skip
    wide = max(width, left + cell * count + (longest * 0.7 if turned else 0))
    return chart(id_, title, words, wide, top + high * count + 6, drawn, form=form)


def _strength(share: float) -> tuple[float, bool]:
    """Opacity of a cell, and whether its text is dark in both themes; no cell is between, where neither can be read."""
    root = share**0.5
    return (0.7 + 0.3 * (root - 0.7) / 0.3, True) if root > 0.7 else (0.1 + 0.4 * root / 0.7, False)


def _list(
    id_: str, title: str, words: str, pairs: ClassPairs, name: Callable[[int], str], form: str, width: float
) -> Safe:
    high, rows = 26.0, min(_LISTED, len(pairs.count))
    most = 17 if form == "wide" else 10
    shown = [
        (f"{_cut(name(first), most)} → {_cut(name(second), most)}", count)
        for first, second, count in zip(
            pairs.first[:rows].tolist(), pairs.second[:rows].tolist(), pairs.count[:rows].tolist(), strict=True
        )
    ]
    left = max(len(words) for words, _ in shown) * _LETTER + 14
    largest = shown[0][1]
    space = width - left - len(f"{largest:,}") * 8 - 8
    drawn = []
    for place, (pair, count) in enumerate(shown):
        y = high * place
        drawn.append(text(left - 10, y + 17, pair, anchor="end"))
        drawn.append(
            element(
                "rect", x=left, y=y + 4, width=max(space * count / largest, 2.0), height=high - 8, rx=3, class_="f-heat"
            )
        )
        drawn.append(text(left + space * count / largest + 6, y + 17, f"{count:,}", class_="muted"))
    rest = len(pairs.count) - rows
    if rest > 0:
        others = pairs.total - int(pairs.count[:rows].sum())
        drawn.append(text(left, high * rows + 17, f"and {others:,} in {counted(rest, 'other pair')}", class_="muted"))
    return chart(id_, title, words, width, high * (rows + (rest > 0)) + 4, drawn, form=form)


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _brief(value: int, cell: float) -> str:
    text = str(value)
    return text if len(text) * 7.2 < cell else f"{value / 1000:.0f}k" if value >= 1000 else text
