"""The comparison of scores, on the digits alone; images are noise here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_flip.stores import read_history

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


SCORES = ("label score (the default)", "area under the margin", "forgetting events, never right first")


def cells(printed: str) -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    return {name: values for name, *values in rows}


def test_the_default_score_finds_wrong_labels_of_digits(noise_script, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ranking = noise_script("ranking")
    short = ["--rates", "0", "0.2", "--seeds", "1", "--epochs", "8", "--markdown"]
    ranking.main(short)
    found = cells(capsys.readouterr().out)
    scores = {name: [float(value) for value in found[name]] for name in found if name in SCORES}
    auroc, precision = scores["label score (the default)"]
    assert auroc > 0.98
    assert precision > 0.95
    assert auroc >= scores["area under the margin"][0] - 0.005
    assert auroc > scores["forgetting events, never right first"][0]
    assert float(found["best other class, chosen epochs"][0]) > 0.9
    assert found["0%: almost certainly wrong"] == ["0", "-", "-"]
    number, precise, _ = map(float, found["20%: almost certainly wrong"])
    assert number > 20
    assert precise > 0.95
    assert found["20%: wrong labels"][0] == "240"
    # The recorded runs are enough for the tables.
    monkeypatch.setattr(ranking.Task, "fit", lambda *_: pytest.fail("trained again"))
    ranking.main(short)
    assert cells(capsys.readouterr().out) == found
    history = read_history(tmp_path / "runs" / "ranking" / "digits-0.2-seed-0")
    assert len(history.passes("train")) == len(history.passes("val")) == 8


def test_images_of_a_file(noise_script, tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.npz"
    np.savez(path, images=rng.integers(0, 256, (140, 32, 32, 3), np.uint8), labels=np.arange(140) % 10)
    options = ["--images", str(path), "--out", str(tmp_path / "runs"), "--rates", "0.4", "--seeds", "1"]
    noise_script("ranking").main([*options, "--sizes", "120", "20", "--epochs", "2", "--cleanlab", "1", "--markdown"])
    found = cells(capsys.readouterr().out)
    assert 20 < float(found["40%: wrong labels"][0]) < 80
    assert 0 < float(found["cleanlab, held-out"][0]) < 1
    assert np.load(tmp_path / "runs" / "noise-0.4-seed-0" / "held_out.npy").sum(axis=1) == pytest.approx(np.ones(120))
    with pytest.raises(SystemExit, match=r"N at least 141; got \[140, 32, 32, 3\] and \[140\]"):
        noise_script("ranking").main([*options, "--sizes", "121", "20"])


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_annotators_confuse_what_looks_alike_at_the_rate_that_is_asked_for(noise_script, rate):
    matrix = noise_script("ranking").confusions(rate)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(10, dtype=torch.float64))
    assert float(1 - matrix.diagonal().mean()) == pytest.approx(rate)
    plane, car, cat, deer, dog, horse, ship, truck = 0, 1, 3, 4, 5, 7, 8, 9
    others = matrix.clone().fill_diagonal_(0).argmax(dim=1)
    pairs = {car: truck, truck: car, cat: dog, dog: cat, deer: horse, horse: dog, plane: ship, ship: plane}
    assert {true: int(others[true]) for true in pairs} == pairs


def test_images_are_mirrored_in_training_only(noise_script):
    flip = noise_script("ranking").RandomFlip()
    images = torch.arange(400.0).reshape(100, 1, 1, 4)
    assert torch.equal(flip.eval()(images), images)
    torch.manual_seed(0)
    mirrored = (flip.train()(images) != images).flatten(1).any(dim=1)
    assert 30 < int(mirrored.sum()) < 70
    assert torch.equal(flip(images).sum(dim=3), images.sum(dim=3))


def test_a_run_that_was_cut_short_is_trained_again(noise_script, tmp_path):
    ranking = noise_script("ranking")
    run = ranking.dataclasses.replace(ranking.digits(), sizes=(64, 20), rate=0.2, epochs=1)
    ranking.recorded(run, tmp_path / "run", [])
    history = ranking.recorded(ranking.dataclasses.replace(run, epochs=2), Path(tmp_path / "run"), [])
    assert len(history.passes("train")) == 2
