"""Smoothed and corrected students, of a file and of a teacher that answers, through a real Trainer against numpy."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import Distillation, ForwardCorrection, LabelSmoothing, SoftTargets
from lightning_flip.models import MLP
from lightning_flip.modules import DistillationClassifier
from lightning_flip.stores import dataset_fingerprint, write_soft_targets, write_transition
from tests.mixins.helpers import K, LitNet, N, data, differences, inputs, labels, network, train, weights
from tests.mixins.updates import Term, numpy_run, old_net, old_network
from tests.oracles import noisy_students as oracle
from tests.oracles import smearing
from tests.oracles.retrospection import Floats

FILE = "teacher.safetensors"


class OfAFile(SoftTargets, LitNet):
    """Soft targets in front of a user's module."""


class OfATeacher(Distillation, LitNet):
    """Distillation in front of it."""


class Smoothed(LabelSmoothing, LitNet):
    """No teacher."""


class Corrected(ForwardCorrection, LitNet):
    """No teacher."""


def skewed(k: int = K) -> Floats:
    noise = np.random.default_rng(5).random((k, k))
    return 0.6 * np.eye(k) + 0.4 * noise / noise.sum(axis=1, keepdims=True)


def rows() -> Floats:
    """Multiples of 1/64, which float32 holds exactly; the first two classes of every row are 0 for some samples."""
    counts = np.random.default_rng(11).multinomial(64, np.ones(K) / K, size=N)
    counts[: N // 2, 0] += counts[: N // 2, 1]
    counts[: N // 2, 1] = 0
    return counts / 64


def write(probs: Floats | None = None, visited: Any = None) -> None:
    facts = {"dataset_fingerprint": dataset_fingerprint(labels(K)), "labels": "dataset"}
    target = labels(K) if visited is None else np.where(visited, labels(K), -1)
    probs = rows() if probs is None else probs
    write_soft_targets(FILE, probs.astype(np.float32), visited, facts, target=target, overwrite=True)


def student(kind: Any, **options: Any) -> Any:
    source: dict[str, Any] = {"targets": FILE} if kind is OfAFile else {"reference": old_network()}
    return kind(network(), **{**source, **options})


def single(kind: Any, **options: Any) -> Any:
    """A student in single precision, and its teacher."""
    source: dict[str, Any] = {"targets": FILE} if kind is OfAFile else {"reference": old_network().float()}
    return kind(network().float(), **source, **options)


def kd_term(kind: Any, temperature: float = 1.0, weight: float = 1.0, **treated: Any) -> Term:
    """What is added to CE, and its gradient, sample by sample."""
    y, x, teacher, stored = labels(K), inputs(), old_net(), rows()

    def term(index: Any, logits: Floats, hidden: Floats) -> tuple[Floats, Floats, Floats]:
        said, teacher_is = (stored[index], "probs") if kind is OfAFile else (teacher.forward(x[index]), "logits")
        losses, gradient = oracle.distillation(logits, said, y[index], temperature, weight, teacher_is, **treated)
        plain, plain_gradient = oracle.distillation(logits, said, y[index], 1.0, 0.0, teacher_is)
        return losses - plain, gradient - plain_gradient, np.zeros_like(hidden)

    return term


students = pytest.mark.parametrize("kind", [OfAFile, OfATeacher])
# The options of a mixin, and what they are to the oracle.
TREATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smoothed": ({"kd_smoothing": 0.3}, {"smoothing": 0.3}),
    "corrected": ({"kd_correction_alpha": 0.3}, {"transition": smearing.smoothing(K, 0.3)}),
    "corrected by T": ({"kd_transition": skewed().tolist()}, {"transition": skewed()}),
}
treatments = pytest.mark.parametrize("treated", TREATED.values(), ids=TREATED)


@pytest.fixture(autouse=True)
def soft_targets() -> None:
    write()


# -- the loss ------------------------------------------------------------------------------------------------


@students
@treatments
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (0.5, 0.4), (4.0, 0.0)], ids=str)
def test_a_run_is_the_numpy_loop(kind: Any, temperature: float, weight: float, treated: Any) -> None:
    options, known = treated
    model = student(kind, kd_temperature=temperature, kd_weight=weight, **options)
    trace = numpy_run(kd_term(kind, temperature, weight, **known))
    assert differences(model, train(model, data()), trace) == []


@students
def test_the_transition_may_come_from_a_file(kind: Any, tmp_path: Path) -> None:
    """test_loss_correction has every kind of file."""
    write_transition(tmp_path / "T.npz", skewed(), condition_number=2.0)
    model = student(kind, kd_transition=str(tmp_path / "T.npz"))
    assert differences(model, train(model, data()), numpy_run(kd_term(kind, transition=skewed()))) == []


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_samples_without_a_teacher_are_treated_as_labels(temperature: float) -> None:
    visited = np.arange(N) % 3 > 0
    write(np.where(visited[:, None], rows(), 0.0), visited)
    for options, known in TREATED.values():
        teacher, alone = (kd_term(OfAFile, temperature, weight, **known) for weight in (1.0, 0.0))

        def term(index: Any, logits: Floats, hidden: Floats, parts: Any = (teacher, alone)) -> Any:
            pairs = zip(*(part(index, logits, hidden) for part in parts), strict=True)
            return tuple(np.where(visited[index].reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs)

        model = student(OfAFile, unvisited="cross_entropy", kd_temperature=temperature, **options)
        assert differences(model, train(model, data()), numpy_run(term)) == []


@pytest.mark.filterwarnings("ignore:.* softens the target, and the batches bring distributions")
@students
@treatments
def test_mixed_targets_are_treated_like_labels(kind: Any, treated: Any) -> None:
    options, known = treated
    y = torch.rand(N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    x, said = torch.from_numpy(inputs()), rows() if kind is OfAFile else old_net().forward(inputs())
    logits = network()(x).detach().numpy()
    teacher_is = "probs" if kind is OfAFile else "logits"
    expected, _ = oracle.distillation(logits, said, y.numpy(), 2.0, 0.4, teacher_is, **known)
    write_soft_targets(FILE, rows().astype(np.float32), overwrite=True)  # of data whose labels nobody can compare
    model = student(kind, kd_temperature=2.0, kd_weight=0.4, **options)
    batches = DataLoader(TensorDataset(x, y), batch_size=N)
    if kind is OfAFile:
        with pytest.warns(UserWarning, match="cannot be compared"):
            recorder = train(model, batches, max_epochs=1)
    else:
        recorder = train(model, batches, max_epochs=1)
    assert recorder.losses == pytest.approx([expected.mean()], abs=1e-12)


# -- identities ----------------------------------------------------------------------------------------------


def trained(model: Any) -> tuple[list[float], dict[str, Floats]]:
    losses = train(model, data()).losses
    return losses, weights(model)


@students
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_no_smoothing_is_bit_for_bit_the_plain_student_and_no_noise_is_it_too(kind: Any, weight: float) -> None:
    losses, plain = trained(student(kind, kd_weight=weight))
    same, found = trained(student(kind, kd_weight=weight, kd_smoothing=0.0, kd_transition=None))
    assert same == losses
    assert all((found[name] == value).all() for name, value in plain.items())
    for options in ({"kd_correction_alpha": 0.0}, {"kd_transition": np.eye(K).tolist()}):
        same, found = trained(student(kind, kd_weight=weight, **options))
        assert same == pytest.approx(losses, abs=1e-12)
        assert all(found[name] == pytest.approx(value, abs=1e-12) for name, value in plain.items())


@pytest.mark.parametrize("weight", [1.0, 0.4, 0.0])
def test_one_hot_targets_make_label_smoothing_and_forward_correction(weight: float) -> None:
    write(np.eye(K)[labels(K)])
    pairs = [
        ({"kd_smoothing": 0.3}, Smoothed(network(), smoothing=0.3)),
        ({"kd_correction_alpha": 0.3}, Corrected(network(), correction_alpha=0.3)),
        ({"kd_transition": skewed().tolist()}, Corrected(network(), transition=skewed().tolist())),
    ]
    for options, without in pairs:
        losses, expected = trained(without)
        same, found = trained(student(OfAFile, kd_weight=weight, **options))
        assert same == pytest.approx(losses, abs=1e-12)
        assert all(found[name] == pytest.approx(value, abs=1e-12) for name, value in expected.items())


@treatments
def test_without_weight_nothing_is_read_and_a_plain_student_is_off(treated: Any) -> None:
    for kind, source in ((OfAFile, {"targets": "nowhere"}), (OfATeacher, {"reference": "nowhere"})):
        losses, _ = trained(student(kind, **source, kd_weight=0.0))
        assert losses == trained(LitNet(network()))[0]
        treated_losses, _ = trained(student(kind, **source, kd_weight=0.0, **treated[0]))
        assert treated_losses != losses
        off, _ = trained(student(kind, term_weight=0.0, **treated[0]))
        assert off == losses


# -- the loop ------------------------------------------------------------------------------------------------


@students
def test_a_corrected_student_and_forward_correction_are_two_corrections(kind: Any) -> None:
    class Both(kind.__bases__[0], ForwardCorrection, LitNet):  # type: ignore[misc]
        """A student of corrected labels."""

    Both(network(), kd_smoothing=0.1)
    with pytest.raises(ValueError, match=rf"ForwardCorrection and {kind.__bases__[0].__name__} both correct the loss"):
        Both(network(), kd_transition=skewed().tolist(), correction_alpha=0.2)


def test_copies_pickles_and_plain_hyperparameters() -> None:
    matrix = torch.from_numpy(skewed(3))
    model = DistillationClassifier(MLP(4, 3), num_classes=3, kd_transition=matrix)
    assert "kd_transition" not in model.hparams["mixin_options"]  # a tensor is no plain value
    assert model.hparams["mixin_options"]["kd_smoothing"] == 0.0
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin._mixin.kd_correction.matrix, matrix, rtol=0, atol=0)
    assert not any("correction" in name for name in model.state_dict())


# -- what is refused -----------------------------------------------------------------------------------------

NEVER = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]


@students
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kd_smoothing": -0.1}, r"kd_smoothing must be in \[0, 1\); got -0.1"),
        ({"kd_smoothing": 1.0}, r"kd_smoothing must be in \[0, 1\)"),
        ({"kd_smoothing": math.nan}, r"kd_smoothing must be in \[0, 1\)"),
        ({"kd_correction_alpha": 1.0}, r"kd_correction_alpha must be in \[0, 1\); got 1.0"),
        ({"kd_correction_alpha": -0.1}, r"kd_correction_alpha must be in \[0, 1\)"),
        ({"kd_smoothing": 0.1, "kd_correction_alpha": 0.1}, "not both; got kd_smoothing=0.1 and kd_correction_alpha"),
        ({"kd_smoothing": 0.1, "kd_transition": "T.npy"}, "not both; got kd_smoothing=0.1 and kd_transition"),
        ({"kd_correction_alpha": 0.1, "kd_transition": "T.npy"}, "give kd_correction_alpha= .* or kd_transition=, not"),
        ({"kd_transition": "estimate"}, 'kd_transition="estimate" is not for students.*TransitionEstimator'),
        ({"kd_transition": [[0.9, 0.2], [0.0, 1.0]]}, r"kd_transition\[true, noisy\] must have rows that sum to 1"),
        ({"kd_transition": [[1.5, -0.5], [0.0, 1.0]]}, "kd_transition holds probabilities"),
        ({"kd_transition": [[0.5, 0.5]]}, r"kd_transition\[true, noisy\] must be square"),
        ({"kd_transition": [0.5, 0.5]}, r"kd_transition must be a matrix \[K, K\]; got the shape \(2,\)"),
        ({"kd_transition": [[0.5, 0.5], [1.0]]}, "kd_transition must be a matrix of numbers"),
        ({"kd_transition": NEVER}, "kd_transition labels no class 2"),
    ],
)
def test_options_out_of_range_are_named(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(kind, **options)


@students
def test_a_transition_of_other_classes_is_an_error(kind: Any) -> None:
    with pytest.raises(ValueError, match="the kd_transition is of 3 classes, the logits are of 4"):
        train(student(kind, kd_transition=skewed(3).tolist()), data())


@students
def test_a_file_is_read_when_a_fit_begins(kind: Any, tmp_path: Path) -> None:
    model = student(kind, kd_transition=tmp_path / "T.npy")  # a model that is only loaded needs no file
    refused: list[tuple[Callable[[], Any], Any, str]] = [
        (lambda: None, FileNotFoundError, r"no file .*T\.npy"),
        (lambda: np.save(tmp_path / "T.npy", 2 * skewed()), ValueError, r"kd_transition.* rows that sum to 1"),
        (lambda: np.save(tmp_path / "T.npy", np.array(NEVER)), ValueError, "kd_transition labels no class 2"),
    ]
    for prepare, error, message in refused:
        prepare()
        with pytest.raises(error, match=message):
            train(model, data())


@students
def test_rounding_to_single_precision_refuses_no_transition_that_was_taken(kind: Any) -> None:
    T = skewed() * (1 + 0.999e-6)  # within the tolerance, and hardly
    tensors = TensorDataset(torch.from_numpy(inputs()).float(), torch.from_numpy(labels(K)))
    for sign in (1, -1):
        rounded = torch.from_numpy(skewed() + sign * (T - skewed()))
        train(single(kind, kd_transition=rounded), DataLoader(tensors, batch_size=8), max_epochs=1)
