"""Suspects for other tools: read by what the tools document, and by their own packages where these need no server."""

from __future__ import annotations

import csv
import io
import json
import os
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_flip.reports.exports import (
    ExportError,
    argilla_records,
    class_choices,
    cleanlab_arrays,
    huggingface_metadata,
    label_studio_config,
    label_studio_tasks,
)
from lightning_flip.reports.exports import cleanlab as cleanlab_export
from lightning_flip.reports.review import check_review, read_review
from lightning_flip.stores import History, read_history
from lightning_flip.stores.claims import claim
from lightning_flip.stores.history.parts import PartKey, write_part
from lightning_flip.stores.history.samples import write_samples
from tests.oracles.label_studio import read_label_studio
from tests.oracles.suspects import Visit, other_probability, visits_of
from tests.reports.small_runs import NAMES, one_wrong_label, record, some_logits

HOSTILE = [
    "<b>&\"'</b>",
    "]]></script>",
    "a,b;c\nd\te",
    "\x01\x1b[31mred",
    "\u202egnp.exe",
    "=1+1",
    "@sum",
    "$image",
    "{{idx}}",
    "NA",
    " ",
    "x" * 10_000,
    "日本",
]


@pytest.fixture
def run(tmp_path: Path) -> History:
    return one_wrong_label(tmp_path / "run")


@pytest.fixture
def hostile(tmp_path: Path) -> History:
    """One sample per name, whose class and whose file have it."""
    count = len(HOSTILE)
    label, ids = np.arange(count), [f"{name} {place}.png" for place, name in enumerate(HOSTILE)]
    logits = 3 * np.eye(count)[(label + 1) % count][None]
    return record(tmp_path / "run", logits, label, ids, names=HOSTILE, classes=count)


def suspects(history: History) -> tuple[pa.Table, list[str]]:
    rows = history.suspects(1000)
    return rows, class_choices(rows, history.class_names, history.num_classes)


class TestChoices:
    @given(st.lists(st.text(max_size=8), min_size=1, max_size=6))
    @settings(deadline=None)
    def test_they_are_distinct_lines_that_xml_can_hold(self, names: list[str]) -> None:
        rows = pa.table({"given_label": pa.array([0], pa.int32()), "predicted_label": pa.array([None], pa.int32())})
        choices = class_choices(rows, names)
        assert len(set(choices)) == len(choices) == len(names)
        assert all(choice.strip() and choice.isprintable() and len(choice) < 120 for choice in choices)
        tree = ElementTree.fromstring(label_studio_config(choices))
        assert [choice.get("value") for choice in tree.iter("Choice")] == choices

    def test_plain_names_stay_as_they_are(self) -> None:
        rows = pa.table({"given_label": [0], "predicted_label": [1]})
        assert class_choices(rows, NAMES) == NAMES
        assert class_choices(rows) == ["0", "1"]
        assert class_choices(rows, ["ant", "ant", "ant (0)"]) == ["ant (0) (0)", "ant (1)", "ant (0) (2)"]


class TestLabelStudio:
    def test_the_worst_sample_comes_first_with_its_suggestion(self, run: History) -> None:
        rows, choices = suspects(run)
        tasks = label_studio_tasks(rows, choices, image_root="/data/local-files/?d=pets", model_version="mine")
        data, prediction = read_label_studio(tasks, label_studio_config(choices))[0]
        assert data.pop("label_score") == rows["label_score"][0].as_py()
        assert data == {
            "image": "/data/local-files/?d=pets/cow/4.png",
            "index": 4,
            "sample_id": "cow/4.png",
            "given_label": 2,
            "given_name": "cow",
            "is_label_issue": rows["is_label_issue"][0].as_py(),
        }
        assert prediction is not None
        assert prediction["result"][0]["value"] == {"choices": ["bee"]}
        assert prediction["model_version"] == "mine"
        assert prediction["score"] == rows["mean_prob_predicted"][0].as_py()

    def test_hostile_names_arrive(self, hostile: History) -> None:
        rows, choices = suspects(hostile)
        tasks = label_studio_tasks(rows, choices, image_root="/data/local-files/?d=a")
        assert tasks.isascii()
        found = read_label_studio(tasks, label_studio_config(choices))
        assert len(found) == len(HOSTILE)
        for data, prediction in found:
            index, count = data["index"], len(HOSTILE)
            assert data["sample_id"] == f"{HOSTILE[index]} {index}.png"
            assert parse_qs(urlsplit(data["image"]).query, strict_parsing=True) == {"d": [f"a/{data['sample_id']}"]}
            assert prediction is not None
            assert choices.index(prediction["result"][0]["value"]["choices"][0]) == (index + 1) % count

    def test_a_review_of_hostile_names_is_read_back(self, hostile: History, tmp_path: Path) -> None:
        rows, choices = suspects(hostile)
        tasks = json.loads(label_studio_tasks(rows, choices, image_root="https://example.org"))
        for task in tasks:  # a reviewer accepts every suggestion
            task["annotations"] = [{"was_cancelled": False, "result": task["predictions"][0]["result"]}]
        (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
        review = check_review(hostile, read_review(tmp_path / "export.json"))
        assert review.wrong == len(HOSTILE)
        corrected = {one.index: one.label for one in review.corrections()}
        assert corrected == dict(zip(rows["index"].to_pylist(), rows["predicted_label"].to_pylist(), strict=True))

    def test_a_sample_without_suggestion_has_no_prediction(self, run: History) -> None:
        rows, choices = suspects(run)
        column = rows.column_names.index("predicted_label")
        rows = rows.set_column(column, "predicted_label", pa.nulls(rows.num_rows, pa.int32()))
        tasks = json.loads(label_studio_tasks(rows, choices, image_root="https://example.org"))
        assert all("predictions" not in task for task in tasks)

    @pytest.mark.parametrize(
        ("root", "said"),
        [(None, "'cow/4.png'|cow/4.png"), ("pets", "pets"), ("/home/me/pets", "/home/me/pets")],
    )
    def test_a_place_that_is_no_url_is_refused(self, root: str | None, said: str, run: History) -> None:
        rows, choices = suspects(run)
        with pytest.raises(ExportError, match=said) as caught:
            label_studio_tasks(rows, choices, image_root=root)
        assert "/data/local-files/?d=FOLDER" in str(caught.value)

    def test_urls_need_no_root(self, tmp_path: Path) -> None:
        ids: list[str | None] = ["https://example.org/a b.png", "s3://bucket/2.png"]
        rows, choices = suspects(record(tmp_path / "run", some_logits(2, 2), np.array([0, 1]), ids))
        tasks = json.loads(label_studio_tasks(rows, choices))
        assert {task["data"]["image"] for task in tasks} == set(ids)


@pytest.fixture
def argilla_mapper(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Argilla's own reader of dictionaries, for the settings that the guide shows; no server is asked."""
    import argilla as rg
    from argilla.records._mapping import IngestedRecordMapper

    monkeypatch.setattr(rg.Argilla, "_get_default", mock.MagicMock())

    def mapper(labels: dict[str, str]) -> Any:
        asked = rg.Settings(
            fields=[rg.ImageField("image")],
            questions=[rg.LabelQuestion("label", labels=labels)],
            metadata=[
                rg.TermsMetadataProperty("sample_id"),
                rg.TermsMetadataProperty("given_label"),
                rg.FloatMetadataProperty("label_score"),
            ],
        )
        dataset = mock.Mock(settings=asked, schema=asked.schema, questions=asked.questions)
        return IngestedRecordMapper(dataset, user_id=None, mapping={"score": "label.suggestion.score"})

    return mapper


class TestArgilla:
    @pytest.mark.filterwarnings("ignore:Support for class-based `config` is deprecated")
    @pytest.mark.filterwarnings(r"ignore:Keys \['score'\] in data")  # it does take them
    def test_its_package_takes_every_record(self, run: History, argilla_mapper: Any) -> None:
        rows, choices = suspects(run)
        content = json.loads(argilla_records(rows, choices, image_root="https://example.org/pets"))
        read = argilla_mapper(content["labels"])
        (first, *others) = map(read, content["records"])
        assert len(others) == 5
        assert first.id == "4"
        assert dict(first.fields) == {"image": "https://example.org/pets/cow/4.png"}
        suggestion = first.suggestions["label"]
        assert (suggestion.value, content["labels"][suggestion.value]) == ("1", "bee")
        assert suggestion.score == rows["mean_prob_predicted"][0].as_py()
        score = rows["label_score"][0].as_py()
        assert dict(first.metadata) == {"sample_id": "cow/4.png", "given_label": "cow", "label_score": score}

    @pytest.mark.filterwarnings("ignore:Support for class-based `config` is deprecated")
    @pytest.mark.filterwarnings(r"ignore:Keys \['score'\] in data")  # it does take them
    def test_hostile_names_arrive(self, hostile: History, argilla_mapper: Any) -> None:
        rows, choices = suspects(hostile)
        text = argilla_records(rows, choices, image_root="http://example.org")
        assert text.isascii()
        content = json.loads(text)
        for read in map(argilla_mapper(content["labels"]), content["records"]):
            index = int(read.id)
            assert read.metadata["sample_id"] == f"{HOSTILE[index]} {index}.png"
            assert unquote(urlsplit(read.fields["image"]).path[1:]) == read.metadata["sample_id"]
            assert read.suggestions["label"].value == str((index + 1) % len(HOSTILE))
            assert choices[index] == read.metadata["given_label"]

    def test_files_are_below_the_folder_and_links_upwards_are_refused(self, run: History, tmp_path: Path) -> None:
        rows, choices = suspects(run)
        content = json.loads(argilla_records(rows, choices, image_root="some/pets"))
        assert content["records"][0]["image"] == "some/pets/cow/4.png"
        for number, name in enumerate(["../../etc/passwd", "/etc/passwd"]):
            ids: list[str | None] = [name, "b.png"]
            rows, choices = suspects(record(tmp_path / str(number), some_logits(2, 2), np.array([0, 1]), ids))
            with pytest.raises(ExportError, match="etc/passwd is not below pets"):
                argilla_records(rows, choices, image_root="pets")


LOAD = """
import json, sys, datasets
rows = datasets.load_dataset("imagefolder", data_dir=sys.argv[1], split="train", cache_dir=sys.argv[2])
print(json.dumps([row | {"image": row["image"].getpixel((0, 0))} for row in rows]))
"""


class TestHuggingFace:
    @staticmethod
    def load(folder: Path) -> list[dict[str, Any]]:
        """The rows, with the first pixel for `image`; in a process of its own, as the package leaves files open."""
        words = [sys.executable, "-c", LOAD, str(folder), str(folder.parent / "cache")]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        loaded = subprocess.run(words, stdout=subprocess.PIPE, check=True, env=os.environ | offline, timeout=100)
        rows: list[dict[str, Any]] = json.loads(loaded.stdout)
        return rows

    @staticmethod
    def save(folder: Path, names: list[str]) -> None:
        from PIL import Image

        for shade, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), shade).save(folder / name)

    def test_its_package_loads_images_with_the_suggestions(self, run: History, tmp_path: Path) -> None:
        rows, _ = suspects(run)
        names = run.samples("train")["sample_id"].to_pylist()
        self.save(tmp_path / "pets", names)
        text = huggingface_metadata(rows, tmp_path / "pets")
        (tmp_path / "pets" / "metadata.csv").write_text(text, encoding="utf-8")
        loaded = self.load(tmp_path / "pets")
        assert [row["index"] for row in loaded] == rows["index"].to_pylist()
        for row, expected in zip(loaded, rows.to_pylist(), strict=True):
            assert row["image"] == expected["index"]
            for name in ("given_label", "given_name", "predicted_label", "predicted_name", "label_score"):
                assert row[name] == expected[name]
            assert row["is_label_issue"] == expected["is_label_issue"]

    def test_its_package_loads_hostile_names(self, hostile: History, tmp_path: Path) -> None:
        rows, _ = suspects(hostile)
        short = [place for place, name in enumerate(HOSTILE) if len(name) < 100 and "/" not in name]
        rows = rows.take([place for place, index in enumerate(rows["index"].to_pylist()) if index in short])
        self.save(tmp_path / "pets", [f"{HOSTILE[place]} {place}.png" for place in short])
        text = huggingface_metadata(rows, tmp_path / "pets")
        (tmp_path / "pets" / "metadata.csv").write_text(text, encoding="utf-8")
        loaded = self.load(tmp_path / "pets")
        assert sorted(row["index"] for row in loaded) == short
        for row in loaded:
            name = HOSTILE[row["index"]]
            assert row["image"] == short.index(row["index"])
            assert row["given_name"] == {"NA": None}.get(name, f"'{name}" if name[0] in "=@" else name)

    def test_no_cell_is_a_formula(self, hostile: History) -> None:
        rows, _ = suspects(hostile)
        read = list(csv.DictReader(io.StringIO(huggingface_metadata(rows), newline="")))
        assert len(read) == len(HOSTILE)
        assert not [cell for row in read for cell in row.values() if cell.startswith(("=", "+", "@", "-", "\t"))]
        names = {int(row["index"]): row["file_name"] for row in read}
        assert names[5] == "./=1+1 5.png"
        assert names[11] == f"{'x' * 10_000} 11.png"

    def test_the_file_may_be_in_a_folder_above(self, run: History) -> None:
        rows, _ = suspects(run)
        text = huggingface_metadata(rows, "data", image_root="data/train")
        assert text.splitlines()[1].startswith("train/cow/4.png,4,2,cow,1,bee,")
        assert huggingface_metadata(rows, "data", image_root="https://example.org").splitlines()[1][:9] == "cow/4.png"

    def test_a_folder_without_the_images_is_refused(self, run: History, tmp_path: Path) -> None:
        rows, _ = suspects(run)
        with pytest.raises(ExportError, match=r"in a folder above the images.* not in out\.") as caught:
            huggingface_metadata(rows, "out", image_root="data")
        assert "into the folder of the images" in str(caught.value)
        ids: list[str | None] = ["https://example.org/1.png", "https://example.org/2.png"]
        rows, _ = suspects(record(tmp_path / "urls", some_logits(2, 2), np.array([0, 1]), ids))
        with pytest.raises(ExportError, match="is a URL"):
            huggingface_metadata(rows)


def averaged(visits: list[Visit], samples: int, classes: int) -> np.ndarray:
    """The mean of what visits say: label, best other class, and equal shares of the rest for all remaining classes."""
    total, count = np.zeros((samples, classes)), np.zeros(samples)
    for visit in visits:
        said = {visit.label: visit.prob_label}
        if visit.best_other is not None:
            said[visit.best_other] = other_probability(visit)
        others = [one for one in range(classes) if one not in said]
        for one in others:
            said[one] = (1 - sum(list(said.values())[: classes - len(others)])) / len(others)
        for one, prob in said.items():
            total[visit.sample, one] += prob
        count[visit.sample] += 1
    return total / count[:, None]


class TestCleanlab:
    @pytest.mark.parametrize(("classes", "chunk"), [(2, 2**20), (3, 2**20), (5, 7), (5, 100)])
    def test_probabilities_are_means_of_what_visits_say(
        self, classes: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cleanlab_export, "_CELLS", chunk)
        label = np.random.default_rng(1).integers(0, classes, 40)
        logits = some_logits(40, classes)
        history = record(tmp_path / "run", logits, label, classes=classes)
        arrays = cleanlab_arrays(history)
        expected = averaged(visits_of(logits, label), 40, classes)
        np.testing.assert_allclose(arrays.pred_probs(), expected, atol=2e-6)
        assert arrays.pred_probs().dtype == np.float32
        np.testing.assert_array_equal(arrays.labels, label)

    def test_three_classes_lose_nothing(self, tmp_path: Path) -> None:
        logits, label = some_logits(20, 3, epochs=1), np.arange(20) % 3
        softmax = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
        history = record(tmp_path / "run", logits, label, classes=3)
        np.testing.assert_allclose(cleanlab_arrays(history).pred_probs(), softmax, atol=1e-6)

    @given(st.integers(0, 10**6), st.integers(2, 7))
    @settings(deadline=None, max_examples=20)
    def test_one_visit_keeps_its_most_probable_class(self, seed: int, classes: int) -> None:
        logits, label = some_logits(10, classes, 1, seed), np.arange(10) % classes
        with tempfile.TemporaryDirectory() as folder:
            found = cleanlab_arrays(record(Path(folder, "run"), logits, label, classes=classes)).pred_probs()
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(found.argmax(axis=1), logits[0].argmax(axis=1))

    def test_the_file_has_the_arrays(self, tmp_path: Path) -> None:
        history = record(tmp_path / "run", some_logits(9, 4), np.arange(9) % 4, classes=6)
        arrays, file = cleanlab_arrays(history), io.BytesIO()
        arrays.write(file)
        read = np.load(io.BytesIO(file.getvalue()), allow_pickle=False)
        assert sorted(read.files) == ["index", "labels", "pred_probs"]
        assert read["pred_probs"].shape == (9, 6)
        np.testing.assert_array_equal(read["pred_probs"], arrays.pred_probs())
        np.testing.assert_array_equal(read["labels"], arrays.labels)
        np.testing.assert_array_equal(read["index"], np.arange(9))

    def test_its_package_finds_the_wrong_labels(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from cleanlab.dataset import health_summary
        from cleanlab.filter import find_label_issues

        rng = np.random.default_rng(3)
        truth = np.arange(300) % 5
        label = np.where(np.arange(300) < 30, (truth + 1) % 5, truth)
        logits = 3 * np.eye(5)[truth] + rng.normal(size=(4, 300, 5), scale=0.5)
        history = record(tmp_path / "run", logits, label, classes=5, names=list("abcde"))
        arrays = cleanlab_arrays(history)
        probs = arrays.pred_probs()
        issues = np.flatnonzero(find_label_issues(arrays.labels, probs, n_jobs=1))
        assert len(issues) >= 20
        assert set(issues.tolist()) <= set(range(30))
        scores = history.label_scores()
        joint = find_label_issues(arrays.labels, probs, filter_by="confident_learning", n_jobs=1)
        sure = joint & (np.asarray(scores["mean_prob_label"]) <= 0.05)  # what is asked for beside the confident joint
        assert sure.sum() >= 10
        np.testing.assert_array_equal(sure, np.asarray(scores["is_label_issue"]))
        summary = health_summary(arrays.labels, probs, class_names=history.class_names)
        assert summary["overall_label_health_score"] == pytest.approx(0.9, abs=0.02)
        assert capsys.readouterr().out

    def test_samples_never_seen_or_without_a_label_are_left_out(self, tmp_path: Path) -> None:
        folder, logits = tmp_path / "run", some_logits(4, 3)
        record(folder, logits, np.array([0, 1, 2, 0]), classes=3)
        write_samples(folder, {"split": "train", "index": [4, 1], "target": pa.array([1, None], pa.int32())})
        arrays = cleanlab_arrays(read_history(folder))
        assert arrays.index.tolist() == [0, 2, 3]
        assert arrays.labels.tolist() == [0, 2, 0]
        assert arrays.pred_probs().shape == (3, 3)

    def test_files_of_the_first_version_lack_the_other_class_of_right_visits(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        claim(folder, info={"num_classes": 3})
        write_samples(folder, {"split": "train", "index": [0, 1], "target": [0, 0]})
        columns = {
            "global_step": np.zeros(2, int),
            "index": np.arange(2),
            "pred": np.array([0, 2]),
            "prob_label": np.array([0.5, 0.25], np.float32),
            "prob_pred": np.array([0.5, 0.5], np.float32),
            "logit_margin": np.log(np.array([0.5 / 0.4, 0.25 / 0.5], np.float32)),
            "cross_entropy": -np.log(np.array([0.5, 0.25], np.float32)),
        }
        write_part(folder, PartKey("train", 0, 0, 0), columns)
        probs = cleanlab_arrays(read_history(folder)).pred_probs()
        np.testing.assert_allclose(probs, [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], atol=1e-6)

    def test_nothing_to_export_is_an_error(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        record(folder, some_logits(2, 2), np.array([0, 1]))
        unknown = pa.nulls(2, pa.int32())
        write_samples(folder, {"split": "train", "index": [0, 1], "target": unknown})
        with pytest.raises(ExportError, match="'train', loader 0"):
            cleanlab_arrays(read_history(folder))


@pytest.mark.parametrize("ids", [None, ["a.png", None], ["a.png", ""]])
def test_samples_without_a_name_are_refused_with_the_way_out(ids: list[str | None] | None, tmp_path: Path) -> None:
    rows, choices = suspects(record(tmp_path / "run", some_logits(2, 2), np.array([0, 1]), ids))
    writers = [
        lambda: label_studio_tasks(rows, choices, image_root="https://example.org"),
        lambda: argilla_records(rows, choices),
        lambda: huggingface_metadata(rows),
    ]
    for write in writers:
        with pytest.raises(ExportError, match=r"neither a path nor an id \(the first one: index") as caught:
            write()
        for remedy in ("sample_id(index)", "sample_id_from=", "ImageFolder"):
            assert remedy in str(caught.value)


def test_every_printable_character_survives_a_url(tmp_path: Path) -> None:
    name = "".join(sorted(set(string.printable) - set("\\"))) + "é.png"
    rows, choices = suspects(record(tmp_path / "run", some_logits(2, 2), np.array([0, 1]), [name, "b"]))
    tasks = json.loads(label_studio_tasks(rows, choices, image_root="https://example.org/root"))
    images = {task["data"]["index"]: task["data"]["image"] for task in tasks}
    assert unquote(urlsplit(images[0]).path) == f"/root/{name.lstrip('/')}"
