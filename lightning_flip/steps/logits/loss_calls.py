"""Records which tensors enter the loss functions while a step runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_flip.steps.logits.forward import in_backward
from lightning_flip.steps.outputs import address

__all__ = ["IGNORED", "LossCall", "LossCalls", "never"]

#: The label that torch's losses leave out by default.
IGNORED = -100

_LOSSES: dict[Any, str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll_loss",
    F.binary_cross_entropy: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
}
_SIGNATURES = {function: inspect.signature(function) for function in _LOSSES}
# What losses of other makes are built from: label smoothing, soft targets, KL divergences, losses written by hand.
_NORMALIZERS = {
    F.log_softmax: "log_softmax",
    torch.log_softmax: "log_softmax",
    torch.special.log_softmax: "log_softmax",
    Tensor.log_softmax: "log_softmax",
    torch.logsumexp: "logsumexp",
    torch.special.logsumexp: "logsumexp",
    Tensor.logsumexp: "logsumexp",
    F.softmax: "softmax",
    torch.softmax: "softmax",
    torch.special.softmax: "softmax",
    Tensor.softmax: "softmax",
}


# What a loss written by hand does with log-probabilities and its targets.
_PRODUCTS = {torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__}
_PICKS = {torch.gather, Tensor.gather}
_FEW = frozenset({*_LOSSES, Tensor.backward})
_ALL = frozenset({*_FEW, *_NORMALIZERS, *_PRODUCTS, *_PICKS, F.kl_div})


@dataclass(eq=False)
class LossCall:
    """A call of a loss function, or of what losses are built from."""

    name: str
    input: Tensor
    values: Tensor  # of the input when it was called: it may be edited afterwards
    target: Tensor | None = None
    weight: Tensor | None = None
    smoothing: float = 0.0
    reduction: str = "mean"
    ignored: int | None = None  # the label that it leaves out
    backwards: int = 0  # backward passes of the step before it

    @property
    def is_loss(self) -> bool:
        """Whether it is a loss function, which knows the target."""
        return self.target is not None

    @property
    def by_hand(self) -> bool:
        """Whether it is a loss that was written out, a divergence from a teacher's distribution for example."""
        return self.name == "by_hand"

    @property
    def kind(self) -> str:
        """What its input is."""
        return {"nll_loss": "log_probs", "binary_cross_entropy": "probs"}.get(self.name, "logits")


class LossCalls(TorchFunctionMode):
    """Records the calls of a step, but for those in a backward pass (checkpointed activations) and of our own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self._normalized: list[tuple[Tensor, LossCall]] = []  # log-probabilities of the step, and where they came from
        self.armed = False
        self.needs_gradient = False  # in training a loss without gradient is a metric, or a teacher's
        self.losses_only = False
        self._backwards = 0
        self.tolerate: Callable[[Exception], bool] = never  # whether an error in here is reported instead of raised

    def start(self, *, needs_gradient: bool, losses_only: bool) -> None:
        """Begin a step."""
        self.calls, self._normalized, self._backwards, self.armed = [], [], 0, True
        self.needs_gradient, self.losses_only = needs_gradient, losses_only

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the call, and record it if it is one of a loss; every call of PyTorch in the step passes here."""
        if self.armed and func in (_FEW if self.losses_only else _ALL):
            return self._recorded(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        if in_backward() or (self.needs_gradient and not torch.is_grad_enabled()):
            return func(*args, **kwargs)
        if func is Tensor.backward:
            self._backwards += 1
        elif func in _LOSSES:
            self._note(_loss_call, func, args, kwargs)
        elif func in _NORMALIZERS:
            call = self._note(_normalizer_call, func, args, kwargs)
            output = func(*args, **kwargs)
            if call is not None and call.name == "log_softmax":
                self._normalized.append((output, call))
            return output
        elif self._normalized:
            self._note(self._by_hand, func, args, kwargs)
        return func(*args, **kwargs)

    def _note(self, make: Callable[..., LossCall | None], func: Any, args: Any, kwargs: Any) -> LossCall | None:
        try:
            call = make(func, args, kwargs)
            self._add(call)
        except Exception as error:
            if not self.tolerate(error):
                raise
            return None
        return call

    def _add(self, call: LossCall | None) -> None:
        if call is not None and (call.input.requires_grad or not self.needs_gradient):
            call.backwards = self._backwards
            self.calls.append(call)

    def _by_hand(self, func: Any, args: Any, kwargs: Any) -> LossCall | None:
        """A loss that is written out: log-probabilities times targets, or picked by labels."""
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        for log_probs, call in self._normalized:
            others = [value for value in given if value is not log_probs]
            if len(others) != len(given) - 1 or not others:
                continue
            target = others[0].detach()
            if func in _PICKS:
                if target.ndim == 2 and target.shape[1] == 1 and not target.is_floating_point():
                    return LossCall("by_hand", call.input, call.values, target[:, 0])
            elif target.shape == log_probs.shape and not others[0].requires_grad and target.is_floating_point():
                return LossCall("by_hand", call.input, call.values, target.abs())
        return None


def never(error: Exception) -> bool:
    """No error is tolerated."""
    return False


def _loss_call(func: Any, args: Any, kwargs: Any) -> LossCall | None:
    given = _SIGNATURES[func].bind(*args, **kwargs).arguments
    logits, target = given["input"], given["target"]
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor) or not address(logits):
        return None
    if not logits.ndim:  # the squeezed column of one sample
        logits, target = logits.reshape(1), target.reshape(1)
    weight = given.get("weight")
    if given.get("pos_weight") is not None:
        weight = given["pos_weight"]
    reduction = given.get("reduction", "mean")
    if given.get("size_average") is False:
        reduction = "sum"
    if given.get("reduce") is False:
        reduction = "none"
    smoothing, ignored = float(given.get("label_smoothing", 0.0)), None
    if "ignore_index" in _SIGNATURES[func].parameters:
        ignored = int(given.get("ignore_index", IGNORED))
    return LossCall(_LOSSES[func], logits, _copied(logits), target, weight, smoothing, reduction, ignored)


def _normalizer_call(func: Any, args: Any, kwargs: Any) -> LossCall | None:
    logits = args[0] if args else kwargs.get("input")
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    dim = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
    if not isinstance(logits, Tensor) or logits.ndim != 2 or dim not in (1, -1, None) or not address(logits):
        return None
    return LossCall(_NORMALIZERS[func], logits, _copied(logits))


def _copied(logits: Tensor) -> Tensor:
    return logits.detach().clone() if logits.ndim <= 2 else logits.detach()
