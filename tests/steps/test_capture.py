"""Which output counts as the logits of a step, and that the hooks leave nothing behind."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.checkpoint import checkpoint

from lightning_flip.steps import StepSource
from lightning_flip.steps.outputs import Place, as_logits
from tests.steps.helpers import (
    UPSTREAM_WARNINGS,
    Passing,
    PassThrough,
    Positions,
    Recorder,
    assert_nothing_left,
    fit,
    loader_over,
    trainer_with,
)

pytestmark = UPSTREAM_WARNINGS

N = 13


class Output(NamedTuple):
    hidden: Tensor
    logits: Tensor


def logits_of(output: Any) -> Tensor | None:
    tensor = Place().tensor_of(output)
    return None if tensor is None else as_logits(tensor)


LOGITS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, torch.zeros(2, 7)),
        [LOGITS, None],
        {"logits": LOGITS, "hidden": torch.zeros(2, 7)},
        SimpleNamespace(logits=LOGITS),
        Output(torch.zeros(2, 7), LOGITS),
    ],
    ids=["tensor", "tuple", "list", "dict", "object", "namedtuple with logits"],
)
def test_what_a_forward_may_return(output: Any) -> None:
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_single_logit_is_the_second_of_two(shape: tuple[int, ...]) -> None:
    logits = logits_of(torch.tensor([1.5, -2.0]).reshape(shape))
    assert logits is not None
    assert logits.tolist() == [[0.0, 1.5], [0.0, -2.0]]


@pytest.mark.parametrize(
    "output",
    [None, "text", (), {}, {"hidden": LOGITS}, LOGITS.long(), torch.zeros(()), torch.zeros(2, 3, 4), torch.zeros(2, 0)],
)
def test_what_is_no_logits(output: Any) -> None:
    assert logits_of(output) is None


class Wrapped(Passing):
    """Its forward returns the logits inside of something."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return {"tuple": (logits, x), "dict": {"logits": logits}, "object": SimpleNamespace(logits=logits)}[self.kind]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = logits_of(self(batch[0]))
        assert logits is not None
        return cross_entropy(logits, batch[1])


@pytest.mark.parametrize("kind", ["tuple", "dict", "object"])
def test_kinds_of_outputs_in_a_fit(kind: str) -> None:
    recorder, _ = fit(loader_over(Positions(N), shuffle=True), module=Wrapped(kind))
    recorder.seen.assert_agree()


class Binary(Passing):
    def forward(self, x: Tensor) -> Any:
        return self.net(x)[:, :1] - 6.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return binary_cross_entropy_with_logits(self(batch[0])[:, 0], (batch[1] > 0).float())


class Look(Recorder):
    """Keeps the steps as they are."""

    def __init__(self, source: StepSource | None = None) -> None:
        super().__init__(source)
        self.steps: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(self.attachment.sample_step(self.source))


def look(module: Any, source: StepSource | None = None, **options: Any) -> Look:
    watcher = Look(source)
    trainer = trainer_with(watcher, **options)
    trainer.fit(module, loader_over(Positions(N), batch_size=5))
    assert_nothing_left(trainer)
    return watcher


def test_a_binary_module_with_one_logit() -> None:
    class Labels(StepSource):
        pass

    source = StepSource(target_from=lambda batch: (batch[1] > 0).long())
    for step in look(Binary(), source).steps:
        assert step.num_classes == 2
        assert step.has_labels
        assert step.logits[:, 0].eq(0).all()
        assert (step.logits[:, 1] + 6).long().tolist() == step.index.tolist()


class TwoForwards(Passing):
    """First a prototype of one row, then the batch, then the batch once more with other values."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self(x[:1])
        logits = self(x)
        self(x + 100)
        return cross_entropy(logits, y)


def test_the_first_output_with_all_rows_wins() -> None:
    recorder, _ = fit(loader_over(Positions(12), batch_size=4, shuffle=True), module=TwoForwards())
    recorder.seen.assert_agree()


def test_inputs_of_the_forward_and_graph_of_the_logits() -> None:
    class WithOption(Passing):
        def forward(self, x: Tensor, *, bias: float = 0.0) -> Any:
            return self.net(x) + bias

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return cross_entropy(self(batch[0], bias=0.25), batch[1])

    for step in look(WithOption()).steps:
        (x,), kwargs = step.inputs
        assert x[:, 0].long().tolist() == step.index.tolist()
        assert kwargs == {"bias": 0.25}
        assert step.logits.requires_grad
        assert not step.detached().logits.requires_grad


def test_equal_sources_share_one_step() -> None:
    class Two(Recorder):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            again, other = StepSource(logits_from="net"), StepSource(logits_from="net", target_from=1)
            self.attachment.register(self, again)
            self.attachment.register(self, other)
            step = self.attachment.sample_step(self.source)
            assert self.attachment.sample_step(again) is step
            assert self.attachment.sample_step(other) is not step
            assert self.attachment.sample_step(other).logits is step.logits
            assert len(pl_module.net._forward_hooks) == 1
            assert not pl_module.net._forward_pre_hooks

    trainer = trainer_with(Two(StepSource(logits_from="net")))
    trainer.fit(Passing(), loader_over(Positions(N)))
    assert_nothing_left(trainer)


def test_a_layer_that_is_not_there_leaves_no_hook() -> None:
    module = Passing()
    with pytest.raises(AttributeError, match="features_from could name"):
        trainer_with(Recorder(StepSource(features_from="nowhere"))).fit(module, loader_over(Positions(N)))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class Checkpointed(Passing):
    """Runs its network again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch

        def run(x: Tensor) -> Any:
            self.forwards += 1
            # The second run of a batch gives other values, so that catching it would be noticed.
            return self.net(x + 100 * (self.forwards % 2 == 0))

        return cross_entropy(checkpoint(run, x, use_reentrant=False), y)


def test_activations_computed_again_in_the_backward_pass_are_not_looked_at() -> None:
    module = Checkpointed()
    recorder, _ = fit(loader_over(Positions(N), shuffle=True), module=module, source=StepSource(logits_from="net"))
    assert module.forwards == 6
    recorder.seen.assert_agree()


def test_paused() -> None:
    recorder = Recorder()

    class Own(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            with recorder.attachment.paused():
                self(x + 100)
                with recorder.attachment.paused():
                    self(x + 200)
                self(x + 300)
            return cross_entropy(self(x), y)

    trainer_with(recorder).fit(Own(), loader_over(Positions(N), shuffle=True))
    recorder.seen.assert_agree()


def test_a_callable_takes_the_logits_from_what_the_step_returned() -> None:
    class Returning(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = batch[0][:, :3] * self.net.scale
            return {"loss": cross_entropy(logits, batch[1]), "scores": logits.detach()}

    source = StepSource(logits_from=lambda output: output["scores"])
    recorder, _ = fit(loader_over(Positions(N), shuffle=True), module=Returning(), source=source)
    recorder.seen.assert_agree()


def test_a_submodule() -> None:
    class Nested(Passing):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"head": nn.Sequential(PassThrough(), nn.Identity())})

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return cross_entropy(self.parts["head"](batch[0]) + 7, batch[1])

    for path in ("parts.head", "parts.head.0"):
        recorder, _ = fit(loader_over(Positions(N), shuffle=True), module=Nested(), source=StepSource(logits_from=path))
        recorder.seen.assert_agree()


# Lightning warns of it, once in a process.
@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_a_step_that_does_nothing_gives_no_step() -> None:
    class Idle(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch_idx else None

    watcher = look(Idle())
    assert [step is None for step in watcher.steps] == [True, False, False]


class Own(pl.Callback):
    """Runs the module for its own purposes, outside of a step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module(batch[0] + 100)


# Lightning warns of it, once in a process.
@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_a_forward_after_the_step_is_not_the_steps() -> None:
    class Never(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    watcher = Look()
    trainer_with(Own(), watcher).fit(Never(), loader_over(Positions(N), batch_size=5))
    assert watcher.steps == [None, None, None]


class Inert(pl.Callback):
    """Copies the module while it is hooked, as an EMA callback does; the copies must not disturb the capture."""

    def __init__(self) -> None:
        self.copies: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert pl_module.net._forward_hooks
        duplicate = copy.deepcopy(pl_module.net)
        duplicate.scale.data.fill_(9.0)
        self.copies.append(duplicate)
        buffer = io.BytesIO()
        torch.save(pl_module.net, buffer)
        buffer.seek(0)
        self.copies.append(torch.load(buffer, weights_only=False))


def test_copies_of_a_module_with_hooks_are_inert() -> None:
    copies = Inert()

    class Asking(Passing):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for duplicate in copies.copies:
                assert duplicate(batch[0] + 100).shape == (len(batch[0]), 3)
            return cross_entropy(self.net(batch[0]), batch[1])

    recorder = Recorder(StepSource(logits_from="net"))
    trainer = trainer_with(recorder, copies)
    trainer.fit(Asking(), loader_over(Positions(N), shuffle=True))
    recorder.seen.assert_agree()
    assert_nothing_left(trainer)
    for duplicate in copies.copies:
        duplicate(torch.zeros(2, 4))
