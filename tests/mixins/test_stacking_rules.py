"""What is refused, and what is said, where methods stand in one class or batches bring distributions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.mixins import (
    BackwardCompatible,
    BackwardCorrection,
    ConfidencePenalty,
    Distillation,
    EarlyLearningRegularization,
    FlippingErrorReduction,
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
    TeacherFreeRegularization,
)
from lightning_flip.stores import write_soft_targets
from tests.mixins.helpers import K, LitNet, N, data, inputs, labels, network, quiet, train
from tests.mixins.methods import every_method, made, written
from tests.mixins.updates import old_network


def stacked(*methods: Any, module: Any = LitNet) -> Any:
    return type("Stack", (*methods, module), {})


def said(model: Any, batches: Any = None, **options: Any) -> list[str]:
    """What a short fit warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet(**{"max_epochs": 1} | options).fit(model, data() if batches is None else batches)
    found = [str(warning.message) for warning in caught]
    return [text for text in found if text.startswith(f"{type(model).__name__}: ")]


def distributions(classes: int = K) -> Tensor:
    return torch.from_numpy(inputs(N, 4)[:, :classes]).softmax(dim=1)


def soft_batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.from_numpy(inputs()), distributions()), batch_size=8)


# -- two corrections ------------------------------------------------------------------------------------------


class Mine(ForwardCorrection):
    """A method that refines another one."""


class Other(LossTerm):
    """Somebody's own correction."""

    corrects_noise = True


@pytest.mark.parametrize("pair", [(ForwardCorrection, BackwardCorrection), (Mine, BackwardCorrection), (Other, Mine)])
@pytest.mark.parametrize("module", [LitNet, object])
def test_two_corrections_are_refused_when_the_class_is_defined(pair: Any, module: Any) -> None:
    for order in (pair, pair[::-1]):
        first, second = (method.__mro__[1].__name__ if method is Mine else method.__name__ for method in order)
        with pytest.raises(TypeError, match=f"Stack: {first} and {second} both correct.*Use one of them"):
            stacked(*order, module=module)


def test_a_correction_that_is_refined_is_one() -> None:
    class Finer(Mine):
        corrects_noise = True

    class Off(Other):
        corrects_noise = False

    assert train(stacked(Finer)(network()), data(), max_epochs=1).losses
    assert issubclass(stacked(Off, ForwardCorrection), ForwardCorrection)


class Sometimes(LossTerm):
    """Corrects, if an option says so."""

    def __init__(self, *args: Any, corrected: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if corrected:
            self.declare_correction(Sometimes)


def test_an_instance_can_say_that_it_corrects() -> None:
    for order in ((Sometimes, ForwardCorrection), (ForwardCorrection, Sometimes)):
        kind = stacked(*order)
        kind(network())
        with pytest.raises(ValueError, match="Stack: ForwardCorrection and Sometimes both correct the loss"):
            kind(network(), corrected=True)
    stacked(Sometimes)(network(), corrected=True)
    stacked(Sometimes)(network(), corrected=True)  # each by itself


# -- a stack that pulls twice ---------------------------------------------------------------------------------


@every_method
def test_a_method_says_of_itself_whether_it_takes_the_place_of_cross_entropy(method: Any) -> None:
    """The label's probability goes to 0: what replaces a share of cross entropy then subtracts without end."""
    x = torch.eye(K, dtype=torch.float64).repeat(6, 1)
    batches = DataLoader(TensorDataset(x, torch.arange(K).repeat(6)), batch_size=8)
    probs = np.random.default_rng(0).dirichlet(np.ones(K), size=len(x))
    write_soft_targets("teacher.safetensors", probs, target=np.arange(len(x)) % K)

    class Notes(method, LitNet):  # type: ignore[misc]
        def regularized(self, loss: Tensor) -> Tensor:
            total = super().regularized(loss)
            self.added.append(float((total - loss).detach()))
            return total

    old = nn.Linear(K, K).double()
    old.weight.data.copy_(torch.from_numpy(np.random.default_rng(1).normal(size=(K, K))))
    options: dict[str, Any] = {
        SoftTargets: {"targets": "teacher.safetensors"},
        SelfAdaptiveTraining: {"sat_warmup": 0},
        LearningWithRetrospection: {"lwr_interval": 1},
        TeacherFreeRegularization: {"tf_multiplier": K},  # as its docstring says of a mean over K classes
        FlippingErrorReduction: {"restrict": "all"},  # no sample is ever right
    }.get(method, {"reference": old} if issubclass(method, ReferencedLoss) else {})
    added = []
    for depth in (40.0, 80.0):
        net = nn.Linear(K, K, bias=False).double()
        net.weight.data = -depth * torch.eye(K, dtype=torch.float64)
        model = Notes(net, 0.0, **options)
        model.added = []
        quiet(max_epochs=4).fit(model, batches)
        added.append(float(np.mean(model.added[-len(batches) :])))
    slope = (added[1] - added[0]) / 40  # for each nat of the label's cross entropy
    assert bool(Notes.replacing_methods()) == (slope < -0.01), slope
    assert slope < -0.01 or slope > -1e-6


REPLACING = "ForwardCorrection, SelfAdaptiveTraining each take the place of cross entropy.* term_weight=0.5"


def test_two_that_take_the_place_of_cross_entropy_warn_once() -> None:
    kind = stacked(ForwardCorrection, SelfAdaptiveTraining)
    assert said(made(kind, term_weight=0.5)) == []
    with pytest.warns(UserWarning, match=REPLACING):
        quiet(max_epochs=1).fit(made(kind), data())
    assert said(made(kind)) == []
    assert len(said(made(stacked(ForwardCorrection, SelfAdaptiveTraining), term_weight=0.51))) == 1


def test_what_soften_and_replace_are_said_in_one_warning() -> None:
    kind = stacked(LabelSmoothing, ConfidencePenalty, FlippingErrorReduction, BackwardCorrection)
    (text,) = said(made(kind))
    assert "LabelSmoothing, ConfidencePenalty, FlippingErrorReduction each soften the target" in text
    assert "LabelSmoothing, FlippingErrorReduction, BackwardCorrection each take the place" in text
    assert "term_weight=0.33," in text
    assert said(made(stacked(*kind.__bases__[:-1]), term_weight=0.33)) == []


def test_what_only_adds_to_cross_entropy_stands_beside_anything() -> None:
    stack = stacked(BackwardCompatible, NaivePositiveCongruent, EarlyLearningRegularization, BackwardCorrection)
    assert said(made(stack)) == []


def test_a_subclass_counts_once_and_may_take_back_what_its_parent_said() -> None:
    class Finer(LabelSmoothing):
        softens_target = True

    class Sharper(LabelSmoothing):
        softens_target = False
        replaces_cross_entropy = False

    assert stacked(Finer).softening_methods() == ["Finer"]
    assert said(made(stacked(Finer))) == []
    assert said(made(stacked(Sharper, FlippingErrorReduction))) == []


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_what_is_warned_of_does_happen_and_the_advice_helps(weight: float) -> None:
    """Noisy labels: the stack of two that each work drives logits away, the mean of the two does not."""
    rng = np.random.default_rng(0)
    true = rng.integers(K, size=200)
    noisy = np.where(rng.random(200) < 0.3, (true + rng.integers(1, K, 200)) % K, true)
    x = 2 * np.eye(K)[true] + rng.normal(size=(200, K))
    batches = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(noisy)), batch_size=50)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(K, 32), nn.ReLU(), nn.Linear(32, K)).double()
    options = {"correction_alpha": 0.4, "sat_warmup": 2}
    model = stacked(ForwardCorrection, SelfAdaptiveTraining)(net, 0.2, term_weight=weight, **options)
    assert len(said(model, batches, max_epochs=25)) == (weight == 1)
    logits = net(torch.from_numpy(x)).detach()
    accuracy = float((logits.argmax(dim=1).numpy() == true).mean())
    assert (float(logits.abs().max()) > 100, accuracy > 0.8) == ((True, False) if weight == 1 else (False, True))


# -- batches that bring distributions -------------------------------------------------------------------------

SAID_OF_DISTRIBUTIONS = r"soften(s)? the target, and the batches bring distributions, float \[B, K\]"
SOFTENING = [
    LabelSmoothing,
    ConfidencePenalty,
    SnapshotDistillation,
    Distillation,
    SoftTargets,
    Mixup,
    PairwiseLabelSmoothing,
]


@pytest.mark.parametrize("method", SOFTENING)
def test_a_method_that_softens_distributions_says_so_once(method: Any) -> None:
    kind = stacked(method)
    with pytest.warns(UserWarning, match=f"Stack: {method.__name__} {SAID_OF_DISTRIBUTIONS}.*MixUp.*votes.*leave out"):
        quiet(max_epochs=1).fit(made(kind), soft_batches())
    assert said(made(kind), soft_batches()) == []
    assert len(said(made(stacked(method)), soft_batches())) == 1  # another class


@pytest.mark.parametrize("method", SOFTENING)
def test_what_a_method_mixes_itself_is_nothing_that_it_was_brought(method: Any) -> None:
    assert said(made(stacked(method))) == []


@pytest.mark.parametrize("method", [ForwardCorrection, BackwardCorrection])
def test_a_correction_takes_distributions_as_they_are(method: Any) -> None:
    assert said(made(stacked(method)), soft_batches()) == []


def test_the_names_of_all_that_soften_are_said_and_weight_zero_says_nothing() -> None:
    kind = stacked(Mixup, LabelSmoothing, ForwardCorrection)
    assert said(made(kind, term_weight=0.0), soft_batches()) == []
    both, soft = said(made(kind), soft_batches())
    assert "each soften" in both
    assert soft.startswith("Stack: Mixup, LabelSmoothing soften the target, and the batches")


def test_the_first_batch_of_distributions_is_enough() -> None:
    def sometimes(samples: Any) -> Any:
        x, y, q = torch.utils.data.default_collate(samples)
        return x, q if float(x[0, 0]) == inputs()[16, 0] else y

    tensors = TensorDataset(torch.from_numpy(inputs()), torch.from_numpy(labels(K)), distributions())
    for method in (LabelSmoothing, Mixup):
        batches = DataLoader(tensors, batch_size=8, collate_fn=sometimes)
        assert said(made(stacked(method)), batches, limit_train_batches=2) == []
        assert len(said(made(stacked(method)), batches)) == 1


def test_a_method_that_refuses_distributions_refuses_them() -> None:
    """With warnings as errors, a warning before it would hide the error."""
    with pytest.raises(TypeError, match="needs class labels"):
        train(made(stacked(LabelSmoothing, FlippingErrorReduction), term_weight=0.5), soft_batches())


# -- beside a method that mixes -------------------------------------------------------------------------------


def losses(kind: Any, **options: Any) -> list[float]:
    return train(made(kind, **options), data(), max_epochs=2).losses


@pytest.mark.filterwarnings("ignore:.* each ")
@pytest.mark.parametrize("mixer", [Mixup, PairwiseLabelSmoothing])
@pytest.mark.parametrize(
    "method", [ForwardCorrection, BackwardCorrection, LabelSmoothing, ConfidencePenalty, SnapshotDistillation]
)
def test_labels_for_the_module_are_none_for_the_methods_beside_it(mixer: Any, method: Any) -> None:
    soft, hard = (
        losses(stacked(*order), mixed_targets=given)
        for order, given in (((mixer, method), "distributions"), ((method, mixer), "labels"))
    )
    assert hard == pytest.approx(soft, abs=1e-12)
    assert hard != pytest.approx(losses(stacked(mixer), mixed_targets="labels"), abs=1e-4)


@pytest.mark.parametrize("given", ["distributions", "labels"])
@pytest.mark.parametrize("mixer", [Mixup, PairwiseLabelSmoothing])
def test_a_mixture_has_no_single_right_class_whatever_the_module_is_given(mixer: Any, given: Any) -> None:
    kind = stacked(NaivePositiveCongruent, mixer)
    with pytest.raises(TypeError, match="needs class labels"):
        losses(kind, mixed_targets=given)


@pytest.mark.filterwarnings("ignore:.* each ")
@pytest.mark.parametrize("mixer", [Mixup, PairwiseLabelSmoothing])
def test_rows_of_single_samples_are_none_of_mixtures(mixer: Any) -> None:
    for order in ((SoftTargets, mixer), (mixer, SoftTargets)):
        with pytest.raises(TypeError, match=rf"{written(K)} has soft targets for each .*{mixer.__name__} has mixed"):
            losses(stacked(*order))
        losses(stacked(*order), kd_weight=0.0)
    np.save("old.npy", old_network()(torch.from_numpy(inputs())).detach().numpy())
    kind = stacked(Distillation, mixer)
    with pytest.raises(TypeError, match=rf"old\.npy.* has logits for each single sample, and {mixer.__name__}"):
        train(kind(network(), reference="old.npy"), data())
    assert np.isfinite(losses(kind)).all()  # a model answers to mixtures as well
