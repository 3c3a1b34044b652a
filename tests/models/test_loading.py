"""Models loaded to be run: from modules, checkpoints, state_dicts and torchvision names, and what is refused."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from lightning import LightningModule, Trainer
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from torch import nn

from lightning_flip.cli import training_cli
from lightning_flip.mixins import FocalDistillation
from lightning_flip.models import MLP, Classifier, SmallCNN, load_model

K = 3
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def save(module, path):
    """As Lightning does in a run, without running."""
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, barebones=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


def rewritten(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def assert_ready(model):
    assert not any(part.training for part in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    assert all(weight.device.type == "cpu" for weight in model.parameters())


class Scaling(Classifier):
    """Does something besides its network."""

    def forward(self, x):
        return self.network(x) * 3


class Sized(LightningModule):
    """Reads its size from its own hyperparameters."""

    def __init__(self, width):
        super().__init__()
        self.save_hyperparameters()
        self.net = MLP(4, K, hidden=(self.hparams.width,))

    def forward(self, x):
        return self.net(x)


class Update(FocalDistillation, Classifier): ...


@pytest.fixture
def cli_checkpoint(tmp_path):
    model = ["--model=Classifier", "--model.network=SmallCNN", "--model.network.width=4", "--model.num_classes=10"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false"]
    built = training_cli([*model, "--data=DigitsDataModule", *quiet], run=False)
    return save(built.model, tmp_path / "cli.ckpt"), built.model


# -- a module --------------------------------------------------------------------------------------


def test_a_module_is_copied_and_stays_as_it_is():
    source = Classifier(MLP(4, K), num_classes=K).train()
    model = load_model(source)
    assert_ready(model)
    assert type(model) is Classifier
    assert all(part.training for part in source.modules())
    assert all(weight.requires_grad for weight in source.parameters())
    expected = model(X)
    with torch.no_grad():
        source.network.classifier.weight.add_(1)
    assert torch.equal(model(X), expected)
    assert not torch.equal(source(X), expected)


def test_a_module_that_has_a_trainer_is_copied_without_it():
    source = Classifier(MLP(4, K), num_classes=K)
    source._trainer = object()
    assert load_model(source)._trainer is None


def test_a_compiled_module_is_loaded_as_what_was_compiled():
    network = MLP(4, K)
    model = load_model(torch.compile(network, backend="eager"))
    assert type(model) is MLP
    torch.testing.assert_close(model(X), network(X).detach())


def test_a_module_that_cannot_be_copied_names_the_way_out():
    network = MLP(4, K)
    network.last = network(X)  # with its graph
    with pytest.raises(ValueError, match="checkpoint"):
        load_model(network)


@pytest.mark.parametrize("source", [MLP(4, K), "torchvision:resnet18:DEFAULT"])
def test_network_is_for_files(source):
    with pytest.raises(ValueError, match="network="):
        load_model(source, network=MLP(4, K))


def test_arguments_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(TypeError, match="int"):
        load_model(3)
    with pytest.raises(TypeError, match="network must be"):
        load_model(tmp_path / "a.pt", network=MLP)
    with pytest.raises(TypeError, match="LightningModule class"):
        load_model(tmp_path / "a.pt", model_class=MLP)
    with pytest.raises(ValueError, match="whole path"):
        load_model(tmp_path / "a.pt", model_class="Classifier")


# -- checkpoints -----------------------------------------------------------------------------------


def test_checkpoints_of_a_configuration_rebuild_by_themselves(cli_checkpoint):
    path, saved = cli_checkpoint
    images = torch.rand(2, 1, 8, 8)
    for model in (load_model(path), load_model(str(path), model_class="lightning_flip.models.Classifier")):
        assert type(model) is Classifier
        assert_ready(model)
        assert torch.equal(model(images), saved.eval()(images))


def test_the_class_in_a_configuration_goes_before_a_default(cli_checkpoint):
    path, _ = cli_checkpoint
    assert type(load_model(path, model_class=Sized)) is Classifier


def test_a_class_that_is_not_imported_is_named_and_not_imported(cli_checkpoint, tmp_path, monkeypatch):
    path, saved = cli_checkpoint
    (tmp_path / "elsewhere_module.py").write_text("raise SystemExit('code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    rewritten(path, lambda content: content["hyper_parameters"].update(_class_path="elsewhere_module.Old"))
    with pytest.raises(ValueError, match=r'model_class="elsewhere_module\.Old"'):
        load_model(path)
    images = torch.rand(2, 1, 8, 8)  # the class has moved
    assert torch.equal(load_model(path, model_class=Classifier)(images), saved.eval()(images))


def test_a_checkpoint_that_names_no_class_asks_for_it(tmp_path):
    path = save(Sized(7), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="model_class="):
        load_model(path)
    assert_ready(load_model(path, model_class=Sized))


def test_a_checkpoint_without_its_network_names_the_ways_out(tmp_path):
    path = save(Classifier(MLP(4, K), num_classes=K), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"(?s)network=.*module.*LightningCLI"):
        load_model(path, model_class=Classifier)


def test_a_class_gets_the_network_and_keeps_what_it_does_besides(tmp_path):
    saved = Scaling(MLP(4, K), num_classes=K).eval()
    path, network = save(saved, tmp_path / "model.ckpt"), MLP(4, K)
    before = network.classifier.weight.clone()
    model = load_model(path, model_class=Scaling, network=network)
    assert type(model) is Scaling
    assert torch.equal(model(X), saved(X))
    assert torch.equal(network.classifier.weight, before)
    assert network.training
    alone = load_model(path, network=network)
    assert type(alone) is MLP
    assert torch.equal(alone(X), saved.network(X))


def test_a_network_is_enough_where_the_class_is_not_at_hand(tmp_path):
    saved = Sized(7).eval()
    path, network = save(saved, tmp_path / "model.ckpt"), MLP(4, K, hidden=(7,))
    assert torch.equal(load_model(path, network=network)(X), saved(X))
    with pytest.raises(ValueError, match="Sized takes no network="):
        load_model(path, model_class=Sized, network=network)
    with pytest.raises(ValueError, match="rebuilt as Classifier"):
        load_model(path, model_class=Classifier, network=network)


def test_hyperparameters_of_the_program_around_are_not_those_of_the_loaded_model(tmp_path):
    path = save(Sized(7), tmp_path / "model.ckpt")
    with _given_hyperparameters_context({"width": 99}, "lightning.pytorch.cli.instantiate_module"):
        assert load_model(path, model_class=Sized).hparams.width == 7


def test_a_checkpoint_that_does_not_fit_lists_five_names_and_counts_all(tmp_path):
    path = save(Classifier(MLP(4, K, hidden=[8] * 6), num_classes=K), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_model(path, model_class=Classifier, network=MLP(4, K, hidden=[8]))
    text = str(caught.value)
    assert "10 unexpected (network.features.3.weight, network.features.3.bias, " in text
    assert text.count("features.") == 5
    with pytest.raises(ValueError, match=r"10 missing \(features\.3\.weight, .*\.\.\.\)"):
        load_model(save(Classifier(MLP(4, K, hidden=[8]), num_classes=K), path), network=MLP(4, K, hidden=[8] * 6))
    with pytest.raises(ValueError, match=r"classifier\.weight: \[3, 8\] instead of \[5, 8\]"):
        load_model(path, network=MLP(4, 5, hidden=[8]))


def test_a_class_without_its_weights_says_which(tmp_path):
    def drop(content):
        del content["state_dict"]["net.classifier.bias"]
        content["state_dict"]["net.gain"] = torch.zeros(1)

    path = rewritten(save(Sized(7), tmp_path / "model.ckpt"), drop)
    with pytest.raises(ValueError, match=r"1 missing \(net\.classifier\.bias\); 1 unexpected \(net\.gain\)\."):
        load_model(path, model_class=Sized)


def test_an_updated_model_loads_without_its_own_reference(tmp_path):
    older = tmp_path / "older.pt"
    torch.save(MLP(4, K).state_dict(), older)
    saved = Update(network=MLP(4, K), num_classes=K, reference=str(older), reference_network=MLP(4, K)).eval()
    path = save(saved, tmp_path / "old.ckpt")
    older.unlink()
    for old in (Update, Classifier):  # the class itself, and the class right of the mixins
        model = load_model(path, model_class=old, network=MLP(4, K))
        assert type(model) is old
        assert torch.equal(model(X), saved(X))


# -- state_dicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "network.", "module.", "module.net._orig_mod.", "_orig_mod."])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_state_dicts_load_with_any_prefix_before_all_names(tmp_path, prefix, nested):
    saved = MLP(4, K).eval()
    state = {prefix + key: value for key, value in saved.state_dict().items()}
    torch.save(state if nested is None else {"epoch": 3, nested: state}, tmp_path / "old.pt")
    model = load_model(tmp_path / "old.pt", network=MLP(4, K))
    assert_ready(model)
    assert torch.equal(model(X), saved(X))


def test_weights_beside_the_network_do_not_matter_and_two_networks_do(tmp_path):
    saved, other = MLP(4, K).eval(), MLP(4, K)
    state = {f"net.{key}": value for key, value in saved.state_dict().items()} | {"criterion.weight": torch.ones(K)}
    torch.save(state, tmp_path / "old.pt")
    assert torch.equal(load_model(tmp_path / "old.pt", network=MLP(4, K))(X), saved(X))
    torch.save(state | {f"average.{key}": value for key, value in other.state_dict().items()}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"'net\.', 'average\.'"):
        load_model(tmp_path / "old.pt", network=MLP(4, K))


def test_a_state_dict_asks_for_its_network(tmp_path):
    torch.save(MLP(4, K).state_dict(), tmp_path / "old.pt")
    with pytest.raises(ValueError, match="network="):
        load_model(tmp_path / "old.pt", model_class=Classifier)


def test_buffers_are_weights_too(tmp_path):
    saved = nn.Sequential(nn.Linear(4, K), nn.BatchNorm1d(K))
    saved(X)
    torch.save(saved.state_dict(), tmp_path / "old.pt")
    model = load_model(tmp_path / "old.pt", network=nn.Sequential(nn.Linear(4, K), nn.BatchNorm1d(K)))
    assert torch.equal(model[1].running_mean, saved[1].running_mean)
    torch.save(dict(saved[0].named_parameters(prefix="0")), tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"4 missing \(1\.weight, 1\.bias, 1\.running_mean, "):
        load_model(tmp_path / "old.pt", network=nn.Sequential(nn.Linear(4, K), nn.BatchNorm1d(K)))


# -- files that are none of these ------------------------------------------------------------------


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("code-was-run"),)


def test_code_in_a_file_is_not_run(tmp_path):
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))):
        write({"state_dict": {"weight": torch.zeros(2)}, "x": Payload()}, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match="weights_only=True"):
            load_model(tmp_path / "bad.ckpt", network=MLP(4, K))
    assert not Path("code-was-run").exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(MLP(4, K), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"state_dict\(\)"):
        load_model(tmp_path / "whole.pt")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"old,new\n1,2\n", b"PK\x03\x04 and then nothing"])
def test_files_of_other_formats_are_refused(tmp_path, content):
    (tmp_path / "old.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"old\.ckpt"):
        load_model(tmp_path / "old.ckpt")


def test_files_that_are_cut_off_are_refused(tmp_path):
    path = save(Sized(7), tmp_path / "model.ckpt")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="cut off"):
        load_model(path, model_class=Sized)


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, {}, [torch.zeros(2)]])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"old\.ckpt (is neither|must hold)"):
        load_model(tmp_path / "old.ckpt", network=MLP(4, K))


def test_folders_and_missing_files_are_told(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_model("https://example.org/model.ckpt", network=MLP(4, K))


# -- torchvision -----------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What torchvision is asked for, instead of a download."""
    asked = []

    def get_model(name, weights=None):
        asked.append((name, weights))
        return MLP(4, K)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    return asked


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_torchvision_names_bring_weights(asked, weights):
    assert_ready(load_model(f"torchvision:resnet18:{weights}"))
    assert asked == [("resnet18", weights)]


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
def test_torchvision_names_are_networks_for_files(asked, tmp_path, name):
    saved = MLP(4, K).eval()
    torch.save(saved.state_dict(), tmp_path / "old.pt")
    assert torch.equal(load_model(tmp_path / "old.pt", network=name)(X), saved(X))
    assert asked == [("resnet18", None)]


def test_torchvision_names_that_do_not_say_enough(asked, tmp_path):
    torch.save(MLP(4, K).state_dict(), tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"untrained.*torchvision:resnet18:DEFAULT"):
        load_model("torchvision:resnet18")
    with pytest.raises(ValueError, match=r"no network 'resnet19'\. Close to it: .*resnet18"):
        load_model("torchvision:resnet19:DEFAULT")
    with pytest.raises(ValueError, match="it has IMAGENET1K_V1, DEFAULT"):
        load_model("torchvision:resnet18:IMAGENET1K_V9")
    with pytest.raises(ValueError, match="pass torchvision:resnet18"):
        load_model(tmp_path / "old.pt", network="torchvision:resnet18:DEFAULT")
    assert not asked


# -- the program around ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["module", "checkpoint", "configuration", "state_dict", "torchvision"])
def test_no_random_number_is_drawn(tmp_path, kind, cli_checkpoint):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "squeezed.pt")
    path = save(Sized(7), tmp_path / "model.ckpt")
    options = {
        "module": (MLP(4, K), {}),
        "checkpoint": (path, {"model_class": Sized}),
        "configuration": (cli_checkpoint[0], {}),
        "state_dict": (path, {"network": MLP(4, K, hidden=(7,))}),
        "torchvision": (tmp_path / "squeezed.pt", {"network": "squeezenet1_1"}),
    }
    source, chosen = options[kind]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    load_model(source, **chosen)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == str(states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_networks_of_configurations_are_ours(cli_checkpoint):
    assert isinstance(load_model(cli_checkpoint[0]).network, SmallCNN)


def test_hyperparameters_may_hold_a_path(tmp_path):
    class Reader(LightningModule):
        def __init__(self, folder):
            super().__init__()
            self.save_hyperparameters()
            self.network = torch.nn.Linear(2, 3)

        def forward(self, x):
            return self.network(x)

    model = Reader(tmp_path)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.6",
        "epoch": 0,
        "global_step": 0,
        "loops": {},
    }
    torch.save(checkpoint, tmp_path / "old.ckpt")
    loaded = load_model(tmp_path / "old.ckpt", model_class=Reader)
    assert loaded.hparams.folder == tmp_path
    assert torch.equal(loaded.network.weight, model.network.weight)
