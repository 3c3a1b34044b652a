"""The toy experiments at a size that takes seconds, and the stacked training against torch's own."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lightning_flip.models import MLP

TOY = Path(__file__).resolve().parents[2] / "examples" / "toy"
TINY = ["--workers", "1", "--samples", "1500", "--epochs", "2", "--noisy", "3", "--blends", "1", "--seeds", "1"]


@pytest.fixture
def toy(monkeypatch):
    """Import a module of the example as its script does; nothing of it stays."""
    monkeypatch.syspath_prepend(str(TOY))
    names = [path.stem for path in TOY.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_the_script_prints_its_numbers_and_writes_figures_and_tables(toy, tmp_path, capsys):
    toy("reproduce").main([*TINY, "--out", "out"])
    printed = capsys.readouterr().out
    for figure in ("Fig. 1", "Fig. 2 and 17", "Fig. 12", "Fig. 14", "Fig. 18", "Mean distance of teachers"):
        assert f"### {figure}" in printed
    for method in ("OHT", "LS", "KD", "ESKD", "Filter-KD", "GT"):
        assert f"| {method} |" in printed
    numbers = (tmp_path / "out" / "numbers.md").read_text(encoding="utf-8")
    assert numbers in printed
    pictures = sorted(path.name[:5] for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["fig01", "fig02", "fig03", "fig12", "fig14", "fig17", "fig18"]
    with (tmp_path / "out" / "supervision.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 + 1 + 6
    assert {row["name"] for row in rows} == {"", "blends", "OHT", "LS", "KD", "ESKD", "Filter-KD", "GT"}
    assert [float(row["distance"]) for row in rows if row["name"] == "GT"] == [0]
    assert (tmp_path / "out" / "teacher-0" / "soft_targets" / "eval_best.safetensors").exists()


@pytest.mark.parametrize("option", ["--seeds", "--epochs", "--workers"])
def test_nonsense_is_refused(toy, option, capsys):
    with pytest.raises(SystemExit):
        toy("reproduce").main([option, "0"])
    assert "must be at least 1" in capsys.readouterr().err


def problem(n: int = 70, networks: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.normal(size=(n, 5))).float()
    supervision = torch.from_numpy(rng.dirichlet([0.3] * 3, size=(networks, n))).float()
    return inputs, supervision, inputs[:40] + 0.1, torch.from_numpy(rng.integers(3, size=40))


def test_each_network_is_trained_as_it_would_be_alone(toy):
    stacked = toy("stacked_training")
    inputs, supervision, val_inputs, val_target = problem()
    recipe = stacked.Recipe(epochs=4, batch_size=16, lr=0.1, momentum=0.9, hidden=(8, 7))
    temperature, scale = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 4.0, 1.0])
    start = stacked.fresh(3, 5, 3, recipe.hidden, seed=1)
    trained = stacked.train(
        start, inputs, supervision, val_inputs, val_target, recipe, seed=7, temperature=temperature, scale=scale
    )
    for number in range(3):
        torch.manual_seed(1)
        alone = MLP(5, 3, hidden=recipe.hidden)
        optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(7)
        accuracies = []
        for _ in range(4):
            for chosen in torch.randperm(70, generator=generator).split(16):
                logits = alone(inputs[chosen]) / temperature[number]
                loss = torch.nn.functional.cross_entropy(logits, supervision[number, chosen]) * scale[number]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                accuracies.append(float((alone(val_inputs).argmax(dim=1) == val_target).float().mean()))
        with torch.no_grad():
            last, expected = stacked.network(trained.last, number)(val_inputs), alone(val_inputs)
            torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(stacked.logits(trained.last, val_inputs)[number], expected, rtol=1e-4, atol=1e-5)
            best = (stacked.network(trained.best, number)(val_inputs).argmax(dim=1) == val_target).float().mean()
        assert trained.best_epoch[number] == 1 + int(np.argmax(accuracies))  # the earlier of two equal ones
        assert trained.val_accuracy[number] == pytest.approx(max(accuracies))
        assert float(best) == pytest.approx(max(accuracies))
    for before, now in zip(start, trained.initial, strict=True):
        assert now.equal(before)


def test_networks_may_have_data_of_their_own(toy):
    stacked = toy("stacked_training")
    inputs, supervision, val_inputs, val_target = problem(networks=2)
    recipe = stacked.Recipe(epochs=2, batch_size=16, hidden=(8,))

    def trained(x: torch.Tensor, q: torch.Tensor, v: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weights = stacked.fresh(len(q), 5, 3, recipe.hidden, seed=1)
        return stacked.logits(stacked.train(weights, x, q, v, y, recipe, seed=7).last, val_inputs)

    own = torch.stack([inputs, inputs.flip(1)])
    values = torch.stack([val_inputs, val_inputs.flip(1)]), torch.stack([val_target, val_target])
    together = trained(own, supervision, *values)
    for number in range(2):
        alone = trained(own[number], supervision[number : number + 1], values[0][number], val_target)
        torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-5)


def test_a_network_is_evaluated_on_all_of_the_test_data(toy):
    stacked = toy("stacked_training")
    weights = stacked.fresh(2, 5, 3, (8,), seed=1)
    inputs = torch.randn(7001, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(3, (7001,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        probs = stacked.network(weights, 1)(inputs).softmax(dim=1)
    correct = (probs.argmax(dim=1) == target).double()
    error, confidence = 0.0, probs.amax(dim=1)
    for m in range(10):
        inside = (confidence > m / 10) & (confidence <= (m + 1) / 10)
        error += abs(float(correct[inside].sum() - confidence[inside].sum())) / 7001
    accuracy, calibration_error = stacked.evaluate(weights, inputs, target)[1]
    assert accuracy == pytest.approx(float(correct.mean()))
    assert calibration_error == pytest.approx(error, abs=1e-6)


def test_noise_spans_the_papers_range_evenly_in_logarithms(toy):
    reproduce = toy("reproduce")
    options = reproduce.argparse.Namespace(noisy=21, blends=4, seeds=3)
    drawn = [reproduce.noisy_supervisions(options, seed) for seed in range(3)]
    variances = np.sort([each.value for chunk in drawn for each in chunk if each.name == "noise"])
    assert len(variances) == 63
    assert 0.005 <= variances[0] < 0.007
    assert 0.6 < variances[-1] <= 0.8
    assert np.histogram(np.log(variances), bins=3, range=np.log([0.005, 0.8]))[0].tolist() == [21, 21, 21]
    blends = [each.value for chunk in drawn for each in chunk if each.name == "blend"]
    assert len(set(blends)) == 12
    assert 0 < min(blends) < max(blends) < 1
    seeds = [each.seed for chunk in drawn for each in chunk if each.name == "noise"]
    assert len(set(seeds)) == 63
