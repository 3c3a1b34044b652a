from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip import cli
from lightning_flip.reports.runs import summary

MISUSE = 2


@pytest.fixture
def pair(predictions) -> list[str]:
    """Of 500 samples the old model has 20 wrong and the new one 30, 10 of them the same."""
    site = ["day" if position < 100 else "night" for position in range(500)]
    sure = [0.5] * 500
    sure[25] = 0.9
    old = predictions("old.parquet", wrong=range(20), site=site, confidence=[0.5] * 500)
    new = predictions("new.parquet", wrong=range(10, 40), reverse=True, site=site, confidence=sure)
    return ["compare", "--old", old, "--new", new]


def report(*words: str) -> dict:
    assert cli.main([*words, "--json", "report.json", "--markdown", "report.md"]) == 0
    return json.loads(Path("report.json").read_text(encoding="utf-8"))


class TestComparison:
    def test_a_process_without_torch_and_lightning(self, pair, command):
        result = command(*pair, "--worst", "1")
        assert (result.returncode, result.stderr) == (0, "")
        assert "old.parquet" in result.stdout
        assert "20 of 500" in result.stdout  # negative flips: samples 20 to 39
        assert "img/25.png" in result.stdout

    def test_numbers(self, pair, capsys):
        found = report(*pair, "--slice", "site")
        assert found["cells"] == {"both_right": 460, "negative": 20, "positive": 10, "both_wrong": 10}
        assert found["rates"]["negative_flip_rate"]["value"] == pytest.approx(0.04)
        assert found["rates"]["relative_negative_flip_rate"]["value"] == pytest.approx(0.04 / (0.96 * 0.06))
        assert [group["negative_flips"] for group in found["slices"]["site"]] == [20, 0]
        assert found["worst_flips"]["flips"][0]["sample_id"] == "img/25.png"
        assert len(found["worst_flips"]["flips"]) == 20
        assert "| negative flip rate (NFR) | 4.00% |" in Path("report.md").read_text(encoding="utf-8")

    def test_worst(self, pair, capsys):
        assert len(report(*pair, "--worst", "3")["worst_flips"]["flips"]) == 3
        assert report(*pair, "--worst", "0")["worst_flips"]["total"] == 20

    def test_more_flips_than_a_table_has_rows_unless_asked(self, predictions, capsys):
        words = ["compare", "--old", predictions("old.parquet"), "--new", predictions("new.parquet", wrong=range(50))]
        report(*words, "--worst", "45")
        assert Path("report.md").read_text(encoding="utf-8").count("| img/") == 45

    def test_a_noise_floor(self, pair, predictions, capsys):
        seeds = [predictions(f"seed-{seed}.parquet", wrong=range(seed, seed + 30)) for seed in (20, 30)]
        floor = report(*pair, "--floor", *seeds)["noise_floor"]
        # Wrong are samples 10-39, 20-49 and 30-59: 10, 20 and 10 flips between them, either way.
        assert floor["mean"] == pytest.approx((10 + 20 + 10) / 3 / 500)
        assert [model["name"] for model in floor["models"]] == ["old.parquet", "new.parquet", *seeds]
        assert floor["more_than_reseed"]["further_seeds_needed"] == 16

    @pytest.mark.parametrize("seeds", [["new.parquet"], ["./old.parquet"], ["a.parquet", "./a.parquet"]])
    def test_a_noise_floor_of_one_model_twice(self, seeds, pair, predictions, capsys):
        predictions("a.parquet")
        assert cli.main([*pair, "--floor", *seeds]) == MISUSE
        assert "twice" in capsys.readouterr().err

    def test_shared_argmax(self, capsys):
        columns = {"sample_id": ["a", "b", "c"], "target": [0, 1, 0]}
        pq.write_table(pa.table({**columns, "pred": [0, 1, 0]}), "old.parquet")
        top = {"top_classes": [[2, 0], [2, 0], [0, 2]], "top_probs": [[0.6, 0.4]] * 3}
        scores = {"pred": [2, 2, 0], **top}
        pq.write_table(pa.table({**columns, **scores}), "new.parquet")
        words = ["compare", "--old", "old.parquet", "--new", "new.parquet", "--shared-classes"]
        assert report(*words)["cells"]["negative"] == 2
        assert report(*words, "--shared-argmax")["cells"]["negative"] == 1

    def test_confidence(self, pair, capsys):
        wide, narrow = (report(*pair, "--confidence", level) for level in ("99%", "0.5"))
        assert (wide["confidence"], narrow["confidence"]) == (0.99, 0.5)
        found = [rates["rates"]["churn"] for rates in (wide, narrow)]
        assert found[0]["low"] < found[1]["low"] < found[1]["high"] < found[0]["high"]
        assert "| 50% interval |" in Path("report.md").read_text(encoding="utf-8")

    def test_bins(self, pair, capsys):
        # All confidences are 0.5 (one is 0.9): every sample is in the second of three bins, and that one in the third.
        found = report(*pair, "--bins", "3")["calibration_errors"]
        assert (found["n_bins"], found["samples"]) == (3, 500)
        assert found["old"] == pytest.approx(abs(0.96 - 0.5))
        assert found["new"] == pytest.approx((470 - 499 * 0.5 + 0.9) / 500)
        assert report(*pair)["calibration_errors"]["n_bins"] == 15

    @pytest.mark.parametrize(("words", "bins"), [([], 15), (["--bins", "7"], 7)])
    def test_bins_of_runs(self, words, bins, runs, monkeypatch, capsys):
        used = []
        measured = summary.expected_calibration_error

        def counting(confidence, correct, n_bins):
            used.append(n_bins)
            return measured(confidence, correct, n_bins)

        monkeypatch.setattr(summary, "expected_calibration_error", counting)
        assert cli.main(["compare", *map(str, runs), *words]) == 0
        assert used == [bins, bins]

    @pytest.mark.parametrize("files", [[], ["--json", "a.json", "--markdown", "a.md"]])
    def test_quiet(self, files, pair, capsys):
        assert cli.main([*pair, "--quiet", *files]) == 0
        assert capsys.readouterr() == ("", "")
        assert all(Path(name).stat().st_size for name in files[1::2])

    def test_quiet_about_runs(self, runs, capsys):
        assert cli.main(["compare", *map(str, runs), "--quiet", "--csv", "runs.csv"]) == 0
        assert capsys.readouterr() == ("", "")
        assert Path("runs.csv").stat().st_size

    def test_quiet_prints_what_is_asked_for_and_errors(self, pair, capsys):
        assert cli.main([*pair, "--quiet", "--json", "-"]) == 0
        assert json.loads(capsys.readouterr().out)["samples"] == 500
        assert cli.main(["compare", "--old", "old.parquet", "--new", "nowhere.csv", "--quiet"]) == MISUSE
        assert "nowhere.csv does not exist" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--json", "--markdown"])
    def test_printed_alone(self, option, pair, capsys):
        assert cli.main([*pair, option, "-"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("{" if option == "--json" else "### Update")
        assert out.endswith("\n")
        if option == "--json":
            json.loads(out)

    def test_without_rich_the_tables_are_markdown(self, pair, hide, capsys):
        hide("rich")
        assert cli.main(pair) == 0
        assert capsys.readouterr().out.startswith("### Update")

    def test_a_file_that_cannot_be_written(self, pair, capsys):
        long = "x" * 300 + ".json"
        assert cli.main([*pair, "--json", long, "--markdown", "a.md"]) == MISUSE
        assert f"--json: cannot write {long}" in capsys.readouterr().err
        assert Path("a.md").exists()


class TestChain:
    @pytest.fixture
    def versions(self, predictions) -> list[str]:
        wrong = {"v1.parquet": range(20), "v2.parquet": range(10, 40), "v3.parquet": range(5, 12)}
        return [predictions(name, wrong=which, reverse=name == "v2.parquet") for name, which in wrong.items()]

    def test_numbers(self, versions, capsys):
        found = report("compare", "--chain", *versions, "--worst", "3", "--confidence", "90%")
        assert [step["cells"]["negative"] for step in found["updates"]] == [20, 5]
        assert [step["cells"]["positive"] for step in found["updates"]] == [10, 28]
        assert found["first_to_last"]["cells"]["negative"] == 0
        assert found["samples_by_flips"] == [467 - 5, 8 + 5, 25]
        assert (found["confidence"], len(found["worst"])) == (0.9, 3)
        assert "| v3.parquet | 98.60% | 5 | 28 |" in Path("report.md").read_text(encoding="utf-8")
        out = capsys.readouterr().out
        assert "2 updates: v1.parquet → v3.parquet" in out
        assert "✓✗✓" in out

    def test_a_file_that_lacks_samples(self, versions, predictions, capsys):
        words = ["compare", "--chain", *versions, predictions("short.parquet", 450, wrong=range(3))]
        assert cli.main(words) == MISUSE
        assert "50 samples are only in v3.parquet" in capsys.readouterr().err
        assert report(*words, "--allow-partial")["samples"] == 450
        assert cli.main([*words, "--allow-partial", "--min-coverage", "95%"]) == MISUSE

    def test_quiet(self, versions, capsys):
        assert cli.main(["compare", "--chain", *versions, "--quiet"]) == 0
        assert capsys.readouterr() == ("", "")

    def test_a_process_without_torch_and_lightning(self, versions, command):
        result = command("compare", "--chain", *versions)
        assert (result.returncode, result.stderr) == (0, "")
        assert "v2.parquet" in result.stdout


class TestMisuse:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "got none"),
            (["runs/a", "--old", "a.csv", "--new", "b.csv"], "not both"),
            (["--old", "a.csv"], "--new is missing"),
            (["--new", "b.csv"], "--old is missing"),
            (["runs/a", "--slice", "site", "--worst", "3"], "--slice, --worst: only with --old and --new"),
            (["--old", "a.csv", "--new", "b.csv", "--split", "test"], "--split: only for recorded runs"),
            (["--old", "a.csv", "--new", "b.csv", "--csv", "-"], "--csv: only for recorded runs"),
            (["--old", "a.csv", "--new", "b.csv", "--worst", "-1"], "got '-1'"),
            (["--old", "a.csv", "--new", "b.csv", "--worst", "all"], "got 'all'"),
            (["--old", "a.csv", "--new", "./a.csv"], "same file"),
            (["--old", "a.csv", "--new", "b.csv", "--shared-argmax"], "--shared-classes"),
            (["--old", "a.csv", "--new", "b.csv", "--floor", "c.csv", "--json", "c.csv"], "overwrite c.csv"),
            (["--old", "a.csv", "--new", "b.csv", "--json", "-", "--markdown", "-"], "printed"),
            (["--old", "a.csv", "--new", "b.csv", "--wurst", "3"], "--wurst"),
            (["--old", "a.csv", "--new", "b.csv", "--confidence", "95"], "such as 95%, got '95'"),
            (["--old", "a.csv", "--new", "b.csv", "--confidence", "100%"], "got '100%'"),
            (["--old", "a.csv", "--new", "b.csv", "--bins", "0"], "from 1, got '0'"),
            (["runs/a", "--confidence", "0.9"], "--confidence: only with --old and --new"),
            (["--chain", "a.csv", "b.csv"], "at least three files, the oldest first, got 2"),
            (["runs/a", "--chain", "a.csv", "b.csv", "c.csv"], "RUN: not with --chain"),
            (["--chain", "a.csv", "b.csv", "c.csv", "--old", "d.csv"], "--old: not with --chain"),
            (["--chain", "a.csv", "b.csv", "c.csv", "--new", "d.csv"], "--new: not with --chain"),
            (["--chain", "a.csv", "b.csv", "c.csv", "--floor", "d.csv"], "--floor: not with --chain"),
            (
                ["--chain", "a.csv", "b.csv", "c.csv", "--slice", "x", "--bins", "3"],
                "--bins, --slice: not with --chain",
            ),
            (["--chain", "a.csv", "b.csv", "./b.csv"], "--chain has b.csv twice in a row"),
            (["--chain", "a.csv", "b.csv", "a.csv", "--json", "a.csv"], "overwrite a.csv"),
        ],
    )
    def test_said_beside_the_usage(self, words, said, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["compare", *words])
        assert exit_.value.code == MISUSE
        text = capsys.readouterr().err
        assert text.startswith("usage: lightning-flip compare RUN [RUN ...] [options]\n")
        assert said in text.split("error: ", 1)[1]

    def test_unreadable_input_as_a_process_sees_it(self, pair, command):
        result = command("compare", "--old", "old.parquet", "--new", "nowhere.npz")
        assert (result.returncode, result.stdout) == (MISUSE, "")
        assert result.stderr.startswith("lightning-flip: nowhere.npz does not exist")

    def test_other_targets(self, predictions, capsys):
        old = predictions("old.parquet", 5)
        columns = {"sample_id": [f"img/{n}.png" for n in range(5)], "target": np.arange(5)[::-1], "pred": np.arange(5)}
        pq.write_table(pa.table(columns), "new.parquet")
        assert cli.main(["compare", "--old", old, "--new", "new.parquet"]) == MISUSE
        assert "4" in capsys.readouterr().err  # all but the one in the middle
