"""Reviewed lists: as people, spreadsheets and Label Studio leave them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lightning_flip.reports.audit import draw_audit
from lightning_flip.reports.review import Review, check_review, has_reviews, read_review
from lightning_flip.reports.suspects import find_suspects
from lightning_flip.stores import History, read_history
from lightning_flip.stores.claims import open_run
from lightning_flip.stores.errors import ReviewError
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples
from lightning_flip.stores.spreadsheets import csv_text, parse_csv

HOSTILE = [
    "=HYPERLINK(1)",
    "'=quoted",
    "-1",
    'say "hi", she said',
    "two\nlines",
    "a\rb",
    "semi;colon\ttab",
    "é漢字 \U0001f600",
    "x" * 10_000,
    " space ",
    "</script>",
    "'",
]
TRUTH = np.arange(12) % 3
LABEL = np.where(np.arange(12) % 4 == 0, (TRUTH + 1) % 3, TRUTH)  # 0, 4 and 8 are wrong
WRONG = [0, 4, 8]
NAMES = ["ant", "bee", "cow"]


def make_run(
    folder: Path, ids: Sequence[str | None] = HOSTILE, names: Sequence[str] | None = NAMES, label: np.ndarray = LABEL
) -> History:
    """Twelve samples of three classes, in two epochs that knew the truth."""
    info: dict = {"num_classes": 3} if names is None else {"class_names": list(names)}
    open_run(folder, run_id=None, info=info)
    write_samples(folder, {"split": "train", "index": np.arange(12), "target": label, "sample_id": list(ids)})
    right = label == TRUTH
    for epoch in range(2):
        prob = np.where(right, 0.8, 0.1).astype(np.float32)
        columns = {
            "index": np.arange(12),
            "global_step": np.full(12, epoch),
            "pred": TRUTH,
            "prob_label": prob,
            "logit_margin": np.where(right, 2.0, -2.0).astype(np.float32),
            "cross_entropy": -np.log(prob),
            "best_other": np.where(right, (label + 1) % 3, TRUTH),
        }
        write_part(folder, PartKey("train", epoch, 0, 0), columns)
    return read_history(folder)


@pytest.fixture
def run(tmp_path: Path) -> History:
    return make_run(tmp_path / "run")


def suspects_csv(run: History) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(find_suspects(run, 12).to_csv(), newline="")))
    for row in rows:
        row["review"] = "wrong" if int(row["index"]) in WRONG else "right"
    return rows


def write(rows: Sequence[dict[str, str]], path: Path, change: Callable[[str], str] = str, **options: str) -> Path:
    """As Python's own writer does; `change` edits the text."""
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]), quoting=csv.QUOTE_ALL, **options)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(change(written.getvalue()).encode("utf-8"))
    return path


def judged(run: History, rows: Sequence[dict[str, str]], tmp_path: Path, **options) -> Review:
    return check_review(run, read_review(write(rows, tmp_path / "check.csv", **options)))


def labels(review: Review) -> dict[int, int]:
    return {one.index: one.label for one in review.corrections()}


def test_the_suggestions_of_wrong_labels_become_their_labels(run: History, tmp_path: Path) -> None:
    review = judged(run, suspects_csv(run), tmp_path)
    assert (review.rows, review.right, review.wrong, review.unsure, review.audit) == (12, 9, 3, 0, None)
    assert labels(review) == {place: TRUTH[place] for place in WRONG}
    assert review.from_suggestion == 3
    first = min(review.corrections(), key=lambda one: one.index)
    assert (first.split, first.loader, first.sample_id, first.given_label) == ("train", 0, "=HYPERLINK(1)", 1)
    assert review.sentences() == ["12 of 12 samples were reviewed: 3 labels are wrong, 9 right, 0 unsure."]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\r\n", "\n"),
        lambda text: "\r\n\n" + text + "\n\n",
        lambda text: text.replace("review", " review ", 1),
    ],
    ids=["byte order mark", "other line ends", "empty lines", "spaces in the header"],
)
def test_a_spreadsheet_may_have_saved_it(change: Callable[[str], str], run: History, tmp_path: Path) -> None:
    assert sorted(labels(judged(run, suspects_csv(run), tmp_path, change=change))) == WRONG


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_separators_and_encodings(separator: str, encoding: str, run: History, tmp_path: Path) -> None:
    path = write(suspects_csv(run), tmp_path / "check.csv", delimiter=separator)
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert sorted(labels(check_review(run, read_review(path)))) == WRONG
    assert has_reviews(path)


def test_numbers_as_data_tools_rewrite_them(run: History, tmp_path: Path) -> None:
    rows = suspects_csv(run)
    for row in rows:
        row.update({name: f"{row[name]}.0" for name in ("index", "given_label")})
        row["corrected_label"] = f"{TRUTH[int(float(row['index']))]}.0"
    assert labels(judged(run, rows, tmp_path)) == {place: TRUTH[place] for place in WRONG}


@pytest.mark.parametrize("word", ["Wrong", " WRONG ", "incorrect"])
def test_answers_in_any_case(word: str, run: History, tmp_path: Path) -> None:
    rows = suspects_csv(run)
    rows[0]["review"], rows[1]["review"], rows[2]["review"] = word, "", " ? "
    review = judged(run, rows, tmp_path)
    assert (review.wrong, review.right, review.unsure) == (1, 9, 1)
    assert review.sentences()[0].endswith("1 labels are wrong, 9 right, 1 unsure; 1 have no review.")


@pytest.mark.parametrize("word", ["yes", "No", "maybe", "riht"])
def test_other_words_are_refused_with_their_row(word: str, run: History, tmp_path: Path) -> None:
    rows = suspects_csv(run)
    rows[0]["review"] = word
    with pytest.raises(ReviewError, match=rf"check\.csv, line 2: review is {word.lower()}; expected right, wrong"):
        judged(run, rows, tmp_path)


def test_a_corrected_label_is_a_number_or_a_name_and_says_by_itself_whether_the_label_was_wrong(
    run: History, tmp_path: Path
) -> None:
    rows = suspects_csv(run)
    for number, row in enumerate(rows):
        label = int(TRUTH[int(row["index"])])
        row["corrected_label"] = [str(label), NAMES[label], f"#{label}", f" {NAMES[label]} "][number % 4]
        row["review"] = "" if number % 2 else row["review"]
    review = judged(run, rows, tmp_path)
    assert labels(review) == {place: TRUTH[place] for place in WRONG}
    assert (review.right, review.from_suggestion) == (9, 0)


@pytest.mark.parametrize(
    ("review", "corrected", "said"),
    [
        ("right", "cow", "review is right, and corrected_label is class 2, which is not the given label"),
        ("wrong", "bee", "review is wrong, and corrected_label is class 1, which is the given label"),
        ("unsure", "ant", "review is unsure"),
        ("wrong", "dog", "dog is no class; expected a number from 0 to 2 or a name"),
        ("wrong", "3", "3 is no class"),
        ("wrong", "-1", "-1 is no class"),
        ("wrong", "1.5", "1.5 is no class"),
    ],
)
def test_contradictions_and_unknown_classes(
    review: str, corrected: str, said: str, run: History, tmp_path: Path
) -> None:
    rows = [row | {"review": review, "corrected_label": corrected} for row in suspects_csv(run) if row["index"] == "0"]
    with pytest.raises(ReviewError, match=f"line 2: .*{said}"):
        judged(run, rows, tmp_path)


def test_names_that_are_numbers_of_other_classes_are_not_guessed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=["3", "0", "5"])
    rows = [row for row in suspects_csv(run) if row["index"] == "0"]  # given class 1, truth 0
    for cell, label in [("5", 2), ("#0", 0), ("2", 2), ("3", 0), ("#2", 2)]:
        assert labels(judged(run, [rows[0] | {"corrected_label": cell}], tmp_path)) == {0: label}
    with pytest.raises(ReviewError, match=r"0 may be the classes 0 and 1; write #0 for the class with the number 0"):
        judged(run, [rows[0] | {"corrected_label": "0"}], tmp_path)


def test_names_that_are_formulas_or_equal(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=["-ant", "crane", "crane"])
    rows = [row for row in suspects_csv(run) if row["index"] == "0"]
    assert rows[0]["predicted_name"] == "'-ant"
    for cell in ("-ant", "'-ant"):
        assert labels(judged(run, [rows[0] | {"corrected_label": cell}], tmp_path)) == {0: 0}
    with pytest.raises(ReviewError, match="crane may be the classes 1 and 2"):
        judged(run, [rows[0] | {"corrected_label": "crane"}], tmp_path)


def test_numbers_without_names(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ids=[None] * 12, names=None)
    rows = suspects_csv(run)
    assert labels(judged(run, rows, tmp_path)) == {place: TRUTH[place] for place in WRONG}
    assert {one.sample_id for one in judged(run, rows, tmp_path).corrections()} == {""}
    with pytest.raises(ReviewError, match="3 is no class; expected a number from 0 to 2"):
        judged(run, [rows[0] | {"corrected_label": "3"}], tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index": "12"}, "index 12 is not a sample of split 'train'"),
        ({"index": "x"}, "index x is not"),
        ({"index": "-1"}, "index -1 is not"),
        ({"sample_id": "other.png"}, r"sample 4 has the id other\.png, in the run it is 'two"),
        ({"sample_id": ""}, "has the id ''"),
        ({"given_label": "0"}, "the label of sample 4 is 0, in the run it is 2"),
        ({"given_label": ""}, "the label of sample 4 is ''"),
    ],
)
def test_rows_of_another_run_are_refused_by_name(change: dict, said: str, run: History, tmp_path: Path) -> None:
    (row,) = (row for row in suspects_csv(run) if row["index"] == "4")
    with pytest.raises(ReviewError, match=f"line \\d+: .*{said}"):
        judged(run, [row | change], tmp_path)


def test_a_sample_that_is_there_twice_counts_once_if_its_answers_agree(run: History, tmp_path: Path) -> None:
    rows = suspects_csv(run)
    blank = [row | {"review": ""} for row in rows]
    for more in (rows, blank):
        for order in (rows + more, more + rows):
            review = judged(run, order, tmp_path)
            assert (review.rows, review.wrong) == (12, 3)
    other = {"review": "right"}
    with pytest.raises(ReviewError, match=r"line \d+ says right of sample \d+, and .*line 2 says wrong"):
        judged(run, [*rows, rows[0] | other], tmp_path)
    with pytest.raises(ReviewError, match=r"says wrong, class \d of sample"):
        judged(run, [*rows, rows[0] | {"corrected_label": str(TRUTH[int(rows[0]["index"])])}], tmp_path)


def test_a_list_without_any_review_is_refused(run: History, tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="none of 12 rows has a review"):
        judged(run, [row | {"review": " "} for row in suspects_csv(run)], tmp_path)


def test_a_wrong_label_without_any_suggestion_needs_one(run: History, tmp_path: Path) -> None:
    rows = [row | {"predicted_label": ""} for row in suspects_csv(run)]
    review = judged(run, rows, tmp_path)
    with pytest.raises(ReviewError, match="corrected_label is empty, and predicted_label has no other class"):
        review.corrections()


def audit_rows(run: History, looks: int = 6) -> list[dict[str, str]]:
    text = draw_audit(run.label_scores(), looks, seed=2).to_csv()
    rows = [row.cells for row in parse_csv(text).rows]
    for row in rows:
        wrong = int(row["index"]) in WRONG
        row["review"] = "wrong" if wrong else "right"
        row["corrected_label"] = str(TRUTH[int(row["index"])]) if wrong else ""
    return rows


def test_an_audit_is_counted_and_corrected(run: History, tmp_path: Path) -> None:
    rows = audit_rows(run)
    review = judged(run, rows, tmp_path)
    assert review.audit is not None
    by_hand = sum(float(row["weight"]) for row in rows if row["review"] == "wrong")
    assert review.audit.wrong == pytest.approx(by_hand)
    assert review.audit.low <= 3 <= review.audit.high
    assert review.sentences()[1].startswith(f"Audit: about {by_hand:,.0f} of 12 labels are wrong, at least ")
    assert labels(review) == {int(r["index"]): TRUTH[int(r["index"])] for r in rows if r["review"] == "wrong"}
    commas = [row | {"weight": row["weight"].replace(".", ",")} for row in rows]
    assert judged(run, commas, tmp_path, delimiter=";").audit == review.audit


def test_an_audit_takes_no_suggestion_but_counts_without(run: History, tmp_path: Path) -> None:
    rows = [row | {"corrected_label": ""} for row in audit_rows(run, 12)]
    review = judged(run, rows, tmp_path)
    assert review.audit is not None
    assert review.audit.wrong == 3
    with pytest.raises(ReviewError, match="an audit takes no suggestion"):
        review.corrections()


def test_rows_of_an_audit_that_are_not_answered_or_gone_are_refused(run: History, tmp_path: Path) -> None:
    rows = audit_rows(run)
    with pytest.raises(
        ReviewError, match=r"2 of 6 rows of this audit have no review: .*line [2-7]; .*line [2-7]\. Answer"
    ):
        judged(
            run,
            [row | ({"review": "", "corrected_label": ""} if n in (1, 3) else {}) for n, row in enumerate(rows)],
            tmp_path,
        )
    with pytest.raises(ReviewError, match=r"and \d rows are here"):
        judged(run, rows[1:], tmp_path)
    for cell in ("x", "inf", "0", "-2", "nan"):
        with pytest.raises(ReviewError, match="line 2: stratum_size and weight must be the numbers of the draw"):
            judged(run, [rows[0] | {"weight": cell}, *rows[1:]], tmp_path)
    without = [{name: cell for name, cell in row.items() if name != "weight"} for row in rows]
    with pytest.raises(ReviewError, match="lacks the columns weight"):
        judged(run, without, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "lacks the columns index, sample_id, given_label, review"),
        (b"PK\x03\x04\xff\xfe", "not text in UTF-8"),
        (b"index,index\n", "several columns named index"),
        (b"index,sample_id,given_label,review\n1,a,b,c,d\n", "line 2: 5 cells below a header of 4"),
        (b'index,sample_id,given_label,review\n1,"' + b"a" * 200_000, "cannot be read as CSV"),
        (b"[1, 2]", "not a list of tasks with annotations"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b'[{"id": 1, "label": "cat", "index": 3}]', "not JSON-MIN"),
        (b'[{"id": 7, "annotations": [], "data": {"text": 1}}]', "task 7: its data lack index, sample_id, given_label"),
    ],
)
def test_files_that_are_no_list(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    with pytest.raises(ReviewError, match=said):
        read_review(path)


def task(run: History, index: int, *choices: str, **annotation: object) -> dict:
    row = run.label_scores().slice(index, 1).to_pylist()[0]
    data = {"image": "x.png", **{name: row[name] for name in ("index", "sample_id", "given_label", "given_name")}}
    results = [
        {
            "id": f"r{number}",
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "origin": "manual",
            "value": {"choices": [choice]},
        }
        for number, choice in enumerate(choices)
    ]
    done = [{"id": number, "completed_by": 1, "result": [one], **annotation} for number, one in enumerate(results)]
    return {"id": 100 + index, "data": data, "annotations": done, "predictions": [], "file_upload": "tasks.json"}


def exported(tasks: Sequence[dict], path: Path) -> Path:
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


def test_an_export_of_label_studio(run: History, tmp_path: Path) -> None:
    tasks = [task(run, index, NAMES[TRUTH[index]]) for index in range(10)]
    tasks += [task(run, 10), task(run, 11, "ant", was_cancelled=True)]
    review = check_review(run, read_review(exported(tasks, tmp_path / "export.json")))
    assert (review.rows, review.right, review.wrong) == (12, 7, 3)
    assert labels(review) == {place: TRUTH[place] for place in WRONG}


def test_choices_of_label_studio_that_are_numbers_or_cut(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", names=None)
    assert labels(check_review(plain, read_review(exported([task(plain, 0, "0")], tmp_path / "a.json")))) == {0: 0}
    numbers = make_run(tmp_path / "numbers", names=["1", "0", "2"])
    assert labels(check_review(numbers, read_review(exported([task(numbers, 0, "1")], tmp_path / "b.json")))) == {0: 0}
    equal = make_run(tmp_path / "equal", names=["crane", "bee", "crane"])
    assert labels(check_review(equal, read_review(exported([task(equal, 0, "crane (2)")], tmp_path / "c.json")))) == {
        0: 2
    }


def test_annotators_who_disagree_or_choose_two_are_refused(run: History, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    with pytest.raises(
        ReviewError, match=r"task 100 says wrong, class 2 of sample 0, and .*task 100 says wrong, class 0"
    ):
        check_review(run, read_review(exported([task(run, 0, "ant", "cow")], path)))
    two = task(run, 0, "ant")
    two["annotations"][0]["result"][0]["value"]["choices"] = ["ant", "cow"]
    with pytest.raises(ReviewError, match=r"task 100: expected one choice for the label, got \['ant', 'cow'\]"):
        read_review(exported([two], path))


@pytest.mark.parametrize(
    ("content", "reviewed"),
    [
        ("index,review,corrected_label\n1,right,\n", True),
        ("index;corrected_label\n1;3\n", True),
        ("\ufeffindex,review\r\n1, \r\n2,\r\n", False),
        ("index,review\n", False),
        ("index,label\n1,right\n", False),
        ("", False),
        ('index,review\n1,"right' + "x" * 200_000, True),  # cannot be parsed any more
        ("index,review\n1,right,1,2\n", True),
    ],
)
def test_which_files_have_reviews(content: str, reviewed: bool, tmp_path: Path) -> None:
    path = tmp_path / "check.csv"
    path.write_text(content, encoding="utf-8")
    assert has_reviews(path) is reviewed
    assert not has_reviews(tmp_path / "none.csv")


@pytest.mark.parametrize("cell", HOSTILE)
def test_csv_text_survives(cell: str) -> None:
    (row,) = parse_csv(csv_text(["a", "b"], [[cell, "x"]])).rows
    assert row.cells == {"a": f"'{cell}" if cell.startswith(("=", "-")) else cell, "b": "x"}
