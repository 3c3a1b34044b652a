"""Where the verdict of a gate goes, beside its reports: annotations, the step summary, the list of flips."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lightning_flip import cli

PASS, FAIL, MISUSE, INCONCLUSIVE = 0, 1, 2, 3


@pytest.fixture
def words(predictions) -> list[str]:
    sure = [0.5] * 500
    old, new = predictions("old.parquet", confidence=sure), predictions("new.parquet", wrong=range(30), confidence=sure)
    return ["gate", "--old", old, "--new", new]


@pytest.fixture
def summary(monkeypatch) -> Path:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    return Path("summary.md")


class TestFlips:
    @pytest.mark.parametrize("name", ["flips.csv", "flips.parquet", "flips.JSONL"])
    def test_lists_every_flip(self, name, words, capsys):
        assert cli.main([*words, "--max-nfr=1%", f"--flips={name}"]) == FAIL
        assert capsys.readouterr().out.startswith("Update gate: FAIL")
        if name == "flips.parquet":
            rows = pq.read_table(name).to_pylist()
            assert [row["sample_id"] for row in rows] == [f"img/{number}.png" for number in range(30)]
            assert rows[7] == {
                "sample_id": "img/7.png",
                "flip": "negative",
                "target": 2,
                "old_pred": 2,
                "new_pred": 3,
                "old_confidence": 0.5,
                "new_confidence": 0.5,
            }
        else:
            assert len(Path(name).read_text().splitlines()) == 30 + name.endswith(".csv")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("flips.xlsx", "--flips: the name must end in .csv, .parquet or .jsonl, got 'flips.xlsx'"),
            ("-", "--flips must name a file; it is not text"),
            ("old.parquet", "--flips would overwrite old.parquet"),
            ("nowhere/flips.csv", "--flips must name a file in a folder that exists"),
        ],
    )
    def test_a_place_that_cannot_be_used(self, name, said, words, capsys):
        before = Path("old.parquet").read_bytes()
        with pytest.raises(SystemExit, match="2"):
            cli.main([*words, "--max-nfr=1%", "--flips", name])
        assert said in capsys.readouterr().err
        assert Path("old.parquet").read_bytes() == before

    def test_two_outputs_in_one_place(self, words, capsys):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*words, "--max-nfr=1%", "--flips=x.csv", "--markdown=./x.csv"])
        assert "only one of --markdown and --flips can go to x.csv" in capsys.readouterr().err

    @pytest.mark.parametrize("wrong", ["--max-nfr=one", "--slice=nowhere", "--new=missing.csv"])
    def test_flips_of_an_earlier_run_do_not_stay(self, wrong, words, capsys):
        """An empty list would say that nothing flipped, so that there is none."""
        Path("real.csv").touch()
        Path("link.csv").symlink_to("real.csv")
        for name in ("flips.csv", "flips.parquet", "link.csv"):
            assert cli.main([*words, "--max-nfr=1%", f"--flips={name}"]) == FAIL
            try:
                status = cli.main([*words, "--max-nfr=1%", "--max-nfr-per-slice=1%", wrong, f"--flips={name}"])
            except SystemExit as end:
                status = end.code
            assert status == MISUSE
            assert not Path(name).exists()

    def test_an_input_is_never_removed(self, words, capsys):
        before = Path("old.parquet").read_bytes()
        for option in ("--flips=old.parquet", "--flips=./new.parquet", "--json=old.parquet"):
            with pytest.raises(SystemExit, match="2"):
                cli.main([*words, "--max-nfr=one", option])
        assert Path("old.parquet").read_bytes() == before
        assert pq.read_table("new.parquet").num_rows == 500

    def test_a_golden_list_is_never_overwritten(self, words, capsys):
        Path("golden.txt").write_text("img/499.png\n")
        for option in ("--json=golden.txt", "--markdown=./golden.txt"):
            for limit in ("1%", "one"):
                with pytest.raises(SystemExit, match="2"):
                    cli.main([*words, f"--max-nfr={limit}", "--must-not-flip=golden.txt", option])
        assert Path("golden.txt").read_text() == "img/499.png\n"


class TestQuiet:
    @pytest.mark.parametrize(("limit", "status"), [("1%", FAIL), ("20%", PASS), ("6%", INCONCLUSIVE)])
    def test_nothing_is_printed(self, limit, status, words, capsys):
        assert cli.main([*words, "--max-nfr", limit, "--quiet", "--json=gate.json"]) == status
        assert capsys.readouterr() == ("", "")
        assert json.loads(Path("gate.json").read_text())["exit_code"] == status

    def test_what_is_asked_for_is_printed(self, words, capsys):
        assert cli.main([*words, "--max-nfr=1%", "--quiet", "--json=-"]) == FAIL
        out, err = capsys.readouterr()
        assert (json.loads(out)["status"], err) == ("fail", "")

    def test_errors_are_printed(self, words, capsys):
        assert cli.main([*words[:3], "--new=missing.csv", "--max-nfr=1%", "--quiet"]) == MISUSE
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("lightning-flip: missing.csv does not exist")


class TestGitHub:
    def test_a_pass_is_one_notice(self, words, summary, capsys):
        assert cli.main([*words, "--max-nfr=20%", "--min-old-accuracy=90%", "--github", "--quiet"]) == PASS
        out, err = capsys.readouterr()
        assert out.startswith("::notice title=Update gate%3A pass::old.parquet -> new.parquet: 30 of 500 samples")
        assert out.count("\n") == 1
        assert "(6%25).%0AAccuracy: old 100%25" in out
        assert err == ""

    def test_each_limit_that_does_not_pass_is_one_annotation(self, words, summary, capsys):
        limits = ["--max-nfr=1%", "--max-nfr-per-class=5%", "--min-old-accuracy=90%"]
        assert cli.main([*words, *limits, "--github"]) == FAIL
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
        assert [line.split("::")[1] for line in lines] == [
            "error title=Update gate%3A fail",
            "error title=max_nfr%3A fail",
            "warning title=max_nfr_per_class%3A inconclusive",
        ]
        assert "over the limit of 1%25." in lines[1]

    def test_the_summary_is_appended_to(self, words, summary, capsys):
        summary.write_text("# before\n")
        assert cli.main([*words, "--max-nfr=1%", "--github", "--markdown=gate.md"]) == FAIL
        assert summary.read_text() == "# before\n" + Path("gate.md").read_text() + "\n"

    def test_without_a_summary_there_are_annotations(self, words, monkeypatch, capsys):
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        assert cli.main([*words, "--max-nfr=1%", "--github"]) == FAIL
        assert "::error title=max_nfr" in capsys.readouterr().out

    def test_a_summary_that_cannot_be_written_is_named(self, words, monkeypatch, capsys):
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "nowhere/summary.md")
        assert cli.main([*words, "--max-nfr=20%", "--github", "--quiet"]) == MISUSE
        out, err = capsys.readouterr()
        assert "lightning-flip: --github: cannot write the step summary, nowhere/summary.md: No such file" in err
        assert "::notice title=Update gate%3A pass::" in out

    def test_wrong_usage_is_an_annotation(self, words, summary, capsys):
        with pytest.raises(SystemExit, match="2"):
            cli.main([*words, "--github"])
        assert capsys.readouterr().out.startswith("::error title=Update gate%3A error::nothing to decide on")
        assert "There is no verdict: nothing to decide on" in summary.read_text()
