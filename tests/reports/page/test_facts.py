"""What a run lacks is said, and what it does not lack is not."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lightning_flip.reports.dynamics import flip_timeline
from lightning_flip.reports.page._facts import RunFacts, _ranges, read_configurations, run_facts
from lightning_flip.reports.page._redaction import HIDDEN
from lightning_flip.stores import read_history
from tests.reports import report_runs


def facts_of(folder) -> RunFacts:
    history = read_history(folder)
    return run_facts(folder, history, {split: flip_timeline(history, split) for split in history.splits})


def test_a_complete_run_has_no_gaps(tmp_path):
    assert facts_of(report_runs.ordinary(tmp_path / "run")).gaps == ()
    assert facts_of(report_runs.one_epoch(tmp_path / "one")).gaps == ()


def test_the_facts_of_a_run(tmp_path):
    rows = dict(facts_of(report_runs.ordinary(tmp_path / "run")).rows)
    assert rows["run"] == "ab" * 16
    assert rows["epochs planned"] == "12"
    assert rows["train: passes"] == "12 passes, epochs 0 to 11"
    assert rows["val: coverage"] == "200 of 200 samples seen, 100% of them by each pass"
    assert "dataset Pictures" in rows["train-0: data"]
    assert "1f" * 6 in rows["train-0: data"]
    assert "1f" * 7 not in rows["train-0: data"]


def test_missing_parts_are_named(tmp_path):
    gaps = facts_of(report_runs.missing_parts(tmp_path / "run")).gaps
    assert gaps == (
        "train: no part of epoch 4; flips are counted between the epochs around.",
        "train: parts of some of the 2 ranks are missing: epoch 7 lacks rank 1.",
        "train: the pass of epoch 7 saw fewer samples than others did (down to 50%): interrupted, or"
        " parts are missing.",
        "val: no part of epoch 9; flips are counted between the epochs around.",
        "train: 11 of 12 planned epochs were recorded. The run was stopped, is still running, or its files are"
        " incomplete.",
    )


def test_an_interrupted_run_says_where(tmp_path):
    gaps = facts_of(report_runs.interrupted(tmp_path / "run")).gaps
    assert [gap for gap in gaps if "epoch 11" in gap and "40%" in gap]


def test_samples_that_were_dropped_are_counted(tmp_path):
    gaps = facts_of(report_runs.gaps(tmp_path / "run")).gaps
    assert "train: 4 of 500 samples were never seen." in gaps
    assert [gap for gap in gaps if gap.startswith("train: no pass saw more than 471 of 500 samples")]


def test_a_run_without_validation_says_so(tmp_path):
    gaps = facts_of(report_runs.no_validation(tmp_path / "run")).gaps
    assert gaps == ("val: no validation was recorded, so that scores are made of all epochs.",)


def test_passes_without_samples_are_no_coverage_of_nothing(tmp_path):
    rows = dict(facts_of(report_runs.no_rows(tmp_path / "run")).rows)
    assert rows["train: coverage"] == "0 of 500 samples seen, 0% of them by each pass"


def test_a_validation_every_third_epoch_lacks_none(tmp_path):
    folder = report_runs.ordinary(tmp_path / "run")
    for path in (folder / "history" / "val").iterdir():
        if int(path.name[6:10]) % 3 != 2:
            path.unlink()
    assert facts_of(folder).gaps == ()
    (folder / "history" / "val" / "epoch-0005-pass-0-rank-00000.parquet").rename(tmp_path / "lost")
    lost = facts_of(folder).gaps
    # With 2, 8, 11 neither step is more frequent; the smaller one is taken.
    assert lost == ("val: no part of epoch 5; flips are counted between the epochs around.",)


def test_files_set_aside_are_counted(tmp_path):
    folder = report_runs.ordinary(tmp_path / "run")
    (folder / "history" / "val" / "epoch-0011-pass-0-rank-00000.parquet.orphan").write_bytes(b"")
    assert facts_of(folder).gaps == (
        "Files set aside (*.orphan) when the run was resumed: 1. They are not in this report.",
    )


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "3"),
        ([1, 2], "1 to 2"),
        ([0, 4, 5, 6, 9], "0, 4 to 6, 9"),
        (range(0, 40, 2), "0, 2, 4, 6, 8, 10, 12, 14, ..."),
    ],
)
def test_ranges_of_numbers(numbers, text):
    assert _ranges(np.array(numbers)) == text


class TestConfiguration:
    def test_settings_of_the_run_and_of_the_logger(self, tmp_path):
        (tmp_path / "hparams.yaml").write_text("lr: 0.1\napi_key: 4f\nnet: !!python/object:os.system\n  width: 8\n")
        (tmp_path / "config.yaml").write_text("model:\n  class_path: A\n  betas: [0.9, 0.99]\ndata: null\n")
        found = read_configurations(tmp_path, {"module": "X", "note": "quick", "paths": [{"root": "/home/ann/x"}]})
        assert [(one.source, one.entries) for one in found] == [
            ("run.json", (("note", "quick"), ("paths.0.root", "~/x"))),
            ("hparams.yaml", (("lr", "0.1"), ("api_key", HIDDEN), ("net.width", "8"))),
            ("config.yaml", (("model.class_path", "A"), ("model.betas", "[0.9, 0.99]"), ("data", "null"))),
        ]

    @pytest.mark.parametrize(
        "content",
        ["a: [", "\x00", "- a\nb: c", "&a [*a, *a]", "[" * 3000, "", "plain", "a: &a\n  b: *a"],
    )
    def test_what_is_no_configuration_breaks_nothing(self, tmp_path, content):
        (tmp_path / "hparams.yaml").write_text(content)
        (found,) = read_configurations(tmp_path, {})
        assert found.problem or found.entries

    def test_aliases_that_multiply_end(self, tmp_path):
        lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
        (tmp_path / "config.yaml").write_text("\n".join(lines))
        began = time.process_time()
        (found,) = read_configurations(tmp_path, {})
        assert time.process_time() - began < 2
        assert len(found.entries) == 300
        assert found.left_out > 0

    def test_a_large_file_is_not_read(self, tmp_path):
        (tmp_path / "config.yaml").write_text("a: " + "x" * 2**20)
        assert "larger than 1 MB" in read_configurations(tmp_path, {})[0].problem

    def test_values_are_one_line_and_short(self, tmp_path):
        (found,) = read_configurations(tmp_path, {"long": "x" * 10_000, "lines": "a\nb\u202ec\x07", "deep": [[1, [2]]]})
        values = dict(found.entries)
        assert len(values["long"]) <= 200
        assert values["lines"] == "a bc"

    def test_hostile_settings_are_kept_as_text(self, tmp_path):
        facts = facts_of(report_runs.hostile(tmp_path / "run"))
        names = [name for name, _ in facts.configurations[0].entries]
        assert report_runs.HOSTILE[0] in names
        assert all(text.isprintable() for entry in facts.configurations[0].entries for text in entry)
