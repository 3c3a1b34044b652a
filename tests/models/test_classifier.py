"""The plain classifier: what it logs, what it refuses, checkpoints, several loaders and devices, LightningCLI."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.data import DigitsDataModule
from lightning_flip.models import MLP, Classifier, SmallCNN
from lightning_flip.models.classifier import momentum_sgd

K = 3

# Lightning 2.6 asks torch's pytree in a way that newer torch deprecates, on every fit and validation.
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **(quiet | {"devices": 1, "max_epochs": 1} | options))


def data(n=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 4, generator=generator), torch.randint(K, (n,), generator=generator))


def model(**options):
    torch.manual_seed(0)
    return Classifier(MLP(4, K), **({"num_classes": K} | options))


def by_hand(network, dataset):
    """Cross-entropy, accuracy and calibration error in numpy, from their definitions."""
    with torch.no_grad():
        z = network.eval()(dataset.tensors[0]).double().numpy()
    y = dataset.tensors[1].numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    right, confidence = p.argmax(1) == y, p.max(1)
    ece = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return {"loss": -np.log(p[np.arange(len(y)), y]).mean(), "acc": right.mean(), "ece": ece}


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_logs_what_the_definitions_give(split):
    classifier, dataset = model(), data(50)  # 50: the last batch of 16 is smaller, so that weighting matters
    loop = trainer()
    evaluate = loop.validate if split == "val" else loop.test
    (logged,) = evaluate(classifier, DataLoader(dataset, batch_size=16), verbose=False)
    expected = {f"{split}_{name}": value for name, value in by_hand(classifier.network, dataset).items()}
    assert logged.keys() == expected.keys()
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, abs=1e-5), name


def test_logits_between_zero_and_one_are_still_logits():
    classifier = Classifier(nn.Identity(), num_classes=K)
    logits = torch.rand(40, K, generator=torch.Generator().manual_seed(1))
    dataset = TensorDataset(logits, logits.argmax(1))
    (logged,) = trainer().validate(classifier, DataLoader(dataset, batch_size=10), verbose=False)
    assert logged["val_ece"] == pytest.approx(by_hand(nn.Identity(), dataset)["ece"], abs=1e-5)


def test_several_loaders_do_not_share_their_metrics():
    classifier, sets = model(), [data(32, seed) for seed in range(3)]
    loop = trainer()
    loop.validate(classifier, [DataLoader(d, batch_size=8) for d in sets], verbose=False)
    for number, dataset in enumerate(sets):
        for name, value in by_hand(classifier.network, dataset).items():
            key = f"val_{name}" + (f"_{number}" if number else "")
            assert float(loop.callback_metrics[key]) == pytest.approx(value, abs=1e-5), key
    assert not any("/" in key for key in loop.callback_metrics)


def test_metrics_start_anew_in_every_epoch():
    classifier, dataset = model(optimizer=partial(torch.optim.SGD, lr=0.0)), data()
    loop = trainer(max_epochs=3)
    loop.fit(classifier, DataLoader(dataset, batch_size=16), DataLoader(dataset, batch_size=16))
    expected = by_hand(classifier.network, dataset)
    assert float(loop.callback_metrics["val_acc"]) == pytest.approx(expected["acc"])
    assert classifier.evaluation_metrics["val_acc"].tp.sum() == 0
    assert float(loop.callback_metrics["train_loss"]) == pytest.approx(expected["loss"], abs=1e-5)


def test_the_training_loss_is_the_mean_cross_entropy_of_forward():
    classifier, dataset = model(), data(10)
    classifier.log = lambda *args, **kwargs: None
    loss = classifier.training_step(tuple(dataset.tensors), 0)
    assert loss.item() == pytest.approx(by_hand(classifier.network, dataset)["loss"], abs=1e-5)


def test_soft_targets_train():
    classifier = model()
    classifier.log = lambda *args, **kwargs: None
    x, y = data(10).tensors
    hard, soft = (classifier.training_step((x, t), 0) for t in (y, torch.eye(K)[y]))
    torch.testing.assert_close(hard, soft)


@pytest.mark.parametrize("key", ["target", "label", "labels", "y"])
@pytest.mark.parametrize("name", ["input", "x", "image", "features"])
def test_mappings_are_batches(name, key):
    x, y = data(6).tensors
    got = model().split_batch({"id": torch.arange(6), name: x, key: y})
    assert got[0] is x
    assert got[1] is y


def test_lists_and_longer_tuples_are_batches():
    x, y = data(6).tensors
    for batch in ([x, y], (x, y, torch.arange(6))):
        assert model().split_batch(batch)[1] is y


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 4), (torch.zeros(2, 4),), {"x": torch.zeros(2, 4)}, {"y": torch.zeros(2)}]
)
def test_other_batches_name_the_way_out(batch):
    with pytest.raises(TypeError, match="split_batch"):
        model().split_batch(batch)


def test_prediction_gives_logits_with_and_without_targets():
    classifier, dataset = model().eval(), data(6)
    x, y = dataset.tensors
    expected = classifier(x)
    for batch in (x, [x], (x, y), {"x": x}, {"x": x, "y": y}):
        assert torch.equal(classifier.predict_step(batch, 0), expected)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="num_classes"):
        model(num_classes=1)


def test_a_few_epochs_on_digits_learn():
    torch.manual_seed(0)
    loop = trainer(max_epochs=3)
    loop.fit(Classifier(SmallCNN(width=8), num_classes=10), DigitsDataModule())
    assert float(loop.callback_metrics["val_acc"]) > 0.6
    assert set(loop.callback_metrics) == {"train_loss", "val_loss", "val_acc", "val_ece"}


def test_the_scheduler_steps_once_an_epoch():
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=4)
    classifier = model(lr_scheduler=cosine)
    loop = trainer(max_epochs=2)
    loop.fit(classifier, DataLoader(data(), batch_size=16), DataLoader(data(), batch_size=16))
    # Half of the cosine is behind it after 2 of 4 epochs.
    assert loop.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 / 2)


def test_a_plateau_scheduler_follows_the_validation_loss():
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0)
    classifier = model(optimizer=partial(torch.optim.SGD, lr=0.0), lr_scheduler=plateau)
    loop = trainer(max_epochs=2)
    loop.fit(classifier, DataLoader(data(), batch_size=16), DataLoader(data(), batch_size=16))
    assert loop.lr_scheduler_configs[0].scheduler.num_bad_epochs == 0
    assert loop.lr_scheduler_configs[0].scheduler.best == pytest.approx(float(loop.callback_metrics["val_loss"]))


def test_parameters_that_a_subclass_adds_are_optimized():
    class WithHead(Classifier):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.head = nn.Linear(2, 2)

    extended = WithHead(MLP(4, K), num_classes=K)
    optimized = {id(p) for group in extended.configure_optimizers().param_groups for p in group["params"]}
    assert optimized == {id(p) for p in extended.parameters()}


def test_it_can_be_pickled_for_spawned_processes():
    again = pickle.loads(pickle.dumps(model()))
    assert again.optimizer is momentum_sgd


def test_metrics_are_not_in_the_state_dict():
    classifier = model()
    trainer().validate(classifier, DataLoader(data(), batch_size=16), verbose=False)
    assert set(classifier.state_dict()) == {f"network.{name}" for name in classifier.network.state_dict()}


class Tempered(Classifier):
    """As a mixin would: an option of its own in front of the classifier's, and an object that is not a number."""

    def __init__(self, *args, temperature=1.0, teacher=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature = temperature


def test_a_checkpoint_holds_plain_values_and_loads_with_the_network_given(tmp_path):
    torch.manual_seed(0)
    fitted = Tempered(MLP(4, K), momentum_sgd, num_classes=K, temperature=4.0, teacher=MLP(4, K))
    loop = trainer()
    loop.fit(fitted, DataLoader(data(), batch_size=16), DataLoader(data(), batch_size=16))
    loop.save_checkpoint(tmp_path / "model.ckpt")
    kept = torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]
    assert kept == {"num_classes": K, "temperature": 4.0}
    loaded = Tempered.load_from_checkpoint(tmp_path / "model.ckpt", network=MLP(4, K), weights_only=True)
    assert loaded.temperature == 4.0
    x = data().tensors[0]
    assert torch.equal(loaded.eval()(x), fitted.eval()(x))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on fork
@pytest.mark.filterwarnings("ignore:Using .DistributedSampler. with the dataloaders")  # 48 samples divide evenly
def test_two_processes_give_the_metrics_of_the_whole():
    classifier, dataset = model(), data(48)
    loop = trainer(devices=2, strategy="ddp_fork")
    loop.validate(classifier, DataLoader(dataset, batch_size=8), verbose=False)
    for name, value in by_hand(classifier.network, dataset).items():
        assert float(loop.callback_metrics[f"val_{name}"]) == pytest.approx(value, abs=1e-5), name


CONFIG = """
seed_everything: 1
model:
  class_path: lightning_flip.models.Classifier
  init_args:
    network:
      class_path: lightning_flip.models.SmallCNN
      init_args: {width: 4}
    optimizer:
      class_path: torch.optim.Adam
      init_args: {lr: 0.003}
    lr_scheduler:
      class_path: torch.optim.lr_scheduler.CosineAnnealingLR
      init_args: {T_max: 7}
    num_classes: 10
data:
  class_path: lightning_flip.data.DigitsDataModule
  init_args: {batch_size: 128, noise_rate: 0.2}
"""


def cli(monkeypatch, *args, run=True):
    monkeypatch.setattr("sys.argv", ["fit"])  # LightningCLI warns about arguments that pytest was given
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # LightningCLI 2.6 uses what 4.50 deprecates
    return LightningCLI(
        LightningModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=None,
        trainer_defaults={
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        args=list(args),
        run=run,
    )


def test_a_config_builds_trains_and_its_checkpoint_needs_no_objects(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(CONFIG)
    run = cli(monkeypatch, "fit", "--config", str(tmp_path / "config.yaml"), f"--trainer.default_root_dir={tmp_path}")
    assert type(run.model) is Classifier
    assert isinstance(run.model.network, SmallCNN)
    assert run.model.network.features[0].out_channels == 4
    assert isinstance(run.trainer.optimizers[0], torch.optim.Adam)
    assert run.trainer.optimizers[0].defaults["lr"] == 0.003
    assert run.trainer.lr_scheduler_configs[0].scheduler.T_max == 7
    assert run.datamodule.train_set.is_noisy.any()
    (callback,) = [c for c in run.trainer.callbacks if isinstance(c, ModelCheckpoint)]
    loaded = Classifier.load_from_checkpoint(callback.best_model_path, weights_only=True)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.eval()(x), run.model.eval()(x))


def test_a_config_may_leave_optimizer_and_schedule_out(tmp_path, monkeypatch):
    config = yaml.safe_load(CONFIG)
    del config["model"]["init_args"]["optimizer"], config["model"]["init_args"]["lr_scheduler"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = cli(monkeypatch, "fit", "--config", str(tmp_path / "config.yaml"), "--trainer.fast_dev_run=true")
    (optimizer,) = run.trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9
    assert not run.trainer.lr_scheduler_configs


def test_a_config_may_name_a_function_that_builds_the_network(tmp_path, monkeypatch):
    config = yaml.safe_load(CONFIG)
    network = {"class_path": "lightning_flip.models.resnet10", "init_args": {"num_classes": 10, "in_channels": 1}}
    config["model"]["init_args"]["network"] = network
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = cli(monkeypatch, "--config", str(tmp_path / "config.yaml"), run=False)
    assert run.model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
