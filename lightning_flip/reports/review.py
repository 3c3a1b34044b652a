"""Reviewed lists of suspicious labels: read them, compare them with their run, and make corrected labels of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lightning_flip.reports.audit import Answer, AuditEstimate, estimate_wrong
from lightning_flip.reports.text import quote, shorten
from lightning_flip.stores import History
from lightning_flip.stores.corrections import Correction
from lightning_flip.stores.errors import ReviewError
from lightning_flip.stores.spreadsheets import cell_key, parse_csv, read_csv, whole_number

__all__ = ["Review", "ReviewRow", "check_review", "has_reviews", "read_review"]

_ANSWERS: dict[str, Answer] = {
    **dict.fromkeys(("right", "correct"), "right"),
    **dict.fromkeys(("wrong", "incorrect"), "wrong"),
    **dict.fromkeys(("unsure", "?"), "unsure"),
}
_IDENTIFYING = ("index", "sample_id", "given_label")
_STRATUM = ("stratum", "stratum_size", "weight")
_LONGEST_CHOICE = 100  # of a class in another tool


@dataclasses.dataclass(frozen=True)
class ReviewRow:
    """A row of a reviewed list, as its file has it.

    Attributes:
        place: the file and the row, for messages.
        cells: the text below each column's name. `index`, `sample_id` and `given_label` say which sample it is;
            `review` and `corrected_label` what a person says, `predicted_label` what was suggested. A row of an audit
            has `stratum`, `stratum_size` and `weight`.
    """

    place: str
    cells: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Judged:
    """A row whose sample is known. No answer means no review."""

    place: str
    index: int
    sample_id: str | None
    given_label: int
    answer: Answer | None
    label: int | None
    suggestion: str
    stratum: tuple[str, str, str] | None


@dataclasses.dataclass(frozen=True)
class Review:
    """What a person says about samples of a run; `check_review` makes it.

    Attributes:
        split: the split of the samples.
        loader: the split's loader.
        rows: samples in the list.
        right: samples whose label is right.
        wrong: samples whose label is wrong.
        unsure: samples that could not be decided.
        audit: the number of wrong labels among all samples, if the list was an audit.
        from_suggestion: wrong labels without `corrected_label`, for which the suggestion is taken.
    """

    split: str
    loader: int
    rows: int
    right: int
    wrong: int
    unsure: int
    audit: AuditEstimate | None
    from_suggestion: int
    _judged: tuple[_Judged, ...] = dataclasses.field(repr=False)

    def corrections(self) -> list[Correction]:
        """The corrected labels, one per wrong one, in the order of the list.

        Raises:
            ReviewError: if a wrong label has neither `corrected_label` nor a suggestion. In an audit, which shows no
                suggestion, each needs `corrected_label`.
        """
        return [
            Correction(self.split, self.loader, row.index, row.sample_id or "", row.given_label, _label_of(row))
            for row in self._judged
            if row.answer == "wrong"
        ]

    def sentences(self) -> list[str]:
        """What was found."""
        reviewed = self.right + self.wrong + self.unsure
        missing = f"; {self.rows - reviewed:,} have no review" if reviewed < self.rows else ""
        found = [
            f"{reviewed:,} of {self.rows:,} samples were reviewed: {self.wrong:,} labels are wrong, {self.right:,}"
            f" right, {self.unsure:,} unsure{missing}."
        ]
        return found if self.audit is None else [*found, self.audit.sentence()]


def read_review(path: str | os.PathLike[str]) -> list[ReviewRow]:
    """Read a reviewed list: CSV of `lightning-flip suspects` with answers, or an export of Label Studio (JSON).

    CSV may have been saved by a spreadsheet: with a byte order mark, semicolons or tabs, other line ends, more columns
    or another order. Of a Label Studio task, each annotation that was not cancelled is a row; its choice is the
    corrected label, which may be the given one.

    Raises:
        ReviewError: if the file is neither, or lacks a column.
        OSError: if it cannot be read.
    """
    content = Path(path).read_bytes()
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        return list(_annotations(content, os.fspath(path)))
    columns, rows = read_csv(path)
    missing = [name for name in (*_IDENTIFYING, "review") if name not in columns]
    if any(name in columns for name in _STRATUM):
        missing += [name for name in _STRATUM if name not in columns]
    if missing:
        raise ReviewError(
            f"{path} lacks the columns {', '.join(missing)}; it has {shorten(', '.join(columns), 200)}. Fill in the"
            " file that `lightning-flip suspects --csv` wrote, and keep its columns."
        )
    return [ReviewRow(f"{path}, line {line}", cells) for line, cells in rows]


def has_reviews(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a list in which somebody filled in `review` or `corrected_label`.

    If it looks like such a list and cannot be parsed, it counts as one: it must not be overwritten by mistake.
    """
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = content.decode("utf-16" if utf_16 else "utf-8-sig", "replace")
    try:
        rows = parse_csv(text).rows
    except ReviewError:
        return "review" in text[:1000]
    return any(cells.get(name, "").strip() for _, cells in rows for name in ("review", "corrected_label"))


def check_review(history: History, rows: Sequence[ReviewRow], split: str = "train", loader: int = 0) -> Review:
    """Check that reviewed rows belong to a run, and count what they say.

    A row belongs to the run if its index, id and given label are those of a sample. `review` is right, wrong or unsure
    (also correct, incorrect and ?), in any case. `corrected_label` is the number or the name of a class; without a
    review it says itself whether the label was wrong. A number that is the name of another class is refused; `#3`
    is always the number 3.

    Args:
        history: the run.
        rows: what `read_review` gives.
        split: the split that the list is about.
        loader: the split's loader.

    Raises:
        ReviewError: if a row belongs to other data, cannot be understood, or contradicts itself or another row; if a
            row of an audit has no review, or is missing. The message names the row.
        HistoryError: if the history cannot be read, or lacks the split.
        ModuleNotFoundError: if it is an audit, and scipy is not installed.
    """
    samples = history.samples(split, loader)
    known = {
        index: (sample_id, label)
        for index, sample_id, label in zip(
            *(samples[name].to_pylist() for name in ("index", "sample_id", "target")), strict=True
        )
    }
    names, count = history.run.info.get("class_names"), history.run.info.get("num_classes")
    classes = _Classes([str(name) for name in names] if isinstance(names, list) else [], count)
    judged: dict[int, _Judged] = {}
    for row in rows:
        one = _judge_row(row, known, classes, split)
        before = judged.get(one.index)
        if before is None or before.answer is None:
            judged[one.index] = one
        elif one.answer is not None and (one.answer, one.label) != (before.answer, before.label):
            raise ReviewError(
                f"{one.place} says {_said(one)} of sample {one.index}, and {before.place} says {_said(before)}. Keep"
                " one of them, or answer unsure."
            )
    found = tuple(judged.values())
    answers = [row.answer for row in found]
    if not any(answers):
        raise ReviewError(
            f"none of {len(answers)} rows has a review. Fill in review (right, wrong or unsure) or corrected_label,"
            " save the file as CSV, and pass that file."
        )
    return Review(
        split=split,
        loader=loader,
        rows=len(found),
        right=answers.count("right"),
        wrong=answers.count("wrong"),
        unsure=answers.count("unsure"),
        audit=_audit(found),
        from_suggestion=sum(row.answer == "wrong" and row.label is None for row in found),
        _judged=found,
    )


class _Classes:
    """The class that a text means."""

    def __init__(self, names: Sequence[str], count: object) -> None:
        known = count if isinstance(count, int) else 0
        self.count = max(known, len(names)) or math.inf
        self.named: dict[str, set[int]] = {}
        for label, name in enumerate(names):
            short = shorten(name, _LONGEST_CHOICE)  # as other tools show it
            for text in (name, short, f"{short} ({label})"):
                self.named.setdefault(cell_key(text), set()).add(label)

    def find(self, cell: str, *, names_first: bool = False) -> int:
        """The class; a ValueError without the row if the text means none or two."""
        text = cell.strip()
        meant = set(self.named.get(cell_key(cell), self.named.get(cell_key(text), ())))
        number = whole_number(text.removeprefix("#"))
        if number is not None and not (names_first and meant) and 0 <= number < self.count:
            meant = {number} if text.startswith("#") else meant | {number}
        if len(meant) == 1:
            return meant.pop()
        if meant:
            several = " and ".join(map(str, sorted(meant)))
            raise ValueError(
                f"{quote(text)} may be the classes {several}; write #{min(meant)} for the class with the number"
                f" {min(meant)}"
            )
        number_of = "a number from 0" + ("" if math.isinf(self.count) else f" to {self.count - 1}")
        raise ValueError(f"{quote(text)} is no class; expected {number_of}" + (" or a name" if self.named else ""))


def _judge_row(
    row: ReviewRow, known: Mapping[int, tuple[str | None, int | None]], classes: _Classes, split: str
) -> _Judged:
    cells = row.cells
    index = whole_number(cells["index"])
    if index is None or index not in known:
        raise ReviewError(
            f"{row.place}: index {quote(cells['index'])} is not a sample of split {split!r} of this run. Review a list"
            " that was made from it, or name the split."
        )
    sample_id, label = known[index]
    if cell_key(cells["sample_id"]) != cell_key(sample_id):
        raise ReviewError(
            f"{row.place}: sample {index} has the id {quote(cells['sample_id'])}, in the run it is"
            f" {quote(sample_id or '')}. The list belongs to another run, or its ids were changed (a spreadsheet may"
            " turn an id into a number or a date: import the column as text)."
        )
    given = whole_number(cells["given_label"])
    if label is None or given != label:
        raise ReviewError(
            f"{row.place}: the label of sample {index} is {quote(cells['given_label'])}, in the run it is"
            f" {'unknown' if label is None else label}. The list belongs to another run; make a new one."
        )
    answer, corrected = _answer(row, label, classes)
    stratum = (cells["stratum"], cells["stratum_size"], cells["weight"]) if "stratum" in cells else None
    suggestion = cells.get("predicted_label", "")
    return _Judged(row.place, index, sample_id, label, answer, corrected, suggestion, stratum)


def _answer(row: ReviewRow, given: int, classes: _Classes) -> tuple[Answer | None, int | None]:
    """The answer of a row and the right label, both None if there is none."""
    word, cell = row.cells.get("review", "").strip().lower(), row.cells.get("corrected_label", "")
    answer = _ANSWERS.get(word)
    if word and answer is None:
        hint = " (yes and no could mean either)" if word in ("yes", "no", "y", "n", "true", "false") else ""
        raise ReviewError(
            f"{row.place}: review is {quote(word)}; expected right, wrong or unsure{hint}, about the given label."
        )
    if not cell.strip():
        return answer, None
    try:
        label = classes.find(cell, names_first="review" not in row.cells)
    except ValueError as error:
        raise ReviewError(f"{row.place}: corrected_label {error}.") from None
    implied: Answer = "right" if label == given else "wrong"
    if answer is not None and answer != implied:
        raise ReviewError(
            f"{row.place}: review is {answer}, and corrected_label is class {label}, which"
            f" {'is' if implied == 'right' else 'is not'} the given label. Change one of them, or leave corrected_label"
            " empty."
        )
    return implied, label if implied == "wrong" else None


def _label_of(row: _Judged) -> int:
    """The right label of a wrong one."""
    if row.label is not None:
        return row.label
    if row.stratum is not None:
        raise ReviewError(
            f"{row.place}: the label is wrong, and corrected_label is empty. Fill it in: an audit takes no suggestion,"
            " since the reviewer did not see it. Without --out, no label is needed for the count."
        )
    suggestion = whole_number(row.suggestion)
    if suggestion is None or suggestion < 0 or suggestion == row.given_label:
        raise ReviewError(
            f"{row.place}: the label is wrong, corrected_label is empty, and predicted_label has no other class"
            f" ({quote(row.suggestion)}). Fill in corrected_label."
        )
    return suggestion


def _said(row: _Judged) -> str:
    return f"{row.answer}" if row.label is None else f"{row.answer}, class {row.label}"


def _audit(rows: Sequence[_Judged]) -> AuditEstimate | None:
    """The count from the rows of an audit; None if they are of another list."""
    if not rows or rows[0].stratum is None:
        return None
    missing = [row.place for row in rows if row.answer is None]
    if missing:
        raise ReviewError(
            f"{len(missing)} of {len(rows)} rows of this audit have no review: {'; '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Answer each with right, wrong or unsure: rows that are left out"
            " could differ from the others, and the count would be wrong."
        )
    strata = [row.stratum for row in rows if row.stratum is not None]
    sizes, weights = [whole_number(size) for _, size, _ in strata], [_weight(weight) for _, _, weight in strata]
    for row, size, weight in zip(rows, sizes, weights, strict=True):
        if size is None or weight is None or not 1 <= weight <= size:
            raise ReviewError(
                f"{row.place}: stratum_size and weight must be the numbers of the draw, got {row.stratum}. Restore the"
                " columns from the file that was drawn (the same run, looks and --seed draw it again)."
            )
    table = {
        "stratum": [name.strip() for name, _, _ in strata],
        "stratum_size": sizes,
        "weight": weights,
        "review": [row.answer for row in rows],
    }
    try:
        return estimate_wrong(pa.table(table))
    except ValueError as error:
        raise ReviewError(str(error)) from error


def _weight(cell: str) -> float | None:
    """A weight, also with a decimal comma; None if it is not a number."""
    with contextlib.suppress(ValueError):
        number = float(cell.strip().replace(",", "."))
        return number if math.isfinite(number) else None
    return None


def _annotations(content: bytes, path: str) -> Iterator[ReviewRow]:
    """The rows of a Label Studio export."""
    try:
        tasks = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ReviewError(
            f"{path} cannot be read as JSON ({error}). Export the project from Label Studio again."
        ) from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and "annotations" in task for task in tasks):
        raise ReviewError(
            f"{path} is not a list of tasks with annotations. Export the project as JSON (not JSON-MIN, nor the tasks"
            " before they were annotated)."
        )
    for number, task in enumerate(tasks):
        place = f"{path}, task {task.get('id', number)}"
        data = task.get("data")
        if not isinstance(data, dict) or any(name not in data for name in _IDENTIFYING):
            raise ReviewError(
                f"{place}: its data lack {', '.join(_IDENTIFYING)}. Import the tasks that `lightning-flip suspects"
                " --label-studio` writes, and export those."
            )
        cells = {name: "" if data[name] is None else str(data[name]) for name in _IDENTIFYING}
        chosen = list(_choices(task["annotations"], place))
        for choice in chosen or [""]:
            yield ReviewRow(place, {**cells, "corrected_label": choice})


def _choices(annotations: Any, place: str) -> Iterable[str]:
    """The class that each annotation chose."""
    for annotation in annotations if isinstance(annotations, list) else []:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            if isinstance(result, dict) and result.get("from_name") == "label":
                choices = (result.get("value") or {}).get("choices")
                if not isinstance(choices, list) or len(choices) != 1:
                    raise ReviewError(f"{place}: expected one choice for the label, got {choices!r}. Choose one class.")
                yield str(choices[0])
