from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip import mixins, modules
from lightning_flip.cli import training_cli
from lightning_flip.mixins import (
    BackwardCompatible,
    BackwardCorrection,
    BatchMixing,
    ClassWiseSelfDistillation,
    ConfidencePenalty,
    CorrectedLoss,
    Distillation,
    EarlyLearningRegularization,
    FlippingErrorReduction,
    FocalDistillation,
    ForwardCorrection,
    LabelSmoothing,
    LearningWithRetrospection,
    LossTerm,
    Mixup,
    NaivePositiveCongruent,
    PairwiseLabelSmoothing,
    ReferencedLoss,
    SelfAdaptiveTraining,
    SnapshotDistillation,
    SoftTargets,
    StudentLoss,
    TeacherFreeRegularization,
)
from lightning_flip.models import MLP, Classifier
from lightning_flip.stores import write_soft_targets

MIXINS = {
    "BackwardCompatibleClassifier": BackwardCompatible,
    "BackwardCorrectionClassifier": BackwardCorrection,
    "ClassWiseSelfDistillationClassifier": ClassWiseSelfDistillation,
    "ConfidencePenaltyClassifier": ConfidencePenalty,
    "DistillationClassifier": Distillation,
    "EarlyLearningRegularizationClassifier": EarlyLearningRegularization,
    "FlippingErrorReductionClassifier": FlippingErrorReduction,
    "FocalDistillationClassifier": FocalDistillation,
    "ForwardCorrectionClassifier": ForwardCorrection,
    "LabelSmoothingClassifier": LabelSmoothing,
    "LearningWithRetrospectionClassifier": LearningWithRetrospection,
    "MixupClassifier": Mixup,
    "NaivePositiveCongruentClassifier": NaivePositiveCongruent,
    "PairwiseLabelSmoothingClassifier": PairwiseLabelSmoothing,
    "SelfAdaptiveTrainingClassifier": SelfAdaptiveTraining,
    "SnapshotDistillationClassifier": SnapshotDistillation,
    "SoftTargetsClassifier": SoftTargets,
    "TeacherFreeRegularizationClassifier": TeacherFreeRegularization,
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

OTHERS = ["--data=DigitsDataModule", "--trainer.logger=false"]


def own_options(cls: type) -> set[str]:
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    init = vars(cls).get("__init__")
    parameters = [] if init is None else list(inspect.signature(init).parameters.values())[1:]
    return {parameter.name for parameter in parameters if parameter.kind not in skipped}


def all_options(name: str) -> set[str]:
    """Options of the mixin, of the mixins below it, and of the classifier."""
    parts = [part for part in MIXINS[name].__mro__ if issubclass(part, LossTerm)]
    return set().union(*(own_options(part) for part in parts), own_options(Classifier))


def test_every_mixin_has_a_module():
    assert sorted(MIXINS) == modules.__all__
    bases = {BatchMixing, CorrectedLoss, LossTerm, ReferencedLoss, StudentLoss}
    public = [getattr(mixins, name) for name in mixins.__all__]
    assert set(MIXINS.values()) == {part for part in public if issubclass(part, LossTerm)} - bases


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
    for option in all_options(name):
        assert f"--model.{option} " in text, option


@pytest.mark.parametrize("name", modules.__all__)
def test_a_printed_configuration_holds_every_option(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        training_cli(["fit", f"--model={name}", *NETWORK, "--model.num_classes=3", "--print_config"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in all_options(name):
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
    if name == "FocalDistillationClassifier":
        assert torch.equal(train(getattr(modules, name), focal_weight=0.0), plain)
    earlier = {"LearningWithRetrospection": {"lwr_interval": 1}, "SelfAdaptiveTraining": {"sat_warmup": 0}}
    options = earlier.get(MIXINS[name].__name__, {})
    if issubclass(MIXINS[name], ReferencedLoss):
        with torch.random.fork_rng():
            options = {"reference": MLP(4, 3)}
    if MIXINS[name] is SoftTargets:
        options = {
            "targets": write_soft_targets("teacher.safetensors", np.full((24, 3), 1 / 3), target=np.arange(24) % 3)
        }
    assert not torch.equal(train(getattr(modules, name), **options), plain)


@pytest.mark.parametrize("name", [name for name in modules.__all__ if issubclass(MIXINS[name], ReferencedLoss)])
def test_a_reference_comes_from_the_command_line(name, tmp_path):
    """As a path, or as a class with its arguments; checkpoints of both load where the old model is gone."""
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(24, 4), torch.arange(24) % 3), batch_size=8)
    saved = tmp_path / "old.pt"
    torch.save(MLP(4, 3).state_dict(), saved)
    as_reference, as_network = (
        [option.replace("model.network", f"model.{other}") for option in NETWORK]
        for other in ("reference", "reference_network")
    )
    forms = [[f"--model.reference={saved}", *as_network], as_reference]
    for form in forms:
        cli = training_cli([f"--model={name}", *NETWORK, "--model.num_classes=3", *form, *OTHERS], run=False)
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(cli.model, data, data)
        trainer.save_checkpoint(tmp_path / "new.ckpt")
        content = torch.load(tmp_path / "new.ckpt", weights_only=True)
        assert not any("reference" in key for key in content["state_dict"])
        again = getattr(modules, name).load_from_checkpoint(tmp_path / "new.ckpt")
        assert again(torch.zeros(1, 4)).equal(cli.model(torch.zeros(1, 4)))
