from __future__ import annotations

import datetime
import inspect
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lightning_flip import cli
from lightning_flip.cli import _gate
from lightning_flip.reports import gate
from lightning_flip.reports.gating.decision import LIMITS, JoinOptions
from lightning_flip.reports.gating.policy import parse_policy, policy_schema, read_policy

PASS, FAIL, MISUSE, INCONCLUSIVE = 0, 1, 2, 3

LIMIT = "must be a share from 0 to below 1, or a percentage such as 1%, got"
# A policy that cannot be used, its line, and what the error says: the key, what was expected, what came or the way out.
WRONG = {
    "empty": ("", 1, "the policy must be a mapping with version: 1, got nothing"),
    "list": ("- version: 1", 1, "the policy must be a mapping with version: 1, got a list of 1"),
    "no version": ("block: {max_nfr: 1%}", 1, "a mapping with version: 1; version is missing"),
    "newer": ("version: 2", 1, "version must be 1 (a higher one needs a newer lightning-flip), got 2"),
    "text version": ("version: '1'", 1, "version must be 1 (a higher one needs a newer lightning-flip), got '1'"),
    "twice": ("block:\n  max_nfr: 1%\n  max_nfr: 2%", 4, "must be YAML; line 4: the key 'max_nfr' occurs twice"),
    "alias": ("block: &a {max_nfr: 1%}\nwarn: *a", 3, "must be YAML; line 3: an alias (*) is not allowed"),
    "not closed": ("block: {max_nfr: 1%", 2, "must be YAML; line 2: expected ',' or '}'"),
    "tab": ("block:\n\tmax_nfr: 1%", 3, "must be YAML; line 3: found character '\\t' that cannot start any token"),
    "object": ("block: !!python/object:os.system {}", 2, "must be YAML; line 2: could not determine a constructor"),
    "two": ("---\nversion: 1", 2, "must be YAML; line 2: but found another document"),
    "typo": ("block: {max_nrf: 1%}", 2, "block.max_nrf is an unknown key. Did you mean max_nfr?"),
    "hyphens": ("block:\n  max-nfr: 1%", 3, "block.max-nfr is an unknown key. Did you mean max_nfr?"),
    "tier typo": ("blok: {max_nfr: 1%}", 2, "blok is an unknown key. Did you mean block?"),
    "without a tier": ("max_nfr: 1%", 2, "max_nfr is an unknown key. It belongs under block or under warn."),
    "top key in a tier": ("block: {looks: 2}", 2, "block.looks is an unknown key. It belongs at the top level."),
    "only warns": (
        "block: {max_ece_increase: 1%}",
        2,
        "block.max_ece_increase is an unknown key. It belongs under warn.",
    ),
    "only blocks": ("warn: {must_not_flip: a}", 2, "warn.must_not_flip is an unknown key. It belongs under block."),
    "nothing like it": ("columns: {zzz: a}", 2, "columns.zzz is an unknown key. Known keys are id, target, pred,"),
    "nothing": ("block:", 2, "block must be a mapping of limits to rates, got nothing; leave the key out"),
    "list of limits": ("block: [max_nfr]", 2, "block must be a mapping of limits to rates, got a list of 1"),
    "one": ("block: {max_nfr: 1}", 2, f"block.max_nfr {LIMIT} 1."),
    "two signs": ("block: {max_nfr: 1%%}", 2, f"block.max_nfr {LIMIT} '1%%'."),
    "negative": ("block: {max_nfr: -0.01}", 2, f"block.max_nfr {LIMIT} -0.01."),
    "hundred": ("block: {max_nfr: 100%}", 2, f"block.max_nfr {LIMIT} '100%'."),
    "no": ("warn: {max_churn: no}", 2, f"warn.max_churn {LIMIT} 'no'."),
    "true": ("warn: {max_churn: true}", 2, f"warn.max_churn {LIMIT} true."),
    "nan": ("warn: {max_churn: .nan}", 2, f"warn.max_churn {LIMIT} '.nan'."),
    "comma": ("warn:\n  max_churn: 0,5%", 3, f"warn.max_churn {LIMIT} '0,5%'."),
    "share of cost": ("block: {max_flip_cost: 5%}", 2, "block.max_flip_cost must be a number from 0, got '5%'"),
    "infinite cost": ("block: {max_flip_cost: 1e999}", 2, "block.max_flip_cost must be a number from 0, got inf"),
    "error": ("error: 50%", 2, "error must be between 0 and 0.5, such as 0.05 or 5%, got '50%'"),
    "coverage": ("min_coverage: 101%", 2, "min_coverage must be a share from 0 to 1, or a percentage such as 95%, got"),
    "one slice": ("slices: site", 2, "slices must be a list of column names, got 'site'"),
    "number": ("slices: [site, 2024]", 2, "slices[1] must be the name of a column (quote a number), got 2024"),
    "support": ("min_support: 0.5", 2, "min_support must be a whole number of samples from 0, got 0.5"),
    "looks": ("looks: 0", 2, "looks must be a whole number from 1, got 0"),
    "population": ("population: all", 2, "population must be sample or fixed, got 'all'"),
    "inconclusive": ("inconclusive: ok", 2, "inconclusive must be fail, warn or pass, got 'ok'"),
    "yes": ("allow_partial: yes", 2, "allow_partial must be true or false, got 'yes'"),
    "three columns": (
        "columns: {id: [a, b, c]}",
        2,
        "columns.id must be the name of a column (quote a number), or a list of",
    ),
    "no reason": ("allowed_flips: [{id: 7, until: 2027-03-31}]", 2, "id, reason and until; reason is missing"),
    "no day": (
        "allowed_flips:\n- {id: 7, reason: a, until: soon}",
        3,
        "allowed_flips[0].until must be the last day of",
    ),
    "no such day": (
        "allowed_flips: [{id: 7, reason: a, until: 2027-02-30}]",
        2,
        "such as 2027-03-31, got '2027-02-30'",
    ),
    "rounded id": ("allowed_flips: [{id: 7.10, reason: a, until: 2027-03-31}]", 2, "(quote other numbers), got 7.1"),
    "same id": (
        "allowed_flips:\n- {id: 7, reason: a, until: 2027-03-31}\n- {id: '7', reason: b, until: 2027-03-31}",
        4,
        "allowed_flips names 7 twice; keep one of them",
    ),
}
FILES = ["--json", "gate.json", "--junit", "gate.xml", "--markdown", "gate.md"]


def words(predictions, samples: int = 500, **new) -> list[str]:
    return ["gate", "--old", predictions("old.parquet", samples), "--new", predictions("new.parquet", samples, **new)]


def run(*line: str) -> int:
    try:
        return cli.main(line)
    except SystemExit as end:
        return end.code


class TestPolicyFile:
    def test_it_decides_like_the_flags(self, predictions, capsys):
        line = words(predictions, 2000, wrong=range(3, 153, 5))
        Path("policy.yaml").write_text("version: 1\nblock:\n  max_nfr: 3%\n  max_nfr_per_class: 3%\n")
        assert run(*line, "--policy", "policy.yaml", "--json", "file.json") == FAIL
        assert run(*line, "--max-nfr", "3%", "--max-nfr-per-class", "3%", "--json", "flags.json") == FAIL
        assert Path("file.json").read_text() == Path("flags.json").read_text()

    def test_lists_are_beside_it(self, predictions, capsys):
        line = words(predictions, wrong=[7])
        Path("rules").mkdir()
        Path("rules/golden.txt").write_text("img/7.png\n")
        Path("rules/policy.yaml").write_text("version: 1\nblock: {must_not_flip: golden.txt}\n")
        assert run(*line, "--policy", "rules/policy.yaml") == FAIL

    def test_it_tells_how_to_read_and_join(self, capsys):
        Path("old.csv").write_text("file,label,answer\na,0,0\nb,1,1\nc,1,1\n")
        Path("new.csv").write_text("file,label,answer\na,0,0\nb,1,1\n")
        Path("policy.yaml").write_text(
            "version: 1\nblock: {max_nfr: 50%}\ncolumns: {id: file, target: label, pred: [answer, answer]}\n"
            "allow_partial: true\nmin_coverage: 60%\nerror: 30%\n"
        )
        line = ["gate", "--old", "old.csv", "--new", "new.csv", "--policy", "policy.yaml"]
        assert run(*line) == PASS
        assert run(*line, "--min-coverage", "70%") == MISUSE
        assert "asks for 70" in capsys.readouterr().err

    def test_a_flag_replaces_the_key_of_its_name_even_by_the_default(self, predictions, capsys):
        line = [*words(predictions, 250), "--policy", "policy.yaml"]
        Path("policy.yaml").write_text("version: 1\nblock: {max_nfr: 1%}\nerror: 10%\n")
        assert run(*line) == PASS  # 0.99^250 = 0.081
        assert run(*line, "--error", "5%") == INCONCLUSIVE
        assert run(*line, "--error", "5%", "--max-nfr", "2%") == PASS

    @pytest.mark.parametrize("name", WRONG)
    def test_a_wrong_one_is_an_error_with_its_line_in_every_output(self, name, predictions, capsys):
        text, line, said = WRONG[name]
        start = "" if name in ("empty", "list", "no version", "newer", "text version") else "version: 1\n"
        Path("policy.yaml").write_text(start + text)
        for file in FILES[1::2]:
            Path(file).write_text("pass")
        assert run(*words(predictions), "--policy", "policy.yaml", *FILES) == MISUSE
        problem = capsys.readouterr().err.removeprefix("lightning-flip: ").strip()
        assert problem.startswith("policy.yaml")
        assert f"line {line}:" in problem
        assert said in problem
        written = json.loads(Path("gate.json").read_text())
        assert (written["status"], written["exit_code"], written["error"]) == ("error", 2, problem)
        assert ElementTree.parse("gate.xml").find("testsuite/testcase/error").get("message") == problem
        assert Path("gate.md").read_text().startswith("### ⛔ Update gate: error\n\nThere is no verdict: policy.yaml")

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"version: 1\x00"])
    def test_one_that_cannot_be_read(self, content, predictions, capsys):
        if content is not None:
            Path("policy.yaml").write_bytes(content)
        assert run(*words(predictions), "--policy", "policy.yaml", *FILES) == MISUSE
        assert "policy.yaml" in json.loads(Path("gate.json").read_text())["error"]

    @pytest.mark.parametrize("broken", [False, True])
    def test_an_error_overwrites_no_list_that_it_names(self, broken, predictions, capsys):
        Path("golden.json").write_text('["img/7.png"]')
        limit = "max_nrf" if broken else "max_nfr"
        Path("policy.yaml").write_text(f"version: 1\nblock: {{must_not_flip: golden.json, {limit}: 1%}} # gate.md\n")
        line = [*words(predictions), "--policy", "policy.yaml", "--json", "golden.json"]
        assert run(*line) == MISUSE
        assert Path("golden.json").read_text() == '["img/7.png"]'
        assert run(*line[:-2], "--json", "policy.yaml") == MISUSE
        assert Path("policy.yaml").read_text().startswith("version: 1")
        if broken:
            assert run(*line[:-2], "--markdown", "gate.md") == MISUSE
            assert "There is no verdict" in Path("gate.md").read_text()

    @pytest.mark.parametrize(
        "text",
        [
            '"a\\n::error::planted": 1',
            'error: "a\\n::error::planted \\e[31m\\u202e"',
            '"\\n::error::planted": 1\n"\\n::error::planted": 1',
            'block: {must_not_flip: "a\\n::error::planted"}',
        ],
    )
    def test_no_text_in_it_starts_a_command_of_a_runner(self, text, predictions, capsys):
        Path("policy.yaml").write_text(f"version: 1\n{text}\n")
        assert run(*words(predictions), "--policy", "policy.yaml", *FILES) == MISUSE
        seen = "".join(capsys.readouterr()) + "".join(Path(file).read_text() for file in FILES[1::2])
        assert "planted" in seen
        assert not [line for line in seen.splitlines() if line.lstrip().startswith("::")]
        assert not {"\x1b", "\u202e"} & {*seen}

    @pytest.mark.parametrize("package", ["yaml", "jsonschema"])
    def test_a_package_that_is_missing(self, package, predictions, hide, monkeypatch, capsys):
        import sys

        monkeypatch.delitem(sys.modules, "lightning_flip.reports.gating._policy_yaml", raising=False)
        hide(package)
        Path("policy.yaml").write_text("version: 1\nblock: {max_nfr: 1%}")
        assert run(*words(predictions), "--policy", "policy.yaml", *FILES) == MISUSE
        assert f"needs {package}" in capsys.readouterr().err
        assert "pip install 'lightning-flip[gate]'" in json.loads(Path("gate.json").read_text())["error"]
        assert run(*words(predictions), "--max-nfr", "1%") == PASS  # flags need neither


class TestPrintedPolicy:
    FLAGS = (
        *("--max-nfr", "1%", "--max-nfr-per-class=0.7%", "--max-churn-per-slice", "0.2", "--slice", "site", "fold"),
        *("--min-old-accuracy", "100%", "--max-flip-cost", "2.5", "--cost", "costs.csv", "--max-ece-increase", "2%"),
        *("--warn", "max_churn=5%", "--warn", "max-nfr=0.5%", "--max-top-k-flips", "1%", "--top-k", "3"),
        *("--must-not-flip", "golden.txt", "--must-be-right", "right.json", "--allowed-flips", "waivers.csv"),
        *(
            "--error",
            "1%",
            "--min-support",
            "50",
            "--population",
            "fixed",
            "--cluster",
            "patient",
            "--design-effect",
            "--looks",
            "2",
        ),
        *("--inconclusive", "fail", "--allow-partial", "--min-coverage", "95%", "--drop-unlabelled"),
        *("--shared-classes", "--shared-argmax", "--id-column", "file", "--target-column", "a", "b"),
    )

    def test_it_has_every_key_and_is_read_back(self, capsys):
        assert run("gate", *self.FLAGS, "--print-policy") == PASS
        text = capsys.readouterr().out
        assert set(re.findall(r"^(\w+):", text, re.MULTILINE)) == set(policy_schema()["properties"])
        Path("policy.yaml").write_text(text)
        assert run("gate", "--policy", "policy.yaml", "--print-policy") == PASS
        assert capsys.readouterr().out == text
        policy = read_policy("policy.yaml")
        assert policy.block["max_nfr_per_class"] == 0.007
        assert policy.warn == {"max_churn": 0.05, "max_nfr": 0.005, "max_ece_increase": 0.02}
        assert (policy.must_be_right, policy.columns["target"]) == ("right.json", ("a", "b"))

    def test_it_decides_like_its_flags(self, predictions, capsys):
        line = words(predictions, 250, wrong=[7])
        flags = ["--max-nfr", "3%", "--max-nfr-per-class", "5%", "--error", "10%"]
        status = run(*line, *flags, "--json", "flags.json")
        capsys.readouterr()
        assert run("gate", *flags, "--print-policy") == PASS
        Path("policy.yaml").write_text(capsys.readouterr().out)
        assert run(*line, "--policy", "policy.yaml", "--json", "file.json") == status
        assert Path("file.json").read_text() == Path("flags.json").read_text()

    def test_paths_of_a_policy_elsewhere_still_hold(self, capsys):
        Path("rules").mkdir()
        Path("rules/policy.yaml").write_text("version: 1\nblock: {must_not_flip: golden.txt}\n")
        assert run("gate", "--policy", "rules/policy.yaml", "--max-nfr", "1%", "--print-policy") == PASS
        assert parse_policy(capsys.readouterr().out).must_not_flip == "rules/golden.txt"

    def test_wrong_flags_print_nothing(self, capsys):
        assert run("gate", "--print-policy") == MISUSE
        assert run("gate", "--max-nfr-per-slice", "1%", "--print-policy") == MISUSE
        out, err = capsys.readouterr()
        assert out == ""
        assert "nothing to decide on" in err
        assert "--max-nfr-per-slice needs --slice" in err


class TestFlags:
    def test_every_limit_of_a_policy_has_a_flag_and_a_keyword(self):
        tiers = policy_schema()["properties"]
        limits = {*tiers["block"]["properties"], *tiers["warn"]["properties"]}
        keywords = {*inspect.signature(gate).parameters, *LIMITS, *JoinOptions.__annotations__}
        assert limits == {*LIMITS, "must_not_flip", "must_be_right"}
        assert {*tiers} - {"version", "block", "columns"} <= keywords
        assert keywords - limits - {*tiers} == {"old", "new", "options"}

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (
                ["--warn", "max_churn"],
                "must be the name of a limit and its rate, such as max_churn=5%, got 'max_churn'",
            ),
            (["--warn", "max_chrun=5%"], "'max_chrun' is not a limit; did you mean max_churn?"),
            (["--warn", "zzz=5%"], "'zzz' is not a limit; limits are max_nfr"),
            (["--warn", "max_churn=5"], "got '5'"),
            (["--max-flip-cost", "1", "--max-nfr", "1%"], "--cost FILE"),
            (["--cost", "costs.csv", "--max-nfr", "1%"], "--max-flip-cost NUMBER"),
            (["--max-flip-cost", "-1"], "--max-flip-cost"),
            (["--max-flip-cost", "nan"], "must be a number from 0, got 'nan'"),
            (["--design-effect", "--max-nfr", "1%"], "--cluster COLUMN"),
            (["--top-k", "3", "--max-nfr", "1%"], "--max-top-k-flips"),
            (["--top-k", "0", "--max-nfr", "1%"], "must be a whole number from 1, got '0'"),
            (["--min-support", "1e3", "--max-nfr", "1%"], "must be a whole number from 0, got '1e3'"),
            (["--population", "all", "--max-nfr", "1%"], "invalid choice: 'all'"),
            (["--max-nfr", "1%", "--min-coverage", "95%"], "--allow-partial"),
            (["--max-nfr", "1%", "--allowed-flips", "gate.json"], "overwrite gate.json"),
        ],
    )
    def test_misuse(self, flags, said, predictions, capsys):
        assert run(*words(predictions), *flags, "--json", "gate.json") == MISUSE
        assert said in capsys.readouterr().err.split("error: ", 1)[1]

    @pytest.mark.parametrize("width", [80, 120])
    def test_the_help_fits_the_terminal(self, width, monkeypatch, capsys):
        monkeypatch.setenv("COLUMNS", str(width))
        assert run("gate", "--help") == PASS
        assert max(map(len, capsys.readouterr().out.splitlines())) <= width


class TestExpired:
    @pytest.fixture
    def line(self, predictions) -> list[str]:
        Path("waivers.csv").write_text("id,reason,until\nimg/7.png,blurred,2027-03-31\n")
        return [*words(predictions, wrong=[7]), "--must-not-flip", "golden.txt", "--allowed-flips", "waivers.csv"]

    def test_a_flip_is_allowed_up_to_its_last_day(self, line, monkeypatch, capsys):
        Path("golden.txt").write_text("img/7.png\n")
        for day, status in (("2027-03-31", PASS), ("2027-04-01", FAIL)):
            monkeypatch.setattr(_gate, "_today", lambda day=day: datetime.date.fromisoformat(day))
            assert run(*line, *FILES) == status
            warned = "1 exception of allowed_flips has expired and is not applied: img/7.png (until 2027-03-31)."
            texts = [" ".join(capsys.readouterr().out.split()), *(Path(file).read_text() for file in FILES[1::2])]
            assert [warned in text.replace("\\_", "_") for text in texts] == [status == FAIL] * 4


class TestGoldenHeader:
    def test_a_header_and_comments(self, predictions, capsys):
        Path("golden.txt").write_text("# of March\nsample_id\nimg/8.png\n")
        assert run(*words(predictions, wrong=[7]), "--must-not-flip", "golden.txt", "--json", "gate.json") == PASS
        assert json.loads(Path("gate.json").read_text())["limits"][0]["watched"] == 1


class TestInconclusive:
    @pytest.mark.parametrize(("counts_as", "status"), [("fail", FAIL), ("warn", PASS), ("pass", PASS)])
    def test_it_counts_as_what_was_asked_and_every_output_says_so(self, counts_as, status, predictions, capsys):
        line = words(predictions, 60)
        assert run(*line, "--max-nfr", "1%") == INCONCLUSIVE
        capsys.readouterr()
        assert run(*line, "--max-nfr", "1%", "--inconclusive", counts_as, *FILES) == status
        said = f"The verdict is inconclusive, and counts as {counts_as}."
        assert said in " ".join(capsys.readouterr().out.split())
        assert all(said in Path(file).read_text() for file in FILES[1::2])
        report = json.loads(Path("gate.json").read_text())
        assert (report["status"], report["exit_code"]) == ("inconclusive", status)

    def test_other_verdicts_stay(self, predictions, capsys):
        assert run(*words(predictions, wrong=range(30)), "--max-nfr", "1%", "--inconclusive", "pass") == FAIL
        assert "counts as" not in capsys.readouterr().out


class TestWhatFlagsDecide:
    """Each flag in a case where it makes a difference."""

    @pytest.mark.parametrize(
        ("flags", "status"),
        [
            (["--max-nfi", "50%"], INCONCLUSIVE),  # the only error is a flip
            (["--max-nfi", "50%", "--max-nfr", "3%", "--population", "fixed"], FAIL),
            (["--max-nfr", "3%", "--warn", "max_nfi=0.1%"], PASS),
            (["--max-churn", "3%"], PASS),
            (["--max-churn", "0.1%"], INCONCLUSIVE),
            (["--max-churn", "0.1%", "--population", "fixed"], FAIL),
            (["--max-accuracy-drop", "3%"], PASS),
            (["--max-nfr-per-class", "2%"], INCONCLUSIVE),
            (["--max-nfr-per-class", "2%", "--max-nfr", "3%", "--min-support", "101"], INCONCLUSIVE),
            (["--max-nfr", "1%"], PASS),
            (["--max-nfr", "1%", "--looks", "3"], INCONCLUSIVE),
            (["--max-nfr", "1%", "--cluster", "patient"], INCONCLUSIVE),
            (["--must-not-flip", "flipped.txt"], FAIL),
            (["--must-not-flip", "flipped.txt", "--allowed-flips", "waivers.csv"], PASS),
            (["--must-be-right", "flipped.txt"], FAIL),
            (["--max-flip-cost", "0.5", "--cost", "costs.csv"], PASS),
            (["--max-flip-cost", "0.01", "--cost", "costs.csv", "--population", "fixed"], FAIL),
            (["--max-confidence-drop", "20%"], PASS),
            (["--max-nll-increase", "0.5"], PASS),
            (["--max-nll-increase", "0.001", "--population", "fixed"], FAIL),
        ],
    )
    def test_status(self, flags, status, predictions, capsys):
        columns = {"patient": [n // 10 for n in range(500)], "prob_label": [0.9] * 500}
        old = predictions("old.parquet", **columns)
        new = predictions("new.parquet", wrong=[7], **columns | {"prob_label": [0.8] * 500})
        Path("flipped.txt").write_text("img/7.png\n")
        Path("waivers.csv").write_text("id,reason,until\nimg/7.png,blurred,9999-12-31\n")
        Path("costs.csv").write_text("old,new,cost\n2,3,10\n3,2,1\n")
        line = ["gate", "--old", old, "--new", new]
        assert run(*line, *flags, "--json", "flags.json") == status
        capsys.readouterr()
        assert run("gate", *flags, "--print-policy") == PASS
        Path("policy.yaml").write_text(capsys.readouterr().out)
        assert run(*line, "--policy", "policy.yaml", "--json", "file.json") == status
        assert json.loads(Path("file.json").read_text()) == json.loads(Path("flags.json").read_text())

    def test_a_flip_without_a_cost_is_warned_of(self, predictions, capsys):
        Path("costs.csv").write_text("old,new,cost\n3,2,1\n")
        assert run(*words(predictions, wrong=[7]), "--max-flip-cost", "1", "--cost", "costs.csv") == PASS
        said = "1 of 1 negative flips cost 0, because costs does not list their classes: 2 -> 3 (1)."
        assert said in " ".join(capsys.readouterr().out.split())
        Path("waivers.csv").write_text("id,reason,until\nimg/7.png,blurred,9999-12-31\n")
        line = [*words(predictions, wrong=[7]), "--max-flip-cost", "1", "--cost", "costs.csv"]
        assert run(*line, "--allowed-flips", "waivers.csv") == PASS
        assert "cost 0, because" not in " ".join(capsys.readouterr().out.split())

    def test_a_score_that_a_file_lacks(self, predictions, capsys):
        assert run(*words(predictions), "--max-brier-increase", "0.1", "--json", "gate.json") == MISUSE
        assert "logits" in json.loads(Path("gate.json").read_text())["error"]


class TestGuide:
    PAGE = (Path(__file__).parents[2] / "docs" / "update.md").read_text(encoding="utf-8")

    def test_its_policy_can_be_read(self):
        policy = parse_policy(re.search(r"```yaml\n(.*?)```", self.PAGE, re.DOTALL)[1])
        assert policy.block["max_nfr_per_slice"] == 0.03

    def test_its_table_has_every_limit(self):
        table = self.PAGE[self.PAGE.index("| limit |") :].partition("\n\n")[0]
        named = dict(re.findall(r"^\| `(\w+)`( \*)? \|", table, re.MULTILINE))
        scoped = {f"{name}_per_{scope}" for name, star in named.items() if star for scope in ("class", "slice")}
        assert {*named, *scoped} == {*LIMITS, "must_not_flip", "must_be_right"}

    def test_it_names_every_key(self):
        assert [key for key in policy_schema()["properties"] if not re.search(rf"\b{key}\b", self.PAGE)] == []
