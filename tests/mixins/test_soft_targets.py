"""Students from files: the loss equals a numpy loop, and nothing is trained on what is not of their data."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_flip.callbacks import PredictionFilter
from lightning_flip.data import NoisyLabels
from lightning_flip.mixins import Distillation, FlippingErrorReduction, SoftTargets
from lightning_flip.models import MLP
from lightning_flip.modules import SoftTargetsClassifier
from lightning_flip.stores import SoftTargetError, dataset_fingerprint, write_soft_targets
from tests.mixins.helpers import (
    K,
    LitNet,
    N,
    data,
    differences,
    inputs,
    labels,
    loader,
    network,
    quiet,
    shuffled_batches,
    train,
    weights,
)
from tests.mixins.updates import numpy_run
from tests.oracles import filter_kd as oracle
from tests.oracles import positive_congruent

FILE = "teacher.safetensors"


class Student(SoftTargets, LitNet):
    """Soft targets in front of a user's module."""


def teacher_rows(count=N, classes=K, seed=11):
    """Multiples of 1/64, which float32 holds exactly; some are 0."""
    counts = np.random.default_rng(seed).multinomial(64, np.ones(classes) / classes, size=count)
    counts[:, 0] += counts[:, 1]
    counts[:, 1] = 0
    return (counts / 64).astype(np.float32)


def write(path=FILE, *, probs=None, visited=None, target="known", overwrite=True, **facts):
    probs = teacher_rows() if probs is None else probs
    target = labels(probs.shape[1], len(probs)) if isinstance(target, str) else target
    manifest = {"dataset_fingerprint": None if target is None else dataset_fingerprint(target), "labels": "dataset"}
    return write_soft_targets(path, probs, visited, {**manifest, **facts}, target=target, overwrite=overwrite)


def student(**options):
    return Student(network(), **{"targets": FILE, **options})


def refused(model, batches=None, match=""):
    """The fit stops with this error, and no weight has moved."""
    before = copy.deepcopy(weights(model))
    with pytest.raises(SoftTargetError, match=match):
        quiet().fit(model, data() if batches is None else batches)
    assert all((before[name] == value).all() for name, value in weights(model).items())


def kd_term(rows, temperature=1.0, weight=1.0, visited=None):
    """KD - CE and its gradient, sample by sample."""
    y = labels(K)

    def term(index, logits, hidden):
        soft = rows[index]
        losses, gradient = oracle.distillation(logits, soft, y[index], temperature, weight, "probs")
        plain, plain_gradient = oracle.distillation(logits, soft, y[index], 1.0, 0.0, "probs")
        assert np.allclose(plain, positive_congruent.cross_entropy(logits, y[index]))
        if visited is not None:
            losses, gradient = (
                np.where(visited[index].reshape(-1, *[1] * (a.ndim - 1)), a, b)
                for a, b in ((losses, plain), (gradient, plain_gradient))
            )
        return losses - plain, gradient - plain_gradient, np.zeros_like(hidden)

    return term


# -- the loss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "weight"), [(0.5, 0.4), (10.0, 1.0), (1.0, 2.0)])
def test_a_run_is_the_numpy_loop(temperature, weight):
    """tests/sweep has the defaults, which are 1."""
    write()
    trace = numpy_run(kd_term(teacher_rows().astype(np.float64), temperature, weight))
    model = student(kd_temperature=temperature, kd_weight=weight)
    recorder = train(model, data())
    assert differences(model, recorder, trace) == []


def test_one_hot_targets_are_training_without_a_teacher():
    write(probs=np.eye(K, dtype=np.float32)[labels(K)])
    expected = train(LitNet(network()), data()).losses
    assert train(student(), data()).losses == pytest.approx(expected, abs=1e-12)


def test_weight_zero_reads_no_file_and_is_training_without_a_teacher_bit_for_bit():
    plain, model = LitNet(network()), student(targets="nowhere.safetensors", kd_weight=0.0)
    assert train(model, data()).losses == train(plain, data()).losses
    assert all((weights(plain)[name] == value).all() for name, value in weights(model).items())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_unvisited_rows_are_trained_with_their_labels_by_option(temperature):
    visited = np.arange(N) % 3 > 0
    rows = teacher_rows()
    rows[~visited] = 0
    fingerprint = dataset_fingerprint(labels(K))
    write(probs=rows, visited=visited, target=np.where(visited, labels(K), -1), dataset_fingerprint=fingerprint)
    full = np.where(visited[:, None], rows, 1 / K).astype(np.float64)
    trace = numpy_run(kd_term(full, temperature, 1.0, visited))
    model = student(unvisited="cross_entropy", kd_temperature=temperature)
    assert differences(model, train(model, data()), trace) == []


# -- what is refused --------------------------------------------------------------------------------------


def test_a_missing_file_and_none_at_all():
    refused(student(targets="none.safetensors"), match=r"none\.safetensors does not exist")
    with pytest.raises(ValueError, match=r"there are none\. Pass targets="):
        quiet().fit(student(targets=None), data())


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_half_a_file(share):
    content = write().read_bytes()
    Path(FILE).write_bytes(content[: int(share * len(content))])
    refused(student(), match="cut off or damaged")


def test_a_changed_file():
    content = bytearray(write().read_bytes())
    content[-30] ^= 1
    Path(FILE).write_bytes(content)
    refused(student(), match="changed after it was written")


def test_a_teacher_that_never_visited_some_rows():
    write(visited=np.arange(N) != 5)
    refused(student(), match=r"for 23 of 24 samples.*other 1, sample 5 among them.*unvisited=")


@pytest.mark.parametrize("classes", [K - 1, K + 1])
def test_another_number_of_classes(classes):
    write(probs=teacher_rows(classes=classes))
    refused(student(), match=rf"is of {classes} classes, the student's logits have {K}")


@pytest.mark.parametrize("count", [N - 1, N + 1])
def test_another_number_of_samples(count):
    write(probs=teacher_rows(count))
    refused(student(), match=rf"is of {count} training samples, the student has {N}")


@pytest.mark.parametrize("with_labels", [True, False])
def test_other_labels_or_another_order(with_labels):
    other = labels(K)[::-1].copy()
    manifest = {"dataset_fingerprint": dataset_fingerprint(other)}
    write(target=other if with_labels else None, **manifest)
    count = int((other != labels(K)).sum())
    said = f"labels of {count} of {N} samples" if with_labels else "labels or names of samples are not those"
    refused(student(), match=f"made of other training data.*{said}")


def test_one_label_is_enough():
    other = labels(K)
    other[7] = (other[7] + 1) % K
    write(target=other)
    refused(student(), match="labels of 1 of 24 samples")


class Unkept(Dataset):
    """Labels come with the samples alone."""

    def __init__(self, y):
        self.x, self.y = torch.from_numpy(inputs()), torch.from_numpy(y)

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def test_labels_that_nobody_keeps_are_compared_in_the_steps():
    write()
    train(student(), DataLoader(Unkept(labels(K)), batch_size=5))
    other = labels(K)
    other[1] = (other[1] + 1) % K
    refused(student(), DataLoader(Unkept(other), batch_size=5), match="labels of 1 samples of the last batches")


def test_on_a_device_flags_are_read_now_and_then(monkeypatch):
    """As on a device, where the host must not wait in every step."""
    write()
    looks = []
    stored = "lightning_flip.steps.stored_targets.StoredTargets"
    monkeypatch.setattr(f"{stored}.check", lambda self: looks.append(int(self._other or 0)))
    other = (labels(K) + 1) % K
    quiet(max_epochs=1, log_every_n_steps=2).fit(student(), DataLoader(Unkept(other), batch_size=5))
    assert max(looks) == N  # what nobody read is still there to be found


class Named(TensorDataset):
    names = [f"{i}.png" for i in range(N)]

    def sample_id(self, index):
        return self.names[index]


def test_names_of_samples_are_compared_where_both_have_them():
    tensors = torch.from_numpy(inputs()), torch.from_numpy(labels(K))
    facts = {"dataset_fingerprint": dataset_fingerprint(labels(K), Named.names[::-1]), "sample_ids": True}
    write(**facts)
    refused(student(), DataLoader(Named(*tensors), batch_size=5), match="the names of samples .* are not those")
    quiet(max_epochs=1).fit(student(), DataLoader(TensorDataset(*tensors), batch_size=5))
    write(**{**facts, "dataset_fingerprint": dataset_fingerprint(labels(K), Named.names)})
    quiet(max_epochs=1).fit(student(), DataLoader(Named(*tensors), batch_size=5))


def test_labels_that_are_mapped_on_the_way_are_compared_as_training_sees_them():
    class Mapped(Student):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0], (batch[1] + 1) % K]

    write(target=(labels(K) + 1) % K, labels="steps")
    quiet(max_epochs=1).fit(Mapped(network(), targets=FILE), data())
    refused(student(), match="labels of .* samples of the last batches")


def test_a_table_of_unknown_origin_is_used_with_a_warning():
    write_soft_targets(FILE, teacher_rows(), overwrite=True)
    with pytest.warns(UserWarning, match="no fingerprint, so that it cannot be compared"):
        quiet(max_epochs=1).fit(student(), data())
    with pytest.warns(UserWarning, match="holds no labels, so that it cannot be compared"):
        quiet(max_epochs=1).fit(student(), DataLoader(Unkept(labels(K)), batch_size=5))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kd_temperature": 0.0}, "kd_temperature must be greater than 0"),
        ({"kd_temperature": float("inf")}, "kd_temperature must be greater than 0"),
        ({"kd_weight": -0.1}, "kd_weight must be at least 0"),
        ({"kd_weight": float("inf")}, "kd_weight must be at least 0 and finite"),
        ({"unvisited": "skip"}, "unvisited must be one of"),
    ],
)
def test_wrong_options(options, match):
    with pytest.raises(ValueError, match=match):
        student(**options)


def test_two_teachers_in_one_class_are_refused_and_two_softenings_warn():
    with pytest.raises(TypeError, match="SoftTargets and Distillation both bring a teacher"):
        type("Both", (SoftTargets, Distillation, LitNet), {})
    write()

    class Softer(SoftTargets, FlippingErrorReduction, LitNet): ...

    with pytest.warns(UserWarning, match="each soften the target"):
        quiet(max_epochs=1).fit(Softer(network(), targets=FILE), data())


# -- the table --------------------------------------------------------------------------------------------


def test_the_table_is_in_no_checkpoint_and_is_let_go_of(caplog):
    write()
    model = student()
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        train(model, data())
    said = [record.getMessage() for record in caplog.records if "soft targets of" in record.getMessage()]
    assert len(said) == 1  # once a fit, with its size
    assert "[24, 4] = 0.0 MB to cpu" in said[0]
    assert model._mixin.soft_targets.loaded is None
    assert set(model.state_dict()) == set(LitNet(network()).state_dict())
    assert copy.deepcopy(model)._mixin.soft_targets is model._mixin.soft_targets
    restore, arguments = model._mixin.soft_targets.__reduce__()  # spawned ranks read the file themselves
    assert (restore(*arguments).path, restore(*arguments).loaded) == (FILE, None)


def test_a_students_checkpoint_needs_no_file_but_for_fitting():
    write(probs=teacher_rows(classes=3), target=labels(3))
    x = torch.from_numpy(inputs()).float()
    batches = DataLoader(TensorDataset(x, torch.from_numpy(labels(3))), batch_size=8)
    trainer = quiet(max_epochs=1)
    model = SoftTargetsClassifier(MLP(5, 3), num_classes=3, targets=Path(FILE))
    trainer.fit(model, batches, batches)
    trainer.save_checkpoint("student.ckpt")
    Path(FILE).unlink()
    again = SoftTargetsClassifier.load_from_checkpoint("student.ckpt", network=MLP(5, 3), weights_only=True)
    predicted = torch.cat(quiet().predict(again, batches))
    torch.testing.assert_close(predicted, model.eval()(x))
    quiet().validate(again, batches, verbose=False)
    with pytest.raises(SoftTargetError, match="does not exist"):
        quiet().fit(SoftTargetsClassifier(MLP(5, 3), num_classes=3, targets=FILE), batches, batches)


# -- from a teacher to a student --------------------------------------------------------------------------


def test_what_a_teacher_wrote_trains_a_student_of_the_same_data_and_no_other():
    x, y = torch.from_numpy(inputs()), torch.from_numpy(labels(K))
    clean = TensorDataset(x, y)

    def batches(dataset):
        return DataLoader(dataset, batch_size=6, shuffle=True)

    noisy = NoisyLabels(clean, rate=0.4, seed=1, num_classes=K)
    keep = PredictionFilter(0.3, dirpath="run", also=("eval_last",))
    with pytest.warns(UserWarning, match="no validation ran"):
        quiet(callbacks=[keep]).fit(LitNet(network()), batches(noisy))
    for name in ("filtered_last", "eval_last"):
        targets = f"run/soft_targets/{name}.safetensors"
        quiet(max_epochs=1).fit(student(targets=targets), batches(NoisyLabels(clean, rate=0.4, seed=1, num_classes=K)))
        refused(student(targets=targets), batches(clean), match="labels of .* of 24 samples")
        other = NoisyLabels(clean, rate=0.4, seed=2, num_classes=K)
        refused(student(targets=targets), batches(other), match="same label noise")
    quiet(max_epochs=1).fit(student(targets=targets), loader(inputs(), noisy.noisy_targets.numpy(), shuffled_batches()))
