"""Splits, scaling and label noise of the bundled data sets."""

import builtins
from collections import Counter

import pytest
import torch
from torch.utils.data import Subset

from lightning_flip.data import DigitsDataModule, IrisDataModule, NoisyLabels, split_indices
from lightning_flip.data.origins import resolve_source

MODULES = [DigitsDataModule, IrisDataModule]


def ready(cls, **options):
    module = cls(**options)
    module.setup("fit")
    return module


def labels_of(dataset):
    return torch.tensor([int(dataset[i][1]) for i in range(len(dataset))])


def positions(dataset):
    dataset = dataset.dataset if isinstance(dataset, NoisyLabels) else dataset
    assert isinstance(dataset, Subset)
    return [int(i) for i in dataset.indices]


@pytest.mark.parametrize("sizes", [[], [3], [3, 4], [0, 5], [19]])
def test_splits_are_disjoint_and_complete(sizes):
    parts = split_indices(20, sizes, seed=5)
    assert [len(part) for part in parts] == [*sizes, 20 - sum(sizes)]
    assert Counter(i for part in parts for i in part) == Counter(range(20))
    assert parts == split_indices(20, sizes, seed=5)


def test_the_seed_decides_the_split_and_the_first_part_ignores_the_later_ones():
    assert split_indices(200, [50], seed=0) != split_indices(200, [50], seed=1)
    assert split_indices(200, [50], seed=0)[0] == split_indices(200, [50, 30], seed=0)[0]


def test_a_split_leaves_the_global_random_state():
    before = torch.get_rng_state()
    split_indices(20, [5], seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("sizes", "message"), [([20], "leave none"), ([12, 9], "leave none"), ([-1], "negative")])
def test_impossible_splits_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        split_indices(20, sizes, seed=0)


@pytest.mark.parametrize(("cls", "total", "test"), [(DigitsDataModule, 1797, 500), (IrisDataModule, 150, 30)])
def test_default_sizes(cls, total, test):
    module = ready(cls)
    assert len(module.train_set) == total - test
    assert len(module.test_set) == test
    assert module.val_set is module.test_set
    assert sorted(positions(module.train_set) + positions(module.test_set)) == list(range(total))


@pytest.mark.parametrize("cls", MODULES)
def test_an_own_validation_split_is_taken_from_the_training_split(cls):
    without, module = ready(cls), ready(cls, val_size=20)
    assert positions(module.test_set) == positions(without.test_set)
    parts = [positions(part) for part in (module.train_set, module.val_set, module.test_set)]
    assert sorted(parts[0] + parts[1] + parts[2]) == sorted(positions(without.train_set) + positions(without.test_set))
    assert len(parts[1]) == 20


def test_digits_are_images_in_the_unit_interval():
    module = ready(DigitsDataModule, batch_size=500)
    images, labels = next(iter(module.test_dataloader()))
    assert images.shape == (500, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    assert set(labels.tolist()) == set(range(module.num_classes))
    assert module.num_features == images[0].numel()


def test_digits_are_the_pixels_that_scikit_learn_gives():
    from sklearn.datasets import load_digits

    module, bunch = ready(DigitsDataModule), load_digits()
    for place in (0, 17, 499):
        position = positions(module.test_set)[place]
        image, label = module.test_set[place]
        assert label == bunch.target[position]
        assert torch.equal(image.flatten() * 16, torch.tensor(bunch.data[position], dtype=torch.float32))


def test_iris_is_standardized_by_the_training_split_alone():
    module = ready(IrisDataModule)
    train = torch.stack([features for features, _ in module.train_set])
    test = torch.stack([features for features, _ in module.test_set])
    assert train.shape == (120, 4)
    assert train.dtype == torch.float32
    torch.testing.assert_close(train.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.pow(2).mean(0), torch.ones(4), atol=1e-4, rtol=0)
    assert float(test.mean(0).abs().max()) > 0.02


@pytest.mark.parametrize("cls", MODULES)
def test_noise_spoils_training_labels_only(cls):
    clean, noisy = ready(cls, val_size=20), ready(cls, val_size=20, noise_rate=0.4, noise_seed=1)
    true = labels_of(clean.train_set)
    rate = float((labels_of(noisy.train_set) != true).float().mean())
    assert abs(rate - 0.4) < 5 * (0.24 / len(true)) ** 0.5
    assert noisy.train_set.true_targets.equal(true)
    assert labels_of(noisy.val_set).equal(labels_of(clean.val_set))
    assert labels_of(noisy.test_set).equal(labels_of(clean.test_set))
    assert not isinstance(clean.train_set, NoisyLabels)


def test_redrawn_noise_leaves_some_labels_right():
    module = ready(DigitsDataModule, noise_rate=1.0, noise="redrawn")
    assert abs(float(module.train_set.is_noisy.float().mean()) - 0.9) < 5 * (0.09 / 1297) ** 0.5


def test_validation_labels_are_spoiled_on_request():
    module = ready(DigitsDataModule, val_size=300, noise_rate=0.4, noisy_validation=True)
    assert abs(float(module.val_set.is_noisy.float().mean()) - 0.4) < 5 * (0.24 / 300) ** 0.5
    assert not isinstance(module.test_set, NoisyLabels)


def test_seeds_of_split_and_noise_are_independent():
    base = ready(DigitsDataModule, noise_rate=0.4)
    other_noise = ready(DigitsDataModule, noise_rate=0.4, noise_seed=1)
    other_split = ready(DigitsDataModule, noise_rate=0.4, split_seed=1)
    assert positions(base.train_set) == positions(other_noise.train_set)
    assert not base.train_set.noisy_targets.equal(other_noise.train_set.noisy_targets)
    assert positions(base.train_set) != positions(other_split.train_set)
    again = ready(DigitsDataModule, noise_rate=0.4)
    again.setup("test")
    assert again.train_set.noisy_targets.equal(base.train_set.noisy_targets)


@pytest.mark.parametrize("cls", MODULES)
def test_every_training_sample_comes_once_an_epoch_and_in_another_order(cls):
    module = ready(cls)
    loader = module.train_dataloader()
    first, second = (torch.cat([x.flatten(1) for x, _ in loader]) for _ in range(2))
    assert len(first) == len(module.train_set)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.double().sum(0), second.double().sum(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_rate": 1.2}, "noise_rate"),
        ({"noise": "pairs"}, "noise must be"),
        ({"noisy_validation": True}, "val_size"),
        ({"test_size": 0}, "test_size"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**options)


def test_splits_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="leave none"):
        ready(IrisDataModule, test_size=100, val_size=50)


def test_loaders_before_setup_say_what_is_missing():
    with pytest.raises(RuntimeError, match=r"setup\(\)"):
        IrisDataModule().train_dataloader()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-flip\[cli\]"):
        ready(DigitsDataModule)


def test_options_are_kept_as_hyperparameters():
    assert DigitsDataModule(noise_rate=0.4).hparams["noise_rate"] == 0.4


def given(module, dataset):
    """Position in the whole data set -> original label handed out."""
    lead = module.classes or range(type(module).num_classes)
    return {resolve_source(dataset, i)[2]: lead[int(dataset[i][1])] for i in range(len(dataset))}


@pytest.mark.parametrize("noise_rate", [0.0, 0.4])
@pytest.mark.parametrize(
    "options", [{"train_fraction": 0.3}, {"classes": [2, 0]}, {"train_fraction": 0.3, "classes": [2, 0]}]
)
def test_what_an_old_model_learns_is_part_of_what_a_new_one_learns(options, noise_rate):
    new = ready(DigitsDataModule, val_size=100, noise_rate=noise_rate, noisy_validation=noise_rate > 0)
    old = ready(DigitsDataModule, val_size=100, noise_rate=noise_rate, noisy_validation=noise_rate > 0, **options)
    assert given(old, old.train_set).items() < given(new, new.train_set).items()
    for part in ("val_set", "test_set"):
        known = {i: y for i, y in given(new, getattr(new, part)).items() if y in (old.classes or range(10))}
        assert given(old, getattr(old, part)) == known
    assert old.num_classes == (2 if "classes" in options else 10)
    assert new.num_classes == 10
    share = options.get("train_fraction", 1.0)
    kept = [y for y in given(new, new.train_set).values() if y in (old.classes or range(10))]
    assert abs(len(old.train_set) - share * len(kept)) <= 5


def test_smaller_shares_of_the_training_split_are_part_of_larger_ones():
    small, large = (ready(DigitsDataModule, train_fraction=share, noise_rate=0.2) for share in (0.2, 0.6))
    assert given(small, small.train_set).items() < given(large, large.train_set).items()


def test_iris_has_the_same_inputs_for_every_share():
    whole, part = ready(IrisDataModule), ready(IrisDataModule, train_fraction=0.2, classes=[1, 2])
    inputs = {resolve_source(whole.train_set, i)[2]: x for i, (x, _) in enumerate(whole.train_set)}
    assert all(torch.equal(x, inputs[resolve_source(part.train_set, i)[2]]) for i, (x, _) in enumerate(part.train_set))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train_fraction": 0.0}, ValueError, r"train_fraction is a share in \(0, 1\]"),
        ({"train_fraction": 30}, ValueError, "train_fraction"),
        ({"classes": [0, 10]}, ValueError, r"labels in \[0, 10\)"),
        ({"classes": [3, 3]}, ValueError, "once"),
        ({"classes": []}, ValueError, "at least one"),
    ],
)
def test_impossible_choices_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        DigitsDataModule(**options)
