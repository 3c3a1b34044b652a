"""What is found where: the parts of the search one by one, on several ranks, when resumed, and in compiled code."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from lightning_flip.callbacks import FlipTracker, PredictionHistory
from lightning_flip.mixins import FlippingErrorReduction, FocalDistillation
from lightning_flip.mixins._base_loss import check_base_loss
from lightning_flip.steps import StepSource
from lightning_flip.steps.logits._loss_targets import relate
from lightning_flip.steps.logits.choice import Choice
from lightning_flip.steps.logits.loss_calls import LossCalls
from lightning_flip.steps.outputs import Place, as_logits, kind_of_values
from tests.callbacks.helpers import run_ranks
from tests.steps import module_styles as styles
from tests.steps.helpers import QUIET, UPSTREAM_WARNINGS
from tests.steps.test_module_styles import Style, assert_recorded, loader, made, train, trainer_for, with_mixin

pytestmark = [
    *UPSTREAM_WARNINGS,
    pytest.mark.filterwarnings("ignore:train. the losses of"),
    pytest.mark.filterwarnings("ignore:training_step renames the labels"),
    pytest.mark.filterwarnings("ignore:PredictionHistory. nothing was recorded"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

# -- kinds and places ------------------------------------------------------------------------------------

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
def test_every_kind_gives_the_same_probabilities(kind: str) -> None:
    given = {"logits": LOGITS, "log_probs": LOGITS.log_softmax(1), "probs": LOGITS.softmax(1)}[kind]
    assert kind_of_values(given) == kind
    logits = as_logits(given, kind)
    assert logits is not None
    torch.testing.assert_close(logits.softmax(1), LOGITS.softmax(1))


@pytest.mark.parametrize("kind", ["logits", "log_probs", "probs"])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_column_is_the_second_of_two_classes(kind: str, shape: tuple[int, ...]) -> None:
    p = np.array([0.1, 0.5, 0.875])
    given = {"logits": np.log(p / (1 - p)), "log_probs": np.log(p), "probs": p}[kind]
    column = torch.from_numpy(given).reshape(shape)
    logits = as_logits(column, kind)
    assert logits is not None
    np.testing.assert_allclose(logits.softmax(1).numpy(), np.stack([1 - p, p], axis=1), rtol=1e-12)
    assert kind_of_values(column.reshape(3, 1)) is None


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_probabilities_stay_finite(p: float) -> None:
    for given in (torch.tensor([p]), torch.tensor([[p, 1 - p]])):
        logits = as_logits(given, "probs")
        assert logits is not None
        assert bool(logits.isfinite().all())
        assert logits.argmax(1).tolist() == [int(p) if given.ndim == 1 else 1 - int(p)]


@pytest.mark.parametrize("text", ["", "net", "[1]", "net.0[logits]", "net[out][0]#3"])
def test_a_place_is_written_as_it_is_read(text: str) -> None:
    assert str(Place.parse(text)) == text


@pytest.mark.parametrize("text", ["net[", "net#0", "#", "net]", "a b"])
def test_what_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a place; expected the path of a submodule"):
        StepSource(logits_from=text)


# -- losses and their targets ----------------------------------------------------------------------------

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 1, 0])
ONE_HOT = F.one_hot(Y, 4).float()


def call_of(loss: Any) -> Any:
    """The call that a loss makes, as a step would be seen."""
    calls = LossCalls()
    logits = X.clone().requires_grad_()
    calls.start(needs_gradient=True, losses_only=False)
    with calls:
        loss(logits)
    found = [call for call in calls.calls if call.is_loss]
    assert found
    assert all(call.input is logits for call in found)
    return found[-1]


def smoothed(epsilon: float) -> Tensor:
    return (1 - epsilon) * ONE_HOT + epsilon / 4


RELATIONS: list[tuple[str, Any, str, float]] = [
    ("labels", lambda z: F.cross_entropy(z, Y), "batch", 0.0),
    ("a copy of them", lambda z: F.cross_entropy(z, Y.clone()), "batch", 0.0),
    ("one-hot", lambda z: F.cross_entropy(z, ONE_HOT), "batch", 0.0),
    ("smoothed", lambda z: F.cross_entropy(z, smoothed(0.2)), "batch", 0.2),
    ("BCE", lambda z: F.binary_cross_entropy_with_logits(z, ONE_HOT), "batch", 0.0),
    ("smoothed BCE", lambda z: F.binary_cross_entropy_with_logits(z, smoothed(0.1)), "batch", 0.1),
    ("times log-probabilities", lambda z: -(smoothed(0.1) * z.log_softmax(1)).sum(1).mean(), "batch", 0.1),
    ("picked", lambda z: -z.log_softmax(1).gather(1, Y[:, None]).mean(), "batch", 0.0),
    ("KL", lambda z: F.kl_div(z.log_softmax(1), smoothed(0.1), reduction="batchmean"), "batch", 0.1),
    ("merged", lambda z: F.cross_entropy(z, Y // 2), "renamed", 0.0),
    ("permuted", lambda z: F.cross_entropy(z, Y.roll(1)), "other", 0.0),
    ("all the same", lambda z: F.cross_entropy(z, torch.zeros_like(Y)), "other", 0.0),
    ("mixed", lambda z: F.cross_entropy(z, 0.7 * ONE_HOT + 0.3 * ONE_HOT.roll(1, 0)), "other", 0.0),
    ("mixed KL", lambda z: -(0.7 * ONE_HOT + 0.3 * ONE_HOT.roll(1, 0)).mul(z.log_softmax(1)).mean(), "other", 0.0),
]


@pytest.mark.parametrize(("loss", "kind", "smoothing"), [case[1:] for case in RELATIONS], ids=[c[0] for c in RELATIONS])
def test_what_a_loss_was_given(loss: Any, kind: str, smoothing: float) -> None:
    relation = relate(call_of(loss), (X, Y), None, 6)
    assert relation.kind == kind
    assert relation.smoothing == pytest.approx(smoothing, abs=1e-6)


def test_targets_are_found_anywhere_in_the_batch() -> None:
    call = call_of(lambda z: F.cross_entropy(z, Y))
    assert relate(call, (X, torch.arange(6), Y), None, 6).keys == (2,)
    assert relate(call, {"x": X, "meta": {"species": Y}}, None, 6).keys == ("meta", "species")


def test_losses_of_a_backward_pass_and_without_gradient_do_not_count() -> None:
    calls = LossCalls()

    class Recomputes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            return z.sum()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            F.cross_entropy(X, Y)
            return torch.ones_like(X)

    calls.start(needs_gradient=True, losses_only=False)
    with calls:
        Recomputes.apply(X.clone().requires_grad_()).backward()
        with torch.no_grad():
            F.cross_entropy(X, Y)
    assert calls.calls == []


# -- what the step returned --------------------------------------------------------------------------------


class Centering(nn.Module):
    """Adds a number to all logits of a sample, which no probability shows."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(dim=1, keepdim=True)


class PlainlyWritten(styles.Style):
    """A loss of which no function of torch says what it is of."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.last = styles.network(), nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        scores = self.last(self.net(x))
        self.note(x, y, scores)
        odds = scores.exp()
        return -(odds[torch.arange(len(y)), y] / odds.sum(dim=1)).log().mean()


class PlainlyWrittenCentered(PlainlyWritten):
    def __init__(self) -> None:
        super().__init__()
        self.last = Centering()


def test_the_output_whose_cross_entropy_the_step_returned_is_the_logits(tmp_path: Path) -> None:
    module = train(Style(PlainlyWritten), PredictionHistory(tmp_path))
    assert_recorded(tmp_path, module)


def test_of_two_outputs_whose_cross_entropy_the_step_returned_none_is_the_logits() -> None:
    with pytest.raises(RuntimeError, match=r'logits_from="net" .*, logits_from="last" .*Name one of them'):
        train(Style(PlainlyWrittenCentered), mixin=FlippingErrorReduction)
    train(Style(PlainlyWrittenCentered), mixin=FlippingErrorReduction, logits_from="last")


# -- the base loss -----------------------------------------------------------------------------------------


def test_equal_cross_entropies_do_not_decide() -> None:
    """With a head that begins at zero, weighted and smoothed losses are the mean cross entropy."""
    assert not check_base_loss(torch.tensor(1.0986), torch.full((4,), 1.0986), torch.float32, "M")
    assert check_base_loss(torch.tensor(2.0), torch.tensor([1.0, 3.0]), torch.float32, "M")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"weight": torch.ones(3)}, "It has class weights"),
        ({"smoothing": 0.1}, r"It has label smoothing of 0\.1"),
        ({"reduction": "sum"}, "It has the sum over the batch"),
        ({"mixed": True}, r"It has other targets .*mixing"),
        ({"name": "binary_cross_entropy", "columns": 3}, "a binary cross entropy for every class"),
    ],
)
def test_it_says_what_it_found_even_where_the_numbers_agree(facts: dict[str, Any], said: str) -> None:
    choice = Choice(Place(), "logits", 3, **facts)
    with pytest.raises(ValueError, match=said):
        check_base_loss(torch.tensor(1.0), torch.ones(4), torch.float32, "M", choice)


# -- ranks and resumption ------------------------------------------------------------------------------------


class Mixes(styles.MixUpSometimes):
    """Mixes samples of different labels, as a permutation of a few samples may not."""

    def mixed_loss(self, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        return super().mixed_loss(x, y, y.argsort()[y.argsort().argsort().sub(len(y) // 2) % len(y)])


SOME = [
    styles.ByNetwork,
    styles.ExplicitForward,
    styles.Temperature,
    styles.UnderOtherKey,
    styles.MergedLabels,
    Mixes,
]


def style_of(module: type[Any]) -> Style:
    data = {styles.MergedLabels: styles.six_classes}
    return Style(module, data=data.get(module, styles.three_classes))


def fit_on_ranks(world: int, module_class: type[Any], folder: Path) -> None:
    warnings.simplefilter("ignore")
    module, style = made(module_class), style_of(module_class)
    trainer = pl.Trainer(
        **QUIET | {"num_sanity_val_steps": 0, "max_epochs": 2, "devices": world, "strategy": "ddp"},
        callbacks=[PredictionHistory(folder / "run"), FlipTracker(train=True)],
    )
    trainer.fit(module, loader(style))
    notes = [(note.split, note.epoch, note.index, note.said, note.labels) for note in module.seen]
    torch.save(notes, folder / f"seen-{trainer.global_rank}.pt")


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("module_class", SOME, ids=lambda module: module.__name__)
def test_ranks_record_what_each_of_them_saw(world: int, module_class: type[Any], tmp_path: Path) -> None:
    assert run_ranks(world, fit_on_ranks, world, module_class, tmp_path) == [0] * world
    seen: dict[Any, Any] = {}
    for rank in range(world):
        for split, epoch, index, said, labels in torch.load(tmp_path / f"seen-{rank}.pt", weights_only=False):
            for row, sample in enumerate(index):  # a sample that pads is the first rank's
                seen.setdefault(
                    (split, epoch, sample),
                    styles.Note(split, epoch, [sample], said[row : row + 1], labels[row : row + 1]),
                )
    module = made(module_class)
    module.seen = list(seen.values())
    assert_recorded(tmp_path / "run", module)


@pytest.mark.parametrize("module_class", SOME, ids=lambda module: module.__name__)
def test_a_resumed_run_records_what_it_sees(module_class: type[Any], tmp_path: Path) -> None:
    style = style_of(module_class)
    first, second = made(module_class), made(module_class, seed=1)
    trainer = trainer_for(first, PredictionHistory(tmp_path / "run"), max_epochs=1)
    trainer.fit(first, loader(style))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer_for(second, PredictionHistory(tmp_path / "run"), max_epochs=3)
    again.fit(second, loader(style), ckpt_path=tmp_path / "a.ckpt")
    second.seen = first.seen + second.seen
    assert {note.epoch for note in second.seen} == {0, 1, 2}
    assert_recorded(tmp_path / "run", second)


# -- the other package ---------------------------------------------------------------------------------------


class OtherUpdate(FocalDistillation, styles.OtherByNetwork): ...


class OtherRobust(FlippingErrorReduction, styles.OtherByNetwork): ...


def other_trainer(*callbacks: Any, **options: Any) -> Any:
    return pytorch_lightning.Trainer(
        **QUIET | {"max_epochs": 2, "num_sanity_val_steps": 0} | options, callbacks=list(callbacks)
    )


def test_a_checkpoint_of_the_other_package_is_a_reference(tmp_path: Path) -> None:
    old = made(styles.OtherByNetwork, seed=1)
    trainer = other_trainer()
    trainer.fit(old, loader(Style(styles.OtherByNetwork)))
    trainer.save_checkpoint(tmp_path / "old.ckpt")
    weights = []
    for reference in (old, tmp_path / "old.ckpt"):
        new = made(OtherUpdate, reference=reference)
        other_trainer().fit(new, loader(Style(styles.OtherByNetwork)))
        weights.append([weight.detach().clone() for weight in new.parameters()])
    assert all(map(torch.equal, *weights))
    plain = made(styles.OtherByNetwork)
    other_trainer().fit(plain, loader(Style(styles.OtherByNetwork)))
    assert not all(map(torch.equal, weights[0], plain.parameters()))


def test_a_run_of_the_other_package_is_resumed(tmp_path: Path) -> None:
    whole, half, rest = (made(OtherRobust, seed=seed, total_epochs=4) for seed in (0, 0, 1))
    ordered = loader(Style(styles.OtherByNetwork), shuffle=False)
    other_trainer(max_epochs=4).fit(whole, ordered)
    first = other_trainer(max_epochs=2)
    first.fit(half, ordered)
    first.save_checkpoint(tmp_path / "half.ckpt")
    other_trainer(max_epochs=4).fit(rest, ordered, ckpt_path=tmp_path / "half.ckpt")
    assert all(map(torch.equal, whole.parameters(), rest.parameters()))


def fit_other(folder: Path) -> None:
    warnings.simplefilter("ignore")
    os.chdir(folder)
    module = made(OtherRobust)
    trainer = other_trainer(PredictionHistory("run"), devices=2, strategy="ddp")
    trainer.fit(module, loader(Style(styles.OtherByNetwork)))
    torch.save([weight.detach() for weight in module.parameters()], f"weights-{trainer.global_rank}.pt")


def test_two_ranks_of_the_other_package_agree(tmp_path: Path) -> None:
    assert run_ranks(2, fit_other, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in range(2))
    assert all(map(torch.equal, first, second))


# -- compiled code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["module", "network", "in place", "method"])
def test_callbacks_add_no_graph(how: str, tmp_path: Path) -> None:
    counts = []
    for callbacks in ([], [PredictionHistory(tmp_path), FlipTracker(train=True)]):
        torch._dynamo.reset()
        graphs: list[Any] = []

        def backend(graph: Any, _inputs: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return graph.forward

        module: Any = made(styles.Plain if how == "module" else styles.ByNetwork)
        if how == "network":
            module.net = torch.compile(module.net, backend=backend)
        elif how == "in place":
            module.net.compile(backend=backend)
        elif how == "method":
            module.classify = torch.compile(module.net.forward, backend=backend)
            module.net = Calls(module.net, module.classify)
        fitted = torch.compile(module, backend=backend) if how == "module" else module
        trainer_for(module, *callbacks).fit(fitted, loader(Style(styles.Plain)))
        counts.append(len(graphs))
    torch._dynamo.reset()
    assert counts[0] == counts[1] > 0


class Calls(nn.Module):
    """A network whose forward is a compiled method of another one."""

    def __init__(self, network: nn.Module, classify: Any) -> None:
        super().__init__()
        self.network = network
        self.classify = classify

    def forward(self, x: Tensor) -> Any:
        return self.classify(x)


def test_hooks_and_forward_are_gone_after_the_fit() -> None:
    module = train(Style(styles.BackboneAndHead), FlipTracker(train=True))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert "forward" not in vars(module)
    robust = made(with_mixin(FlippingErrorReduction, styles.ExplicitForward))
    trainer_for(robust).fit(robust, loader(Style(styles.ExplicitForward)))
    assert "forward" not in vars(robust)
