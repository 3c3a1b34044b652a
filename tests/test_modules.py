from __future__ import annotations

import inspect

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import modules
from lightning_flip.cli import training_cli
from lightning_flip.mixins import FlippingErrorReduction, LabelSmoothing, LearningWithRetrospection, LossTerm
from lightning_flip.models import MLP, Classifier

MIXINS = {
    "FlippingErrorReductionClassifier": FlippingErrorReduction,
    "LabelSmoothingClassifier": LabelSmoothing,
    "LearningWithRetrospectionClassifier": LearningWithRetrospection,
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # depends on the machine's cores
]
NETWORK = [
    "--model.network=lightning_flip.models.MLP",
    "--model.network.in_features=4",
    "--model.network.num_classes=3",
]


def own_options(cls: type) -> set[str]:
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
    return {parameter.name for parameter in parameters if parameter.kind not in skipped}


def test_every_mixin_has_a_module():
    assert sorted(MIXINS) == modules.__all__
    assert set(MIXINS.values()) == {FlippingErrorReduction, LabelSmoothing, LearningWithRetrospection}


@pytest.mark.parametrize("name", modules.__all__)
def test_the_mixin_stands_left(name):
    order = getattr(modules, name).__mro__
    assert order.index(MIXINS[name]) < order.index(LossTerm) < order.index(Classifier)


@pytest.mark.parametrize("name", modules.__all__)
def test_the_command_line_knows_every_option(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        training_cli(["fit", f"--model.help=lightning_flip.modules.{name}"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in own_options(MIXINS[name]) | own_options(LossTerm) | own_options(Classifier):
        assert f"--model.{option} " in text, option


@pytest.mark.parametrize("name", modules.__all__)
def test_a_printed_configuration_holds_every_option(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        training_cli(["fit", f"--model={name}", *NETWORK, "--model.num_classes=3", "--print_config"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in own_options(MIXINS[name]) | own_options(LossTerm) | own_options(Classifier):
        assert f"\n    {option}:" in text, option


@pytest.mark.parametrize("name", modules.__all__)
def test_a_wrong_type_is_refused(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        training_cli(["fit", f"--model={name}", *NETWORK, "--model.num_classes=3", "--model.term_weight=heavy"])
    assert exit_.value.code == 2
    assert "heavy" in capsys.readouterr().err


@pytest.mark.parametrize("name", modules.__all__)
def test_switched_off_it_is_the_plain_classifier(name):
    def train(cls, **settings):
        torch.manual_seed(0)
        module = cls(MLP(4, 3), num_classes=3, **settings)
        inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
        data = DataLoader(TensorDataset(inputs, torch.arange(24) % 3), batch_size=8)
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data, data)
        return torch.cat([weight.detach().flatten() for weight in module.network.parameters()])

    plain = train(Classifier)
    assert torch.equal(train(getattr(modules, name), term_weight=0.0), plain)
    assert not torch.equal(train(getattr(modules, name), **({"lwr_interval": 1} if "Retro" in name else {})), plain)
