from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_flip import cli

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings(r"ignore:(?s)\s*(By default|.*deprecated in v4\.):DeprecationWarning"),  # too
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # depends on the machine's cores
]


class TestHelp:
    def test_help_names_every_subcommand(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        for name in ("fit", "validate", "test", "predict", "compare", "gate"):
            assert f"\n    {name} " in text

    def test_nothing_given_shows_the_help(self, capsys):
        assert cli.main([]) == 2
        assert "compare" in capsys.readouterr().err

    def test_unknown_subcommand(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["fitt"])
        assert exit_.value.code == 2
        text = capsys.readouterr().err
        assert "'fitt'" in text
        assert "compare" in text

    def test_a_subcommand_has_its_own_help(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["fit", "--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert "lightning-flip" in text
        assert "--trainer.max_epochs" in text
        assert "--optimizer" not in text

    def test_a_misspelled_option_of_a_training_subcommand(self, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["fit", "--trainer.max_epoch=1"])
        assert exit_.value.code == 2
        assert "max_epoch" in capsys.readouterr().err

    @pytest.mark.parametrize("words", [["compare", "--help"], ["--help"]])
    def test_the_installed_command(self, words):
        command = [sys.executable, "-m", "lightning_flip.cli", *words]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stdout.startswith("usage: lightning-flip")
        assert result.stderr == ""


@pytest.mark.parametrize("words", [["gate", "--max-nfr", "1%"], ["compare"]], ids=lambda words: words[0])
def test_a_defect_of_ours_is_no_verdict(words, predictions, monkeypatch, capsys):
    """Python ends with status 1 after any exception, and that of a gate means that a limit is broken."""

    def defect(*arguments, **options):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("lightning_flip.reports.update.join.match_ids", defect)
    files = ["--old", predictions("old.parquet"), "--new", predictions("new.parquet")]
    assert cli.main([*words, *files]) == 2
    assert capsys.readouterr().err.endswith("ZeroDivisionError: of ours\n")
