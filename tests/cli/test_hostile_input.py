from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_flip import cli

PASS, FAIL, MISUSE = 0, 1, 2


def hostile_files() -> dict[str, bytes]:
    sound = pa.BufferOutputStream()
    columns = {"sample_id": ["a", "b"], "target": [0, 1], "pred": [0, 1]}
    pq.write_table(pa.table(columns), sound)
    whole = sound.getvalue().to_pybytes()
    none = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).slice(0, 0), none)
    return {
        "cut.parquet": whole[: len(whole) // 2],
        "empty.parquet": b"",
        "rows.parquet": none.getvalue().to_pybytes(),
        "text.parquet": b"no parquet at all",
        "empty.csv": b"",
        "header.csv": b"sample_id,target,pred\n",
        "cut.csv": b"sample_id,target,pred\na,0,0\nb,1",
        "bytes.csv": b"sample_id,target,pred\n\xff\xfe,0,0\n",
        "fraction.csv": b"sample_id,target,pred\na,0,0.5\n",
        "columns.csv": b"id,label\na,0\n",
        "twice.csv": b"sample_id,target,pred\na,0,0\na,0,0\n",
        "cut.npz": b"PK\x03\x04",
        "kind.pkl": b"\x80\x04.",
        "folder.csv": b"",
    }


class TestHostileInput:
    @pytest.mark.parametrize("name", hostile_files())
    @pytest.mark.parametrize("subcommand", ["gate", "compare"])
    def test_a_sentence_and_no_traceback(self, name, subcommand, predictions, capsys):
        if name == "folder.csv":
            Path(name).mkdir()
        else:
            Path(name).write_bytes(hostile_files()[name])
        limit = ["--max-nfr", "1%"] if subcommand == "gate" else []
        words = [subcommand, "--old", predictions("old.parquet", 2), "--new", name, *limit, "--json", "report.json"]
        assert cli.main(words) == MISUSE
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("lightning-flip: ")
        assert name in err
        if subcommand == "gate":  # a verdict of an earlier run may not stay
            assert json.loads(Path("report.json").read_text())["status"] == "error"
        else:
            assert not Path("report.json").exists()

    @pytest.mark.parametrize("column", ["sample_id", "target", "site"])
    @pytest.mark.parametrize("subcommand", ["gate", "compare"])
    def test_text_that_is_no_text(self, column, subcommand, capsys):
        """Parquet does not check that the bytes of a text are UTF-8."""
        sound = pa.array(["a", "b", "c"])
        broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"b\xff", b"c"]).buffers())
        columns = {"sample_id": sound, "target": sound, "site": sound, column: broken}
        for name in ("old.parquet", "new.parquet"):
            pred = columns["target"] if name == "old.parquet" else columns["target"].take(pa.array([1, 0, 2]))
            pq.write_table(pa.table({**columns, "pred": pred}), name)
        limit = ["--max-nfr-per-slice", "1%"] if subcommand == "gate" else []
        words = [subcommand, "--old", "old.parquet", "--new", "new.parquet", *limit, "--slice", "site"]
        assert cli.main(words) == MISUSE
        out, err = capsys.readouterr()
        assert out == ""
        assert re.match(rf"lightning-flip: \w+\.parquet, column '{column}' must be text in UTF-8", err)

    def test_labels_and_ids_with_markup(self, command):
        ids = [
            "../../etc/passwd",
            "a\nb",
            "<b>&amp;</b>",
            "]]>\x1b[31m",
            "| x | `y` |",
            "",
            "\ud7ff\U0001f600",
            "@team",
        ]
        labels = ["<script>", "a\nb", "|", "\x00\x1b[2J", "]]>", "[link](x)", "é", "&"]
        for name, pred in (("old.parquet", labels), ("new.parquet", labels[1:] + labels[:1])):
            pq.write_table(pa.table({"sample_id": ids, "target": labels, "pred": pred, "site": labels}), name)
        limits = ["--max-nfr", "1%", "--max-nfr-per-class", "1%", "--max-nfr-per-slice", "1%", "--slice", "site"]
        Path("golden.json").write_text(json.dumps([name for name in ids if name]))
        files = ["--json", "gate.json", "--junit", "gate.xml", "--markdown", "gate.md"]
        words = ["--old", "old.parquet", "--new", "new.parquet", "--must-not-flip", "golden.json"]
        result = command("gate", *words, *limits, *files)
        assert result.returncode == FAIL, result.stderr
        assert not {"\x1b", "\x00"} & set(result.stdout)
        ElementTree.parse("gate.xml")
        limits_found = json.loads(Path("gate.json").read_text(encoding="utf-8"))["limits"]
        assert limits_found[3]["flipped"] == [name for name in ids if name]
        assert [group["name"] for group in limits_found[1]["groups"]] == sorted(labels)
        assert "<script>" not in Path("gate.md").read_text(encoding="utf-8")

    def test_a_reader_that_goes_away(self, predictions):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet"), "--max-nfr", "1%"]
        command = [sys.executable, "-m", "lightning_flip.cli", "gate", *words]
        reading, writing = os.pipe()
        os.close(reading)
        result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
        os.close(writing)
        assert (result.returncode, result.stderr) == (PASS, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_a_disk_that_is_full(self, predictions):
        words = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet"), "--max-nfr", "1%"]
        command = [sys.executable, "-m", "lightning_flip.cli", "gate", *words]
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (result.returncode, result.stderr) == (
            MISUSE,
            "lightning-flip: cannot print: No space left on device.\n",
        )

    def test_a_terminal_that_knows_little(self, predictions):
        old = predictions("old.parquet", 2, tag=["é", "ü"])
        words = ["compare", "--old", old, "--new", predictions("new.parquet", 2, tag=["é", "ü"]), "--slice", "tag"]
        command = [sys.executable, "-m", "lightning_flip.cli", *words]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        result = subprocess.run(command, capture_output=True, env=environment)
        assert (result.returncode, result.stderr) == (PASS, b"")
        result.stdout.decode("ascii")

    def test_no_line_starts_a_command_of_a_runner(self, capsys):
        """Ids, classes, slices and file names that a runner of continuous integration would take for a command."""
        planted = ["::error::planted", " ::set-output name=x::1", "##[error]planted"]
        rows = {"sample_id": planted, "target": planted, "pred": planted, "site": planted}
        pq.write_table(pa.table(rows), "::old.parquet")
        pq.write_table(pa.table({**rows, "pred": planted[::-1]}), "::new.parquet")
        words = ["--old", "::old.parquet", "--new", "::new.parquet", "--slice", "site"]
        limits = ["--max-nfr", "1%", "--max-nfr-per-class", "1%", "--max-nfr-per-slice", "1%"]
        Path("golden.txt").write_text("\n".join(planted))
        seen = ""
        for more in ([], ["--json", "-"], ["--junit", "-"], ["--markdown", "-"]):
            cli.main(["gate", *words, *limits, "--must-not-flip", "golden.txt", *more])
            seen += "".join(capsys.readouterr())
        for more in ([], ["--json", "-"], ["--markdown", "-"]):
            assert cli.main(["compare", *words, *more]) == 0
            seen += "".join(capsys.readouterr())
        assert (
            cli.main(["gate", "--old", "::missing.csv\n::error::x", "--new", "::new.parquet", "--max-nfr", "1%"]) == 2
        )
        seen += "".join(capsys.readouterr())
        assert "::error::planted" in seen
        assert not [line for line in seen.splitlines() if line.lstrip().startswith(("::", "##["))]
