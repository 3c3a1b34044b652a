"""Mixed and paired batches in every form of batch and module; and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections import namedtuple
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_flip.callbacks import FlipTracker
from lightning_flip.mixins import (
    BatchMixing,
    ClassWiseSelfDistillation,
    FlippingErrorReduction,
    Mixup,
    PairwiseLabelSmoothing,
)
from lightning_flip.models import MLP, Classifier
from lightning_flip.steps.logits.capture import classifier_layer
from lightning_flip.steps.targets import input_place, target_place, with_part
from tests.mixins.helpers import K, LitNet, Recorder, network, quiet
from tests.mixins.pairing import Consistent, Mixed, Notes, Paired, points, shuffled
from tests.mixins.test_neutral import Plain, identical, plain, trained

METHODS = [PairwiseLabelSmoothing, Mixup, ClassWiseSelfDistillation]
MIXING = [PairwiseLabelSmoothing, Mixup]
every = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
mixing = pytest.mark.parametrize("method", MIXING, ids=lambda method: method.__name__)


def before(method: Any, module: Any) -> Any:
    return type(method.__name__, (method, module), {})


def fitted(model: Any, data: Any = None, **options: Any) -> Any:
    quiet(**{"max_epochs": 2} | options).fit(model, shuffled() if data is None else data)
    return model


def numbers(model: Any) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


# -- random numbers, weight zero ---------------------------------------------------------------------------


@every
def test_a_term_of_weight_zero_is_off_beside_workers(method: Any) -> None:
    """tests/sweep has it without workers."""
    assert identical(trained(before(method, Plain), 2, term_weight=0.0), plain(2))


@every
def test_off_and_on_leave_the_random_state_and_the_networks_start(method: Any) -> None:
    starts = []
    for kind in (LitNet, before(method, LitNet)):
        torch.manual_seed(0)
        model = kind(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
        starts.append([*(value.clone() for value in model.net.state_dict().values()), torch.rand(3)])
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        data = TensorDataset(torch.rand(12, 4, generator=torch.Generator()), torch.arange(12) % 3)
        fitted(model, DataLoader(data, batch_size=5, shuffle=True))
        drawn = [torch.rand(3), random.random(), float(np.random.rand())]  # noqa: NPY002
        starts[-1] += [torch.as_tensor(value) for value in drawn]
    assert all(one.equal(other) for one, other in zip(*starts, strict=True))


def test_the_second_head_starts_by_seed_and_network() -> None:
    heads = []
    for seed, first in ((0, 0), (0, 0), (1, 0), (0, 1)):
        torch.manual_seed(first)
        net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        torch.manual_seed(seed)
        heads.append(before(PairwiseLabelSmoothing, LitNet)(net).smoothing_head.weight.detach())
    same = [one.equal(heads[0]) for one in heads]
    assert same == [True, True, False, False]
    assert heads[0].abs().max() <= 8**-0.5  # nn.Linear's own start
    assert heads[0].std() > 0.1


@every
def test_an_optimizer_that_runs_a_step_several_times_always_sees_the_same(method: Any) -> None:
    class Twice(Notes):
        """Evaluates every step again with the same weights."""

        def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, optimizer_closure: Any = None) -> None:
            self.seen: list[Tensor] = getattr(self, "seen", [])
            self.seen += [optimizer_closure().detach(), optimizer_closure().detach()]
            optimizer.step()

    model = fitted(before(method, Twice)(network()))
    assert len(model.seen) == 20
    assert all(one.equal(other) for one, other in zip(model.seen[::2], model.seen[1::2], strict=True))


@mixing
def test_a_batch_of_one_is_mixed_with_itself(method: Any) -> None:
    model = fitted(before(method, Notes)(network()), shuffled(batch_size=1), max_epochs=1)
    for notes in model.given:
        np.testing.assert_allclose(notes["mixed"][0], notes["original"][0], rtol=1e-15)


# -- forms of a batch --------------------------------------------------------------------------------------

Named = namedtuple("Named", ["image", "label"])


@dataclasses.dataclass
class Record:
    x: Any
    y: Any


FORMS: dict[str, Any] = {
    "list": lambda x, y: [x, y],
    "longer": lambda x, y: (x, y, ["name"] * len(x)),
    "dict": lambda x, y: {"image": x, "label": y, "name": ["name"] * len(x)},
    "named": Named,
    "nested": lambda x, y: ({"first": x, "second": [x]}, y),
    "column": lambda x, y: (x, y[:, None]),
}


class AnyForm(LitNet):
    """Takes its parts out of any of the forms."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if isinstance(batch, dict):
            return F.cross_entropy(self(batch["image"]), batch["label"])
        x, y, *_ = batch
        x = (x["first"] + x["second"][0]) / 2 if isinstance(x, dict) else x
        return F.cross_entropy(self(x), y[:, 0] if y.shape[1:] == (1,) else y)


def formed(form: str) -> DataLoader[Any]:
    def collate(samples: Any) -> Any:
        x, y = torch.utils.data.default_collate(samples)
        return FORMS[form](x, y)

    return shuffled(collate_fn=collate)


@every
@pytest.mark.parametrize("form", [form for form in FORMS if form != "nested"])
def test_every_form_of_batch_trains_the_same(method: Any, form: str) -> None:
    assert numbers(fitted(before(method, AnyForm)(network()), formed(form))).equal(of_tuples(method))


@functools.cache
def of_tuples(method: Any) -> Tensor:
    return numbers(fitted(before(method, LitNet)(network())))


@mixing
def test_all_tensors_of_nested_inputs_are_mixed_alike(method: Any) -> None:
    expected = fitted(before(method, LitNet)(network()))
    nested = fitted(before(method, AnyForm)(network()), formed("nested"))
    assert numbers(nested).allclose(numbers(expected), rtol=1e-12)


def test_places_in_a_batch() -> None:
    record, named = Record(1, 2), Named(1, 2)
    assert (input_place(record), target_place(record), input_place(named), target_place(named)) == (
        "x",
        "y",
        "image",
        "label",
    )
    assert with_part(record, "y", 5) == Record(1, 5)
    assert record == Record(1, 2)
    assert with_part(named, "label", 5) == with_part(named, 1, 5) == Named(1, 5)
    assert (input_place([1, 2], "a"), target_place({}, 3)) == ("a", 3)
    with pytest.raises(TypeError, match="input_from is a function"):
        input_place((1, 2), lambda batch: batch[0])
    with pytest.raises(TypeError, match=r"cannot tell where the batch, a dict with a, b, keeps what target_from"):
        target_place({"a": 1, "b": 2})


@every
def test_of_several_loaders_one_is_followed(method: Any) -> None:
    class Both(LitNet):
        """Trains on one of two loaders."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, _ = batch["other"]
            assert {tuple(row) for row in x.tolist()} <= EVERY
            return F.cross_entropy(self(batch["mine"][0]), batch["mine"][1])

    loaders = {"other": shuffled(batch_size=3, seed=5), "mine": shuffled()}
    model = before(method, Both)(network(), loader="mine")
    combined = pl.utilities.CombinedLoader(loaders, "min_size")
    assert numbers(fitted(model, combined)).equal(numbers(fitted(before(method, LitNet)(network()))))


EVERY = {tuple(row) for row in points().tensors[0].tolist()}


# -- what the module and others get ------------------------------------------------------------------------


class Hard(LitNet):
    """A module that cannot take distributions: it measures its accuracy."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0])
        self.log("accuracy", (logits.argmax(dim=1) == batch[1]).double().mean())
        return F.cross_entropy(logits, batch[1])


@mixing
def test_a_module_that_needs_labels_gets_them_and_the_loss_is_the_same(method: Any) -> None:
    soft = fitted(before(method, LitNet)(network()))
    hard = fitted(before(method, Hard)(network(), mixed_targets="labels"))
    assert numbers(hard).allclose(numbers(soft), rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        fitted(before(method, Hard)(network()))
    assert any('pass mixed_targets="labels"' in note for note in caught.value.__notes__)


class Binary(pl.LightningModule):
    """One logit."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].double())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@mixing
def test_a_module_with_one_logit(method: Any) -> None:
    kind = before(method, Binary)
    with pytest.raises(ValueError, match=r'one logit cannot take distributions \[B, 2\]\. Pass mixed_targets="labels"'):
        kind()
    model = kind(mixed_targets="labels")
    assert model.smoothing_head.weight.shape == (2, 5) if method is PairwiseLabelSmoothing else True
    assert numbers(fitted(model, shuffled(2))).isfinite().all()


@pytest.mark.filterwarnings("ignore:.* softens the target, and the batches bring distributions")
def test_distributions_of_the_loader_are_mixed_further() -> None:
    x, y = points().tensors
    soft = TensorDataset(x, F.one_hot(y, K).double())
    for kind in (Paired, Mixed):
        model = fitted(kind(network()), DataLoader(soft, batch_size=8))
        assert numbers(model).equal(numbers(fitted(kind(network()), DataLoader(points(), batch_size=8))))


@mixing
def test_callbacks_on_training_data_say_once_that_they_do_not_follow(method: Any, recwarn: Any) -> None:
    fitted(before(method, LitNet)(network()), callbacks=[FlipTracker(train=True)])
    said = [str(warning.message) for warning in recwarn if "FlipTracker does not follow them" in str(warning.message)]
    assert said == [said[0]]
    assert "no single right class" in said[0]


def test_original_batches_come_as_they_are() -> None:
    same: list[bool] = []

    class Look(LitNet):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.batch = batch

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            same.append(batch is self.batch)
            return super().training_step(batch, batch_idx)

    fitted(before(PairwiseLabelSmoothing, Look)(network()), max_epochs=2)
    assert same == [True, False] * 5


@every
def test_half_a_weight_is_half_the_difference(method: Any) -> None:
    losses = []
    for weight in (0.5, 1.0):
        model = before(method, Notes)(network(), lr=0.0, term_weight=weight)
        recorder = Recorder()
        fitted(model, callbacks=[recorder], max_epochs=1)
        losses.append(np.array(recorder.losses))
    net = network()
    plain = [
        F.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y)).item()
        for x, y in (notes["mixed"] for notes in model.given)
    ]
    np.testing.assert_allclose(losses[0] - plain, (losses[1] - plain) / 2, rtol=0, atol=1e-12)
    assert np.allclose(losses[1], plain) == (method is Mixup)  # Mixup's loss is the module's own on mixed batches


@pytest.mark.parametrize("softened", [True, False])
def test_a_loss_that_is_none_on_mixed_batches_is_noticed(softened: bool) -> None:
    class Odd(LitNet):
        """Takes the likeliest class of a mixed target."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return F.cross_entropy(self(x), y.argmax(dim=1) if softened and y.ndim == 2 else y)

    kind = before(PairwiseLabelSmoothing, Odd)
    if softened:
        with pytest.raises(ValueError, match=r"the mean cross entropy of its logits is|were given other targets"):
            fitted(kind(network()))
        fitted(kind(network(), base_loss="any"))
    fitted(kind(network(), mixed_targets="labels"))


# -- the second head ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Found keys that are not in the model")  # without the head, which is meant
def test_the_head_is_trained_and_saved_and_never_runs_outside_of_training(tmp_path: Path) -> None:
    kind = before(PairwiseLabelSmoothing, Classifier)
    model = kind(network=MLP(5, K, hidden=(8,)), num_classes=K)
    data = TensorDataset(points().tensors[0].float(), points().tensors[1])
    loader = DataLoader(data, batch_size=8)
    start = model.smoothing_head.weight.detach().clone()
    calls: list[str] = []
    model.smoothing_head.register_forward_hook(lambda *_: calls.append(trainer.state.stage))
    trainer = quiet(max_epochs=2)
    trainer.fit(model, loader, loader)
    assert calls == ["train"] * 6
    assert not model.smoothing_head.weight.equal(start)
    assert any(weight is model.smoothing_head.weight for weight in trainer.optimizers[0].state)
    trainer.validate(model, loader, verbose=False)
    logits = torch.cat(trainer.predict(model, loader))
    assert len(calls) == 6
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    for cls, strict in ((kind, True), (Classifier, False)):
        loaded = cls.load_from_checkpoint(tmp_path / "a.ckpt", network=MLP(5, K, hidden=(8,)), strict=strict)
        assert loaded.eval()(data.tensors[0]).equal(logits)
    assert loaded.state_dict().keys() < model.state_dict().keys()
    assert classifier_layer(model, "", "features_from") is model.network.classifier  # the head is not the last Linear


def test_the_head_can_belong_to_a_layer_that_is_named() -> None:
    class TwoLayers(LitNet):
        """The last Linear is an auxiliary one."""

        def __init__(self) -> None:
            super().__init__(network())
            self.auxiliary = nn.Linear(3, 9)

        def configure_optimizers(self) -> Any:
            heads = [] if self.smoothing_head is None else list(self.smoothing_head.parameters())  # type: ignore[attr-defined]
            return torch.optim.SGD([*self.net.parameters(), *heads], lr=0.5)

    kind = before(PairwiseLabelSmoothing, TwoLayers)
    model = kind(classifier_from="net.2")
    assert model.smoothing_head.weight.shape == (K, 7)
    assert model.smoothing_head.weight.dtype == torch.float64
    assert kind().smoothing_head.weight.shape == (9, 3)
    assert numbers(fitted(model).net).equal(numbers(fitted(before(PairwiseLabelSmoothing, LitNet)(network())).net))


def test_a_head_that_nobody_trains_is_noticed() -> None:
    class Partly(LitNet):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.5)

    with pytest.warns(UserWarning, match="no optimizer has the parameters of smoothing_head"):
        fitted(before(PairwiseLabelSmoothing, Partly)(network()))


# -- class-wise self-distillation --------------------------------------------------------------------------


class Augmented(Dataset[Any]):
    """Moves every sample by random numbers of all three generators."""

    targets = points().tensors[1]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        x, y = points()[index]
        return x + 0.1 * torch.randn(5) * random.random() + 0.1 * np.random.rand(), y  # noqa: NPY002


def test_partners_do_not_depend_on_workers_and_leave_the_augmentation_alone() -> None:
    runs = []
    for kind, workers in ((Notes, 0), (Consistent, 0), (Consistent, 2)):
        pl.seed_everything(3, verbose=False)
        model = fitted(kind(network()), DataLoader(Augmented(), batch_size=5, num_workers=workers))
        runs.append([[notes["original"][0], *notes["partners"]] for notes in model.given])
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(runs[0], runs[1], strict=True))
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(runs[1], runs[2], strict=True))
    assert len({step[1].tobytes() for step in runs[1]}) == 10


def test_partners_take_the_way_of_every_batch() -> None:
    class Hooks(Notes):
        """Doubles every input before and after the transfer."""

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] * 2, batch[1]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] * 2, batch[1]

    model = fitted(before(ClassWiseSelfDistillation, Hooks)(network()))
    quarters = {tuple(row) for notes in model.given for row in (notes["partners"][0] / 4).tolist()}
    assert quarters <= EVERY


def test_partners_run_in_training_mode_without_gradient_and_weightless_not_at_all() -> None:
    passes = {}
    for weight in (1.0, 0.0):
        net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, K)).double()
        model = fitted(Consistent(net, class_wise_weight=weight), DataLoader(points(), batch_size=8))
        passes[weight] = int(net[1].num_batches_tracked)
    assert passes == {1.0: 12, 0.0: 6}
    assert all(not notes["partners"] for notes in model.given)


def test_the_order_of_labels_in_a_hook_does_not_matter() -> None:
    class Shifted(Notes):
        """Maps labels on the device."""

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0], (batch[1] + 1) % K

    model = fitted(before(ClassWiseSelfDistillation, Shifted)(network()))
    x, y = points().tensors
    label = {tuple(row): int(target) for row, target in zip(x.tolist(), y, strict=True)}
    for notes in model.given:
        partners = [label[tuple(row)] for row in notes["partners"][0].tolist()]
        assert partners == [label[tuple(row)] for row in notes["original"][0].tolist()]


def test_what_has_no_partners_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            for number, sample in enumerate(points()):  # type: ignore[arg-type]
                yield *sample, number

    class Carried(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0]), batch[1])

    kind = before(ClassWiseSelfDistillation, Carried)
    with pytest.raises(TypeError, match=r"draws partners from the training set.*Use a map-style dataset"):
        fitted(kind(network(), index_from=2, num_samples=24), DataLoader(Stream(), batch_size=5))

    whole = DataLoader(points(), sampler=[[0, 1, 2], [3, 4]], batch_size=None)
    with pytest.raises(TypeError, match="has batch_size=None"):
        fitted(kind(network()), whole)

    class Changes(LitNet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0] * 2), batch[1])

    with pytest.raises(ValueError, match=r"not part of the batch but was made from it.*Do what it does in forward"):
        fitted(before(ClassWiseSelfDistillation, Changes)(network()))

    soft = TensorDataset(points().tensors[0], F.one_hot(points().tensors[1], K).double())
    with pytest.raises(TypeError, match="needs class labels"):
        fitted(Consistent(network()), DataLoader(soft, batch_size=5))
    with pytest.raises(TypeError, match="logits_from is a function"):
        Consistent(network(), logits_from=lambda output: output)


def test_the_partners_of_unlabelled_samples() -> None:
    class Minus(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return points()[index][0], index - 1

    with pytest.raises(ValueError, match=r"expected one integer label >= 0 per sample.*values from -1"):
        fitted(before(ClassWiseSelfDistillation, Ignores)(network(), base_loss="any"), DataLoader(Minus()))


class Ignores(LitNet):
    """Leaves samples without a label out of its loss, and lets nobody see them."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1].clamp(min=0))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0], batch[1].clamp(min=0)


# -- what is refused ---------------------------------------------------------------------------------------


class Convolutions(LitNet):
    """No nn.Linear."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Conv1d(1, 4, 5), nn.Flatten()))


@mixing
def test_without_a_linear_layer_it_is_said_that_there_is_no_candidate(method: Any) -> None:
    kind = before(method, Convolutions)
    none = r"There is no nn\.Linear that classifier_from could name: end the network in an nn\.Linear\.$"
    with pytest.raises(AttributeError, match=rf"has no nn\.Linear to be its classifier layer\. {none}"):
        kind()
    with pytest.raises(AttributeError, match=rf"has no submodule 'head'\. {none}"):
        kind(classifier_from="head")
    with pytest.raises(TypeError, match=rf"classifier_from='net\.0' is a Conv1d .*expected an nn\.Linear, .* {none}"):
        kind(classifier_from="net.0")
    kind(term_weight=0.0)  # off: nothing is looked for
    with pytest.raises(TypeError, match=r"classifier_from='net\.1' is a Tanh .*; candidates: 'net\.0', 'net\.2'\.$"):
        before(method, LitNet)(network(), classifier_from="net.1")


@mixing
def test_inputs_that_cannot_be_averaged(method: Any) -> None:
    whole = TensorDataset(torch.arange(24)[:, None].expand(24, 5), points().tensors[1])
    always = {"alternate": False} if method is PairwiseLabelSmoothing else {}
    model = before(method, LitNet)(network(), **always)
    with pytest.raises(TypeError, match=r"weighted sums of samples, and the batch has torch\.int64 of shape \(5, 5\)"):
        fitted(model, DataLoader(whole, batch_size=5))
    with pytest.raises(TypeError, match="found no tensor to mix at 2"):
        fitted(before(method, AnyForm)(network(), input_from=2), formed("longer"))


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (PairwiseLabelSmoothing, {"smoothing_weight": 1.0}, r"smoothing_weight must be in \[0, 1\).*got 1\.0"),
        (PairwiseLabelSmoothing, {"smoothing_distribution": "head"}, "'learned', 'uniform', 'none'; got 'head'"),
        (PairwiseLabelSmoothing, {"mixed_targets": "soft"}, "mixed_targets must be one of 'distributions', 'labels'"),
        (Mixup, {"mixup_alpha": 0.0}, "mixup_alpha must be greater than 0"),
        (ClassWiseSelfDistillation, {"class_wise_temperature": 0.0}, "class_wise_temperature must be greater than 0"),
        (ClassWiseSelfDistillation, {"class_wise_weight": -1.0}, "class_wise_weight must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(method: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        before(method, LitNet)(network(), **options)


def test_two_that_mix_the_same_batch_are_refused() -> None:
    with pytest.raises(TypeError, match="Mixup and PairwiseLabelSmoothing would both mix the same batch"):
        type("Both", (Mixup, PairwiseLabelSmoothing, LitNet), {})
    assert issubclass(type("Mine", (PairwiseLabelSmoothing,), {"mix_parts": Mixup.mix_parts}), BatchMixing)


@pytest.mark.filterwarnings("ignore:.* each soften the target")
def test_a_method_that_asks_for_labels_says_so_beside_one_that_mixes() -> None:
    kind = type("Both", (PairwiseLabelSmoothing, FlippingErrorReduction, LitNet), {})
    with pytest.raises(TypeError, match="needs class labels, but the targets are distributions, float"):
        fitted(kind(network()))


def test_labels_out_of_range_are_named() -> None:
    wrong = TensorDataset(points().tensors[0], torch.full((24,), 7))
    for method in MIXING:
        with pytest.raises(
            (ValueError, IndexError, RuntimeError), match=r"labels are outside|out of bounds|mixes labels"
        ):
            fitted(before(method, LitNet)(network()), DataLoader(wrong, batch_size=5))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_features_without_a_graph_warn(reentrant: bool, recwarn: pytest.WarningsRecorder) -> None:
    class Checkpointed(LitNet):
        def forward(self, x: Any) -> Any:
            return torch.utils.checkpoint.checkpoint(self.net, x.requires_grad_(), use_reentrant=reentrant)

    fitted(before(PairwiseLabelSmoothing, Checkpointed)(network(), alternate=False))
    told = [str(warning.message) for warning in recwarn if "the features have no graph" in str(warning.message)]
    assert bool(told) == reentrant
    assert all("use_reentrant=False" in text for text in told)
