"""The toy Gaussian classes: what is drawn, and its true distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from lightning_flip.data import (
    LabelDistributions,
    NoisyLabels,
    ToyGaussian,
    ToyGaussianDataModule,
    class_means,
    true_distributions,
)
from lightning_flip.data.labels import kept_labels
from lightning_flip.data.origins import ask_dataset
from lightning_flip.models import MLP, Classifier


def ready(**options):
    module = ToyGaussianDataModule(**{"num_samples": 2000, **options})
    module.setup("fit")
    return module


def test_the_papers_sizes():
    module = ToyGaussianDataModule()
    module.setup()
    assert [len(split) for split in (module.train_set, module.val_set, module.test_set)] == [5000, 5000, 90_000]
    assert (module.num_classes, module.num_features, module.batch_size) == (3, 30, 32)
    assert module.means.shape == (3, 30)


@pytest.mark.parametrize("delta", [0.5, 1.0, 4.0])
def test_means_are_drawn_from_three_values_by_a_seed_of_their_own(delta):
    means = class_means(3, 30, delta=delta, seed=4)
    assert set(means.flatten().tolist()) == {-delta, 0.0, delta}
    assert means.equal(delta * class_means(3, 30, seed=4))
    assert not means.equal(class_means(3, 30, delta=delta, seed=5))
    assert ready(seed=0, means_seed=4, delta=delta).means.equal(ready(seed=1, means_seed=4, delta=delta).means)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_true_distributions_are_bayes_rule_in_plain_numbers(sigma):
    data = ToyGaussian(class_means(4, 5, seed=1), 20, sigma=sigma, seed=2)
    means = class_means(4, 5, seed=1).double().numpy()
    for x, found in zip(data.inputs.double().numpy(), data.true_probs, strict=True):
        # The density of each class itself, from which Eq. 6 drops what they share.
        density = [
            math.prod(math.exp(-((a - m) ** 2) / (2 * sigma**2)) / math.sqrt(2 * math.pi * sigma**2) for a, m in pairs)
            for pairs in (list(zip(x, mean, strict=True)) for mean in means)
        ]
        np.testing.assert_allclose(found, np.array(density) / sum(density), rtol=0, atol=1e-6)


def test_labels_follow_the_true_distribution():
    data = ToyGaussian(class_means(3, 30), 60_000, seed=0)
    for k in range(3):
        order = data.true_probs[:, k].argsort()
        for part in order.chunk(6):  # from where class k is improbable to where it is certain
            share, expected = (data.targets[part] == k).float().mean(), data.true_probs[part, k].mean()
            assert float(share) == pytest.approx(float(expected), abs=0.015)
    bayes = (data.true_probs.argmax(dim=1) == data.targets).float().mean()
    assert float(bayes) == pytest.approx(float(data.true_probs.amax(dim=1).mean()), abs=0.005)


def test_samples_have_the_mean_and_the_spread_of_their_class():
    data = ToyGaussian(class_means(3, 30, delta=2.0), 30_000, sigma=2.0, seed=1)
    assert data.targets.bincount().float().div(30_000).sub(1 / 3).abs().max() < 0.01
    for k in range(3):
        own = data.inputs[data.targets == k]
        assert (own.mean(dim=0) - class_means(3, 30, delta=2.0)[k]).abs().max() < 0.1
        assert float(own.std(dim=0).mean()) == pytest.approx(2.0, abs=0.02)


def test_large_distances_stay_distributions():
    probs = true_distributions(torch.tensor([[1e3, 0.0], [-1e3, 0.0]]), torch.tensor([[50.0, 0.0], [-50.0, 0.0]]), 0.1)
    assert probs.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_the_seed_decides_and_the_global_random_state_is_left():
    before = torch.get_rng_state()
    first, again, other = ready(seed=3), ready(seed=3), ready(seed=4)
    assert torch.get_rng_state().equal(before)
    assert first.train_set.inputs.equal(again.train_set.inputs)
    assert first.test_set.targets.equal(again.test_set.targets)
    splits = [split.inputs for module in (first, other) for split in (module.train_set, module.val_set)]
    for place, split in enumerate(splits):
        for later in splits[place + 1 :]:
            assert not split[:50].equal(later[:50])
    first.setup("test")
    assert first.train_set.inputs.equal(again.train_set.inputs)


def test_samples_are_asked_for_their_distribution_through_wrappers():
    module = ready()
    wrapped = Subset(NoisyLabels(module.train_set, rate=0.4), [7, 3])
    assert ask_dataset(wrapped, 1, "true_distribution").equal(module.train_set.true_probs[3])
    assert module.train_set.true_distribution(3).equal(module.train_set.true_probs[3])
    assert kept_labels(module.train_set).tolist() == module.train_set.targets.tolist()


def test_batches_of_labels_and_of_true_distributions():
    module, true = ready(), ready(supervision="true")
    for x, y in module.train_dataloader():
        assert (x.shape[1:], y.dtype) == ((30,), torch.int64)
    assert isinstance(true.train_set, LabelDistributions)
    x, y = true.train_set[5]
    assert x.equal(module.train_set.inputs[5])
    assert y.equal(module.train_set.true_probs[5])
    assert next(iter(true.train_dataloader()))[1].shape == (32, 3)
    for loader in (true.val_dataloader(), true.test_dataloader(), true.predict_dataloader()):
        assert next(iter(loader))[1].dtype == torch.int64


@pytest.mark.parametrize("supervision", ["labels", "true"])
def test_a_classifier_trains_on_it(supervision):
    import lightning.pytorch as pl

    model = Classifier(MLP(30, 3, hidden=(16,)), num_classes=3)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=ready(supervision=supervision, delta=4.0))
    assert trainer.callback_metrics["val_acc"] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supervision": "soft"}, "supervision must be 'labels' or 'true', got 'soft'"),
        ({"train_share": 0.0}, "train_share and val_share must be positive"),
        ({"train_share": 0.5, "val_share": 0.5}, "leave samples for every split"),
        ({"num_samples": 5}, "leave samples for every split"),
        ({"delta": 0.0}, "delta > 0"),
        ({"num_classes": 1}, "num_classes >= 2"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ToyGaussianDataModule(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((torch.zeros(3), 5), "means must be"), ((torch.zeros(1, 4), 5), "at least 2"), ((torch.zeros(2, 4), 0), "num_s")],
)
def test_data_that_cannot_be_drawn_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ToyGaussian(*arguments)
    with pytest.raises(ValueError, match="sigma must be greater than 0"):
        ToyGaussian(torch.zeros(2, 4), 5, sigma=0.0)


def test_loaders_before_setup_say_what_is_missing():
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        ToyGaussianDataModule().train_dataloader()
