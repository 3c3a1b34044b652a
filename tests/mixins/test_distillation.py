"""A teacher that answers while the student trains, through a real Trainer against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import Distillation
from lightning_flip.models import MLP
from lightning_flip.modules import DistillationClassifier
from tests.mixins.helpers import K, LitNet, Recorder, data, differences, inputs, labels, network, quiet, train, weights
from tests.mixins.updates import numpy_run, old_net, old_network
from tests.oracles import filter_kd as oracle


class Student(Distillation, LitNet):
    """Distillation in front of a user's module."""


def kd_term(temperature=1.0, weight=1.0):
    teacher, x, y = old_net(), inputs(), labels(K)

    def term(index, logits, hidden):
        said = teacher.forward(x[index])
        losses, gradient = oracle.distillation(logits, said, y[index], temperature, weight)
        plain, plain_gradient = oracle.distillation(logits, said, y[index], 1.0, 0.0)
        return losses - plain, gradient - plain_gradient, np.zeros_like(hidden)

    return term


@pytest.mark.parametrize(("temperature", "weight"), [(0.5, 0.4), (10.0, 1.0), (1.0, 2.0)])
def test_a_run_is_the_numpy_loop(temperature, weight):
    """tests/sweep has the defaults, which are 1."""
    model = Student(network(), reference=old_network(), kd_temperature=temperature, kd_weight=weight)
    assert differences(model, train(model, data()), numpy_run(kd_term(temperature, weight))) == []


def test_weight_zero_loads_no_teacher_and_is_training_without_one_bit_for_bit():
    plain, model = LitNet(network()), Student(network(), reference="nowhere.ckpt", kd_weight=0.0)
    assert train(model, data()).losses == train(plain, data()).losses
    assert all((weights(plain)[name] == value).all() for name, value in weights(model).items())


def test_the_teacher_is_not_trained_and_in_no_checkpoint():
    teacher = old_network()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    model = Student(network(), reference=teacher)
    train(model, data())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert set(model.state_dict()) == set(LitNet(network()).state_dict())


def test_a_larger_teacher_from_its_checkpoint():
    x, y = torch.from_numpy(inputs()).float(), torch.from_numpy(labels(3))
    batches = DataLoader(TensorDataset(x, y), batch_size=8)
    teacher = DistillationClassifier(MLP(5, 3, hidden=(64, 64)), num_classes=3, kd_weight=0.0)
    trainer = quiet(max_epochs=2)
    trainer.fit(teacher, batches, batches)
    torch.save(teacher.network.state_dict(), "teacher.pt")
    options = {"reference": "teacher.pt", "reference_network": MLP(5, 3, hidden=(64, 64)), "kd_temperature": 2.0}
    model = DistillationClassifier(MLP(5, 3, hidden=(16,)), num_classes=3, **options)
    with torch.no_grad():
        said, answered = teacher.network.eval()(x[:8]), model.network(x[:8])
    expected, _ = oracle.distillation(answered.numpy(), said.numpy(), y[:8].numpy(), 2.0)
    recorder = Recorder()
    quiet(max_epochs=20, callbacks=[recorder]).fit(model, batches, batches)
    assert recorder.losses[0] == pytest.approx(expected.mean(), rel=1e-5)
    assert recorder.losses[-1] < recorder.losses[0]


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="the teacher has 3 classes, the student's logits have 4"):
        train(Student(network(), reference=old_network(3)), data())
    with pytest.raises(ValueError, match="old_classes"):
        Student(network(), reference=old_network(3), old_classes=[0, 1, 2])
    with pytest.raises(ValueError, match="Pass reference="):
        train(Student(network()), data())


@pytest.mark.parametrize("options", [{"kd_temperature": -1.0}, {"kd_weight": -0.5}, {"kd_weight": float("nan")}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Student(network(), reference=old_network(), **options)
