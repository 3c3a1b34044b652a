from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip import cli

PASS, FAIL, MISUSE, INCONCLUSIVE = 0, 1, 2, 3


class TestExitStatus:
    """Each of the four, as a process sees it; torch and lightning may not be imported there."""

    def test_500_samples_without_a_flip_pass_a_limit_of_one_percent(self, predictions, command):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet", reverse=True)]
        result = command("gate", *words, "--max-nfr", "0.01")
        assert (result.returncode, result.stderr) == (PASS, "")
        assert result.stdout.startswith("Update gate: PASS\n")

    def test_60_samples_without_a_flip_are_too_few(self, predictions, command):
        words = ["--old", predictions("old.parquet", 60), "--new", predictions("new.parquet", 60)]
        result = command("gate", *words, "--max-nfr", "1%")
        assert (result.returncode, result.stderr) == (INCONCLUSIVE, "")
        assert result.stdout.startswith("Update gate: INCONCLUSIVE\n")
        # From 2,185 samples on, at most the flips that still pass have a chance of 80% at half of the limit.
        assert "2,185 samples would pass with a chance of 80%" in " ".join(result.stdout.split())

    def test_many_flips_fail(self, predictions, command):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet", wrong=range(30))]
        result = command("gate", *words, "--max-nfr", "1%")
        assert (result.returncode, result.stderr) == (FAIL, "")
        lines = result.stdout.splitlines()
        assert lines[0] == "Update gate: FAIL"
        assert "30 of 500" in result.stdout  # the observed rate, before the flips
        assert result.stdout.index("max_nfr") < result.stdout.index("worst 5 of 30 negative flips")
        assert "img/0.png" in result.stdout

    def test_a_missing_file(self, predictions, command):
        result = command("gate", "--old", predictions("old.parquet"), "--new", "nowhere.parquet", "--max-nfr", "1%")
        assert (result.returncode, result.stdout) == (MISUSE, "")
        assert result.stderr.startswith("lightning-flip: nowhere.parquet does not exist")
        assert "Traceback" not in result.stderr


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--old", "a.csv"], "--new"),
            (["--old", "a.csv", "--new", "b.csv"], "at least one limit"),
            (["--old", "a.csv", "--new", "./a.csv", "--max-nfr", "1%"], "same file"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1"], "got '1'"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "-1%"], "expected one argument"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "nan"], "got 'nan'"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "one"], "got 'one'"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%%"], "got '1%%'"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1_0%"], "got '1_0%'"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--error", "0.5"], "0.5"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr-per-slice", "1%"], "--slice"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--slice", "site"], "--max-nfr-per-slice"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--shared-argmax"], "--shared-classes"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--json", "-", "--junit", "-"], "printed"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--json", "x", "--junit", "./x"], "--junit"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--json", "b.csv"], "overwrite b.csv"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--json", ""], "--json"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--markdown", "."], "folder"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--markdown", "new/"], "folder"),
            (["--old", "a.csv", "--new", "b.csv", "--must-not-flip", "g", "--junit", "g"], "overwrite g"),
            (["--old", "a.csv", "--new", "b.csv", "--max-nfr", "1%", "--id-column", "a", "b", "c"], "one name or two"),
            (["--old", "a.csv", "--new", "b.csv", "--max", "1%"], "--max"),
        ],
    )
    def test_misuse(self, words, said, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["gate", *words])
        assert exit_.value.code == MISUSE
        text = capsys.readouterr().err
        assert text.startswith("usage: lightning-flip gate --old FILE --new FILE LIMIT")
        assert said in text.split("error: ", 1)[1]

    @pytest.mark.parametrize(("text", "limit"), [("0.01", 0.01), ("1%", 0.01), ("0.7%", 0.007), (" 2.5 % ", 0.025)])
    def test_limits_are_shares_or_percentages(self, text, limit, predictions, capsys):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet")]
        cli.main(["gate", *words, "--max-nfr", text, "--json", "-"])
        assert json.loads(capsys.readouterr().out)["limits"][0]["limit"] == limit

    def test_scipy_missing(self, predictions, hide, monkeypatch, capsys):
        hide("scipy")
        monkeypatch.delitem(sys.modules, "scipy.special", raising=False)
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet")]
        assert cli.main(["gate", *words, "--max-nfr", "1%"]) == MISUSE
        assert "pip install 'lightning-flip[report]'" in capsys.readouterr().err


class TestLimits:
    def test_the_error_decides(self, predictions, capsys):
        words = ["gate", "--old", predictions("old.parquet", 250), "--new", predictions("new.parquet", 250)]
        words += ["--max-nfr", "1%"]
        assert cli.main(words) == INCONCLUSIVE  # 0.99^250 = 0.081
        assert cli.main([*words, "--error", "10%"]) == PASS

    def test_a_class_that_flips(self, predictions, capsys):
        # Samples 3, 8, 13, ... are of class 3.
        new = predictions("new.parquet", 2000, wrong=range(3, 153, 5))
        words = ["gate", "--old", predictions("old.parquet", 2000), "--new", new]
        assert cli.main([*words, "--max-nfr", "3%"]) == PASS
        assert cli.main([*words, "--max-nfr", "3%", "--max-nfr-per-class", "3%"]) == FAIL
        assert "3 (30 of 400, at least" in " ".join(capsys.readouterr().out.split())

    def test_a_slice_that_flips(self, predictions, capsys):
        site = {"site": ["day" if position < 1800 else "[red]night[/]" for position in range(2000)]}
        old = predictions("old.parquet", 2000, **site)
        new = predictions("new.parquet", 2000, wrong=range(1800, 1830), **site)
        assert cli.main(["gate", "--old", old, "--new", new, "--max-nfr-per-slice", "5%", "--slice", "site"]) == FAIL
        text = " ".join(capsys.readouterr().out.split())
        assert "site=[red]night[/]" in text.replace("'", "")
        assert "30 of 200" in text

    def test_a_slice_that_is_no_column(self, predictions, capsys):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet")]
        assert cli.main(["gate", *words, "--max-nfr-per-slice", "5%", "--slice", "site"]) == MISUSE
        assert "site" in capsys.readouterr().err


class TestGoldenSamples:
    @pytest.fixture
    def words(self, predictions) -> list[str]:
        return ["gate", "--old", predictions("old.parquet"), "--new", predictions("new.parquet", wrong=[7])]

    @pytest.mark.parametrize(
        ("ids", "status"), [("img/7.png", FAIL), ("img/8.png", PASS), ("img/8.png\nimg/7.png", FAIL)]
    )
    def test_a_flip_among_them_fails(self, ids, status, words, capsys):
        # A mark at the start, line ends of Windows and empty lines are what editors leave.
        Path("golden.txt").write_bytes(b"\xef\xbb\xbf" + ids.replace("\n", "\r\n\r\n").encode() + b"\r\n\r\n")
        assert cli.main([*words, "--must-not-flip", "golden.txt"]) == status

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("golden.txt", b"img/7.png\nimg/700.png\n", "img/700.png"),
            ("golden.txt", b" img/7.png\n", "' img/7.png'"),
            ("golden.txt", b"\n\n", "at least one"),
            ("golden.txt", b"\xff\xfe7\n", "UTF-8"),
            ("golden.json", b'{"img/7.png": 1}', "dict"),
            ("golden.json", b'["img/7.png", 1.5]', "1.5"),
            ("golden.json", b'["img/7.png", true]', "True"),
            ("golden.json", b'["img/7.png"', "no JSON"),
            ("golden.json", b"[" * 100_000, "no JSON"),
            ("golden.json", b'["\\ud800"]', "ud800"),
            ("golden.json", b"[]", "at least one"),
        ],
    )
    def test_a_list_that_cannot_be_used(self, name, content, said, words, capsys):
        Path(name).write_bytes(content)
        assert cli.main([*words, "--must-not-flip", name]) == MISUSE
        text = capsys.readouterr().err
        assert text.startswith("lightning-flip: ")
        assert said in text

    def test_no_such_list(self, words, capsys):
        assert cli.main([*words, "--must-not-flip", "nowhere.txt"]) == MISUSE
        assert "nowhere.txt: No such file" in capsys.readouterr().err

    def test_ids_with_line_breaks_stand_in_json(self, capsys):
        ids = ["a\nb", "\u2028", "\x0c", "../x", "7"]
        for name, pred in (("old.parquet", [0] * 5), ("new.parquet", [1, 0, 0, 0, 0])):
            pq.write_table(pa.table({"sample_id": ids, "target": [0] * 5, "pred": pred}), name)
        words = ["gate", "--old", "old.parquet", "--new", "new.parquet", "--must-not-flip"]
        Path("golden.json").write_text(json.dumps(["a\nb", 7]))
        assert cli.main([*words, "golden.json", "--json", "gate.json"]) == FAIL
        assert json.loads(Path("gate.json").read_text())["limits"][0]["flipped"] == ["a\nb"]
        Path("golden.txt").write_text("\u2028\n\x0c\n../x\n7", encoding="utf-8")
        assert cli.main([*words, "golden.txt"]) == PASS


class TestFiles:
    def test_all_three(self, predictions, capsys):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet", wrong=range(30))]
        Path("out").mkdir()
        files = ["--json", "out/gate.json", "--junit", "out/gate.xml", "--markdown", "out/gate.md"]
        assert cli.main(["gate", *words, "--max-nfr", "1%", *files]) == FAIL
        assert capsys.readouterr().out.startswith("Update gate: FAIL")
        assert sorted(os.listdir("out")) == ["gate.json", "gate.md", "gate.xml"]  # and nothing half written
        assert json.loads(Path("out/gate.json").read_text(encoding="utf-8"))["status"] == "fail"
        assert ElementTree.parse("out/gate.xml").getroot().get("failures") == "1"
        assert "fail" in Path("out/gate.md").read_text(encoding="utf-8").splitlines()[0]

    @pytest.mark.parametrize(("option", "start"), [("--json", "{"), ("--junit", "<?xml"), ("--markdown", "### ")])
    def test_printed_alone(self, option, start, predictions, capsys):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet")]
        assert cli.main(["gate", *words, "--max-nfr", "1%", option, "-"]) == PASS
        out, err = capsys.readouterr()
        assert out.startswith(start)
        assert "Update gate: PASS" not in out
        assert "pass" in err  # a log without the report still has the verdict

    def test_one_that_cannot_be_written_is_named_and_the_others_state_the_error(self, predictions, capsys):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet")]
        long = "x" * 300 + ".json"
        assert cli.main(["gate", *words, "--max-nfr", "1%", "--json", long, "--markdown", "gate.md"]) == MISUSE
        out, err = capsys.readouterr()
        assert out.startswith("Update gate: PASS")  # the decision is said all the same
        assert f"--json: cannot write {long}" in err
        assert "gate.md" not in err
        assert "There is no verdict: an output file could not be written" in Path("gate.md").read_text()

    def test_a_folder_that_does_not_exist_is_not_made(self, predictions, capsys):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet"), "--max-nfr", "1%"]
        with pytest.raises(SystemExit, match="2"):
            cli.main(["gate", *words, "--json", "out/gate.json"])
        assert "--json must name a file in a folder that exists, got out/gate.json" in capsys.readouterr().err
        assert not Path("out").exists()

    @pytest.mark.parametrize("second", ["other samples", "damaged", "no limit", "wrong rate", "unknown option"])
    def test_no_verdict_of_an_earlier_run_stays(self, second, predictions, capsys):
        words = ["gate", "--old", predictions("old.parquet"), "--new", predictions("new.parquet")]
        files = ["--json", "gate.json", "--junit=gate.xml", "--markdown", "gate.md"]
        assert cli.main([*words, "--max-nfr", "1%", *files]) == PASS
        limit = ["--max-nfr", "1%"]
        if second == "other samples":
            predictions("new.parquet", 499)
        elif second == "damaged":
            Path("new.parquet").write_bytes(b"PAR1")
        else:
            limit = {"no limit": [], "wrong rate": ["--max-nfr", "one"], "unknown option": [*limit, "--color"]}[second]
        try:
            status = cli.main([*words, *limit, *files])
        except SystemExit as end:
            status = end.code
        assert status == MISUSE
        problem = capsys.readouterr().err.splitlines()[-1].removeprefix("lightning-flip: ").removeprefix("error: ")
        written = json.loads(Path("gate.json").read_text())
        assert written["schema"] == "lightning-flip/gate/2"
        assert (written["status"], written["exit_code"]) == ("error", MISUSE)
        assert written["error"].startswith(problem[:40])
        suites = ElementTree.parse("gate.xml").getroot()
        assert (suites.get("tests"), suites.get("errors"), suites.get("failures")) == ("1", "1", "0")
        assert suites.find("testsuite/testcase/error").get("message") == written["error"]
        assert Path("gate.md").read_text().startswith("### ⛔ Update gate: error\n\nThere is no verdict: ")

    def test_an_error_overwrites_no_input(self, predictions, capsys):
        old = predictions("old.parquet")
        before = Path(old).read_bytes()
        with pytest.raises(SystemExit, match="2"):
            cli.main(["gate", "--old", old, "--new", "new.parquet", "--max-nfr", "1%", "--json", old])
        assert Path(old).read_bytes() == before

    def test_a_link_stays_a_link(self, predictions, capsys):
        Path("real.json").write_text("of last week")
        Path("link.json").symlink_to("real.json")
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet"), "--max-nfr", "1%"]
        assert cli.main(["gate", *words, "--json", "link.json"]) == PASS
        assert Path("link.json").is_symlink()
        assert json.loads(Path("real.json").read_text())["status"] == "pass"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_is_written_to_and_not_replaced(self, predictions, capsys):
        """So are devices; a pipe of this test's own, since a failure would replace what it is tried on."""
        os.mkfifo("pipe")
        reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet"), "--max-nfr", "1%"]
        try:
            assert cli.main(["gate", *words, "--json", "pipe"]) == PASS
            assert Path("pipe").is_fifo()
            assert json.loads(os.read(reading, 1 << 16))["status"] == "pass"
        finally:
            os.close(reading)


class TestOtherTools:
    def test_columns_of_other_names_in_one_file_or_in_both(self, predictions, capsys):
        ours = predictions("ours.parquet")
        header = "file,truth,answer,sure\n"
        lines = [f"img/{n}.png,{n % 5},{n % 5 if n else 4},0.5\n" for n in range(500)]
        Path("a.csv").write_text(header + "".join(lines))
        Path("b.csv").write_text(header + "".join(reversed(lines)))
        words = ["gate", "--max-nfr", "1%", "--json", "gate.json", "--new", "a.csv"]
        names = {"--id-column": "file", "--target-column": "truth", "--pred-column": "answer"}
        both = [word for pair in names.items() for word in pair]
        assert cli.main([*words, "--old", "b.csv", *both, "--confidence-column", "sure"]) == PASS
        assert json.loads(Path("gate.json").read_text())["negative_flips"] == 0
        ours_first = [word for option, name in names.items() for word in (option, default(option), name)]
        cli.main([*words, "--old", ours, *ours_first])
        assert json.loads(Path("gate.json").read_text())["negative_flips"] == 1

    def test_samples_that_one_file_lacks(self, predictions, capsys):
        words = ["gate", "--old", predictions("old.parquet"), "--new", predictions("new.parquet", 450)]
        assert cli.main([*words, "--max-nfr", "1%"]) == MISUSE
        assert "50" in capsys.readouterr().err
        assert cli.main([*words, "--max-nfr", "1%", "--allow-partial"]) == PASS
        assert "50 only the old model has" in " ".join(capsys.readouterr().out.split())

    def test_classes_that_one_model_does_not_know(self, predictions, capsys):
        columns = {"sample_id": [f"img/{n}.png" for n in range(500)], "target": [n % 5 for n in range(500)]}
        pq.write_table(
            pa.table({**columns, "pred": [min(n % 5, 3) for n in range(500)]}).filter(np.arange(500) % 5 < 4),
            "old.parquet",
        )
        words = ["gate", "--old", "old.parquet", "--new", predictions("new.parquet"), "--max-nfr", "1%"]
        assert cli.main([*words, "--shared-classes", "--json", "gate.json"]) == PASS
        report = json.loads(Path("gate.json").read_text())
        assert (report["samples"], report["left_out"]) == (400, {"outside_classes": 100})


def default(option: str) -> str:
    return {"--id-column": "sample_id", "--target-column": "target", "--pred-column": "pred"}[option]
