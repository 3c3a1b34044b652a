from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from lightning_flip import cli
from lightning_flip.functional import symmetric_transition
from lightning_flip.stores import read_corrections, read_history, read_transition

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "noise"
CONFIGS = sorted(FOLDER.glob("*.yaml"))

pytestmark = [
    # On two batches a cosine of 30 epochs, or a logging interval of 20 steps, has no meaning.
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:the transition has a condition number"),  # after one epoch
]


def test_every_configuration_is_in_the_table(noise_script):
    assert sorted(noise_script("noise").LOSSES.values()) == [path.stem for path in CONFIGS]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_trains_and_records(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=6", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", f"--config={config}", *short, *quiet]) == 0
    folder = tmp_path / "runs" / "noise" / config.stem / "version_0"
    assert read_history(folder).passes("train") == [(epoch, 0) for epoch in range(6)]
    assert (folder / "transition.npz").exists() == (config.stem == "estimated")
    if config.stem == "estimated":
        assert read_transition(folder / "transition.npz").shape == (10, 10)


def test_only_the_loss_differs_and_knows_the_noise():
    def shared(path: Path) -> dict:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        model = config["model"].pop("init_args")
        own = set(model) - {"network", "num_classes", "optimizer", "lr_scheduler"}
        for name in own - {"transition"}:
            assert model[name] == pytest.approx(config["data"]["init_args"]["noise_rate"] * 10 / 9, abs=1e-4)
        del config["model"]["class_path"], config["trainer"]["logger"]["init_args"]["name"]
        config["trainer"]["callbacks"] = config["trainer"]["callbacks"][:1]
        return {**config, **{name: value for name, value in model.items() if name not in own}}

    first, *others = map(shared, CONFIGS)
    for other in others:
        assert other == first


def test_the_table_is_printed(noise_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    noise = noise_script("noise")
    for _ in range(2):  # the second run replaces the transitions of the first
        noise.main(["--epochs", "1", "--seeds", "1", "--out", str(tmp_path / "table"), "--markdown"])
        seen = capsys.readouterr()
        assert seen.err == ""
    rows = [line.strip("| ").split(" | ") for line in seen.out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == list(noise.LOSSES)
    assert all(0 <= float(cell) <= 100 for row in rows[2:] for cell in row[1:])
    (off,) = re.findall(r"off by ([\d.]+) on average", " ".join(seen.out.split()))
    T = torch.from_numpy(read_transition(tmp_path / "table" / "estimated" / "seed-0" / "transition.npz"))
    assert float(off) == pytest.approx(float((T - symmetric_transition(10, 0.4)).abs().mean()), abs=6e-4)


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--seeds", "-1"]])
def test_the_script_refuses_nonsense(noise_script, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        noise_script("noise").main(words)
    assert exit_.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_smoothing_brings_the_separator_back(noise_script):
    separators = noise_script("linear_separators")
    x, true, noisy = separators.two_gaussians()
    negatives = true == 0
    assert float((noisy != true)[negatives].float().mean()) == pytest.approx(0.05)
    assert bool((noisy == true)[~negatives].all())
    offsets = {smoothing: separators.fit_separator(x, noisy, smoothing)[1] for smoothing in separators.SMOOTHINGS}
    assert offsets == pytest.approx({0.0: -0.59, 0.1: -0.18, 0.2: -0.13}, abs=0.02)
    assert abs(offsets[0.2]) < 0.3 * abs(offsets[0.0])
    normal, clean = separators.fit_separator(x, true, smoothing=0.1)
    assert clean == pytest.approx(0.0, abs=0.01)
    assert normal.tolist() == pytest.approx([0.5**0.5] * 2, abs=0.02)
    penalized = [abs(separators.fit_separator(x, noisy, penalty=penalty)[1]) for penalty in separators.PENALTIES]
    assert penalized == sorted(penalized, reverse=True)


def test_the_figure_is_drawn(noise_script, tmp_path, capsys):
    noise_script("linear_separators").main(["--out", str(tmp_path / "new" / "figure.png")])
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "| smoothing 0.2 | -0.1" in capsys.readouterr().out


@pytest.mark.parametrize("a", [0.1, 0.2, 0.4])
def test_a_logits_losses_are_what_the_caption_claims(a, noise_script):
    losses = noise_script("losses_of_a_logit")
    z = torch.linspace(-6, 6, 25, dtype=torch.float64)
    own, other = (torch.log1p(torch.exp(-sign * z)) for sign in (1, -1))
    expected = {
        "none": own,
        "label smoothing": (1 - a / 2) * own + a / 2 * other,
        "backward correction": ((1 - a / 2) * own - a / 2 * other) / (1 - a),
        "forward correction": -torch.log((1 - a / 2) * torch.exp(-own) + a / 2 * torch.exp(-other)),
    }
    for treatment, loss in expected.items():
        torch.testing.assert_close(losses.loss_of(z, treatment, a), loss)
    plain, smooth, backward, forward = (losses.claims(treatment, a) for treatment in expected)
    assert 0 < plain["far right"] < 1e-5
    assert smooth["lowest at"] == pytest.approx(math.log((2 - a) / a), abs=1e-3)
    assert smooth["lowest"] == pytest.approx(-(1 - a / 2) * math.log(1 - a / 2) - a / 2 * math.log(a / 2))
    assert smooth["far right"] > smooth["lowest"] > 0
    assert losses.loss_of(torch.tensor([0.0, 3.0, 6.0, 12.0]), "backward correction", a).diff().max() < 0
    assert backward["far right"] < 0 < backward["negative from"] < 3
    assert forward["far left"] == pytest.approx(-math.log(a / 2), abs=1e-3)
    assert forward["lowest"] == pytest.approx(-math.log(1 - a / 2), abs=1e-3)
    assert [math.isnan(found["negative from"]) for found in (plain, smooth, backward, forward)] == [1, 1, 0, 1]


def test_the_losses_are_printed_and_drawn(noise_script, tmp_path, capsys):
    noise_script("losses_of_a_logit").main(["--out", str(tmp_path / "new" / "figure.png")])
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 12
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for line in lines:  # exact: nothing is drawn at random
        assert f"\n{line}\n" in text


def test_the_tables_in_the_readme_have_the_rows_that_are_printed(noise_script):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for label in noise_script("noise").LOSSES:
        assert f"\n| {label} | " in text
    for smoothing in noise_script("linear_separators").SMOOTHINGS:
        assert f"\n| smoothing {smoothing:g} | " in text


def test_diagnostics_are_printed_and_drawn(noise_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    script = noise_script("diagnostics")
    for _ in range(2):  # running it again is no error
        script.main(["--epochs", "1", "--markdown", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in printed if line.startswith("| ")]
    assert [row[0] for row in rows[2:6]] == list(script.LOSSES)
    folder = tmp_path / "out" / "standard" / "diagnostics"
    accuracies = (folder / "train_noise_accuracy.csv").read_text().splitlines()
    assert len(accuracies) == 6
    assert rows[2][1] == f"{100 * float(accuracies[1].split(',')[3]):.1f}"
    for name in ("logit_gaps", "projections"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert next(line for line in printed if line.startswith("| loss")) in text


def test_the_loop_is_closed(noise_script, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    script = noise_script("relabel")
    for _ in range(2):  # running it again is no error, though its lists are reviewed
        script.main(["--epochs", "2", "--looks", "40", "--markdown", "--out", str(tmp_path / "out")])
        seen = capsys.readouterr()
        assert seen.err == ""
    rows = [line.strip("| ").split(" | ") for line in seen.out.splitlines() if line.startswith("| ")]
    before, after = (int(row[1]) for row in rows[2:])
    corrections = read_corrections(tmp_path / "out" / "labels.csv")
    assert 0 < len(corrections) == before - after
    assert f"In truth {before} are wrong." in seen.out
    low, high = map(int, re.findall(r"at least ([\d,]+) and at most ([\d,]+)", seen.out)[0])
    assert low <= before <= high
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for row in rows:
        assert f"\n| {row[0]} | " in text
