"""The ensemble: its mean, its members, what it logs and refuses, files, configurations, several devices."""

import copy

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.cli import training_cli
from lightning_flip.functional import predictive_entropy
from lightning_flip.models import MLP, Classifier, EnsembleClassifier, SmallCNN, load_model

K = 3
X = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
Y = torch.randint(K, (50,), generator=torch.Generator().manual_seed(2))


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **(quiet | {"devices": 1} | options))


def save(module, path):
    loop = trainer(enable_checkpointing=True)
    loop.strategy.connect(module)
    loop.save_checkpoint(path)
    return str(path)


def members(count=3, **options):
    return [Classifier(MLP(4, K, hidden=(8,), **options), num_classes=K).eval() for _ in range(count)]


def mean_of(models, x=X):
    with torch.no_grad():
        return np.mean([model(x).double().numpy() for model in models], axis=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_forward_is_the_mean_of_the_members_logits(count):
    models = members(count)
    ensemble = EnsembleClassifier(models, num_classes=K)
    np.testing.assert_allclose(ensemble(X).numpy(), mean_of(models), atol=1e-6)
    each = ensemble.member_logits(X)
    assert each.shape == (count, len(X), K)
    for got, model in zip(each, models, strict=True):
        torch.testing.assert_close(got, model(X).detach())
    assert predictive_entropy(each).shape == (len(X),)


class Fixed(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_single(dtype):
    # A sum of 16 such numbers in half precision is off by far more than 1e-6.
    logits = [torch.randn(20, K, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(16)]
    ensemble = EnsembleClassifier([Fixed(z) for z in logits], num_classes=K)
    expected = np.mean([z.double().numpy() for z in logits], axis=0)
    got = ensemble(None)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_allclose(ensemble(None).numpy(), expected, atol=1e-6)


def test_double_precision_stays():
    logits = [torch.randn(20, K, dtype=torch.float64) for _ in range(2)]
    got = EnsembleClassifier([Fixed(z) for z in logits], num_classes=K)(None)
    np.testing.assert_allclose(got.numpy(), np.mean([z.numpy() for z in logits], axis=0), rtol=1e-15)


def test_members_are_frozen_copies_in_eval_mode_whatever_is_asked():
    network = nn.Sequential(nn.Linear(4, K), nn.BatchNorm1d(K), nn.Dropout(0.5))
    ensemble = EnsembleClassifier([network], num_classes=K)
    before = copy.deepcopy(ensemble.state_dict())
    first = ensemble.train()(X)
    assert torch.equal(ensemble(X), first)
    assert not any(part.training for part in ensemble.network.modules())
    assert not any(weight.requires_grad for weight in ensemble.parameters())
    assert all(torch.equal(value, before[key]) for key, value in ensemble.state_dict().items())
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())


def test_all_members_parameters_count():
    # 4 x 8 + 8 and 8 x 3 + 3 parameters a member
    assert EnsembleClassifier(members(4), num_classes=K).num_parameters == 4 * 67


@pytest.mark.parametrize("split", ["val", "test"])
def test_it_logs_what_a_classifier_logs(split):
    models = members()
    loop = trainer()
    evaluate = loop.validate if split == "val" else loop.test
    (logged,) = evaluate(EnsembleClassifier(models, num_classes=K), DataLoader(TensorDataset(X, Y), 16), verbose=False)
    z, y = mean_of(models), Y.numpy()
    losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]
    assert logged[f"{split}_acc"] == pytest.approx((z.argmax(1) == y).mean())
    assert logged[f"{split}_loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert set(logged) == {f"{split}_{name}" for name in ("acc", "loss", "ece")}


def test_it_predicts():
    models = members()
    got = trainer().predict(EnsembleClassifier(models, num_classes=K), DataLoader(TensorDataset(X), 16))
    np.testing.assert_allclose(torch.cat(got).numpy(), mean_of(models), atol=1e-6)


def test_it_is_not_trained():
    ensemble = EnsembleClassifier(members(), num_classes=K)
    with pytest.raises(RuntimeError, match="trained independently"):
        trainer(max_epochs=1).fit(ensemble, *[DataLoader(TensorDataset(X, Y), 16)] * 2)
    with pytest.raises(RuntimeError, match="trained independently"):
        ensemble.training_step((X, Y), 0)


def test_members_of_other_classes_are_refused():
    models = [*members(1), Classifier(MLP(4, 5), num_classes=5)]
    for num_classes, number in ((3, 1), (5, 0)):
        ensemble = EnsembleClassifier(models, num_classes=num_classes)
        with pytest.raises(ValueError, match=rf"member {number} of 2 .*\[50, 3\], \[50, 5\]"):
            ensemble(X)


@pytest.mark.parametrize("output", [{"logits": X}, torch.zeros(K)])
def test_members_must_give_logits(output):
    with pytest.raises(ValueError, match="member 0"):
        EnsembleClassifier([Fixed(output)], num_classes=K)(X)


def test_members_must_be_a_list_of_at_least_one(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        EnsembleClassifier([], num_classes=K)
    with pytest.raises(TypeError, match="list"):
        EnsembleClassifier("a.ckpt", num_classes=K)


def test_members_come_from_files_of_every_kind(tmp_path):
    models = members(2)
    torch.save(models[1].network.state_dict(), tmp_path / "b.pt")
    paths = [save(models[0], tmp_path / "a.ckpt"), tmp_path / "b.pt"]
    network = MLP(4, K, hidden=(8,))
    ensemble = EnsembleClassifier([*paths, models[0]], member_network=network, num_classes=K)
    np.testing.assert_allclose(ensemble(X).numpy(), mean_of([*models, models[0]]), atol=1e-6)
    with pytest.raises(ValueError, match=r"member 1: .*Pass member_network="):
        EnsembleClassifier([models[0], paths[1]], num_classes=K)
    with pytest.raises(ValueError, match=r"member 0: .*Pass member_class="):
        EnsembleClassifier([paths[0]], num_classes=K)
    again = EnsembleClassifier([paths[0]], member_class=Classifier, member_network=network, num_classes=K)
    np.testing.assert_allclose(again(X).numpy(), mean_of(models[:1]), atol=1e-6)


def test_a_saved_ensemble_loads_again(tmp_path):
    models = members(2)
    ensemble = EnsembleClassifier(models, num_classes=K)
    path = save(ensemble, tmp_path / "ensemble.ckpt")
    assert torch.load(path, weights_only=True)["hyper_parameters"].keys().isdisjoint({"members", "network"})
    again = EnsembleClassifier.load_from_checkpoint(path, members=members(2), weights_only=True)
    assert torch.equal(again(X), ensemble(X))


CONFIG = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "data": {"class_path": "DigitsDataModule"},
}
MEMBER = {
    "class_path": "Classifier",
    "init_args": {"network": {"class_path": "SmallCNN", "init_args": {"width": 4}}, "num_classes": 10},
}


def test_a_configuration_tests_members_from_checkpoints(tmp_path):
    paths, networks = [], []
    for seed in (1, 2):
        (tmp_path / "member.yaml").write_text(yaml.safe_dump(CONFIG | {"seed_everything": seed, "model": MEMBER}))
        built = training_cli(["--config", str(tmp_path / "member.yaml")], run=False)
        paths.append(save(built.model, tmp_path / f"{seed}.ckpt"))
        networks.append(built.model.network.eval())
    model = {"class_path": "EnsembleClassifier", "init_args": {"members": paths, "num_classes": 10}}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(CONFIG | {"model": model}))
    run = training_cli(["test", "--config", str(tmp_path / "test.yaml")])
    assert all(type(member) is Classifier for member in run.model.network.members)
    images, labels = map(
        torch.stack, zip(*((x, torch.as_tensor(y)) for x, y, *_ in run.datamodule.test_set), strict=True)
    )
    expected = (mean_of(networks, images).argmax(1) == labels.numpy()).mean()
    assert float(run.trainer.callback_metrics["test_acc"]) == pytest.approx(expected)
    # Its own checkpoint rebuilds by itself as well, and it can be what another model is held against.
    again = load_model(save(run.model, tmp_path / "ensemble.ckpt"))
    np.testing.assert_allclose(again(images).numpy(), mean_of(networks, images), atol=1e-6)


def test_a_configuration_may_build_the_members(tmp_path):
    member = {"class_path": "SmallCNN", "init_args": {"width": 4}}
    torch.save(SmallCNN(width=4).state_dict(), tmp_path / "a.pt")
    given = {"members": [member, str(tmp_path / "a.pt")], "member_network": member, "num_classes": 10}
    model = {"class_path": "lightning_flip.models.EnsembleClassifier", "init_args": given}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"model": model}))
    built = training_cli(["--config", str(tmp_path / "config.yaml")], run=False)
    assert [type(part) for part in built.model.network.members] == [SmallCNN, SmallCNN]


@pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders")  # 48 samples divide evenly
def test_two_processes_give_the_metrics_of_the_whole():
    models = members(2)
    loop = trainer(devices=2, strategy="ddp_fork")
    loop.test(EnsembleClassifier(models, num_classes=K), DataLoader(TensorDataset(X[:48], Y[:48]), 8), verbose=False)
    expected = (mean_of(models, X[:48]).argmax(1) == Y[:48].numpy()).mean()
    assert float(loop.callback_metrics["test_acc"]) == pytest.approx(expected)
