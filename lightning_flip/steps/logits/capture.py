"""Catches the logits of a step, and the features that enter its classifier layer, through hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_flip.steps.logits.forward import OwnForward, in_backward, inert_hook
from lightning_flip.steps.logits.loss_calls import never
from lightning_flip.steps.outputs import Place, as_logits, two_dimensional

__all__ = ["CaptureHook", "FeatureCapture", "LogitCapture", "classifier_layer", "layer_candidates"]


class CaptureHook:
    """A hook that copies of the module carry along without effect (EMA callbacks copy modules deeply)."""

    def __init__(self, capture: Any, method: str) -> None:
        self._capture = weakref.ref(capture)
        self._method = method

    def __call__(self, module: nn.Module, *args: Any) -> None:
        """Pass on what the hook is given, while the capture is armed and no backward pass computes forwards again."""
        capture = self._capture()
        if capture is not None and capture.armed and module is capture.module and not in_backward():
            getattr(capture, self._method)(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> CaptureHook:
        return self

    def __reduce__(self) -> Any:
        return inert_hook, ()


class LogitCapture:
    """Keeps the first output with B rows that a place gives while the capture is armed.

    Args:
        module: the submodule whose output holds the logits.
        place: which part of its output, and of which call.
        kind: what the output is; None while unknown, and then only the output is kept.
        own: whether it is the LightningModule itself, whose forward may be called as ``self.forward(x)``.
        pick: takes the output's place, for a function of what the forward gave.
    """

    def __init__(
        self,
        module: nn.Module,
        place: Place | None = None,
        kind: str | None = "logits",
        *,
        own: bool = False,
        pick: Callable[[Any], Any] | None = None,
    ) -> None:
        self.module = module
        self.place = Place() if place is None else place
        self.kind = kind
        self.pick = pick
        self.armed = False
        self.copies = False
        self.logits: Tensor | None = None
        self.kept: Tensor | None = None  # as the network gave them; evaluation only, training copies into blocks
        self.output: Tensor | None = None  # that the logits are made from
        self.values: Tensor | None = None  # a copy of it, in a step that settles its kind
        self.settling = kind is None
        self.graded = True  # whether it ran with gradient
        self.sinks: list[Callable[[Tensor], None]] = []
        self.inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.other_rows: list[int] = []
        self.prefix = False  # whether the forward gives more rows than the batch has
        self.needs_gradient = False  # forwards without gradient are a teacher's, or a metric's
        self.tolerate: Callable[[Exception], bool] = never  # whether an error of catching is told and goes no further
        self._expected_rows = -1
        self._outermost_is_step = False
        self._depth = self._calls = 0
        self._simple = not self.place.keys and self.place.call == 1 and pick is None
        self.forward = OwnForward(module, self._leave) if own else None
        self._handles: list[Any] = []
        if not own:
            self._handles.append(module.register_forward_hook(CaptureHook(self, "_leave"), with_kwargs=True))

    def arm(self, rows: int, *, outermost_is_step: bool) -> None:
        """Begin a step."""
        if self.forward is not None:
            self.forward.put()
        elif outermost_is_step and len(self._handles) == 1:
            # Calls are only counted where one of them is passed over.
            self._handles.append(self.module.register_forward_pre_hook(CaptureHook(self, "_enter")))
        self.logits = self.kept = self.output = self.values = None
        if self.other_rows:
            self.other_rows = []
        self._expected_rows = rows
        self._outermost_is_step = outermost_is_step
        self._depth = self._calls = 0
        self.armed = True

    def disarm(self) -> None:
        """End a step: what runs later (checkpointed activations in the backward pass) is ignored."""
        if self.forward is not None:
            self.forward.take_off()
        self.armed = False

    def clear(self) -> None:
        """Forget what was caught, so that no graph is kept alive."""
        self.logits = self.kept = self.output = self.values = None
        self.inputs, self.other_rows = ((), {}), []

    def remove(self) -> None:
        """Take the hooks off the module."""
        self.disarm()
        self.clear()
        for handle in self._handles:
            handle.remove()

    def _enter(self, args: Any) -> None:
        self._depth += 1

    def _leave(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        try:
            if self._outermost_is_step and self.forward is None:
                self._depth -= 1
                if self._depth < 1:
                    return
            if self.output is not None or not self.armed or (self.needs_gradient and not torch.is_grad_enabled()):
                return
            if type(output) is not Tensor or not self._simple:
                output = self._picked(output)
                if output is None:
                    return
            rows = output.shape[0] if output.ndim else 0
            if rows != self._expected_rows:
                if not self.prefix or rows < self._expected_rows:
                    self.other_rows.append(rows)
                    return
                output = output[: self._expected_rows]
            if self.kind == "logits" and output.ndim == 2 and output.shape[1] > 1 and output.is_floating_point():
                logits = output
            elif two_dimensional(output) is None:
                return
            elif self.kind is None:
                self.output, self.values, self.inputs = output, output.detach().clone(), (args, kwargs)
                self.graded = torch.is_grad_enabled()
                return
            else:
                found = as_logits(output, self.kind)
                assert found is not None
                logits = found
            self.output, self.logits, self.inputs = output, logits, (args, kwargs)
            if self.settling:
                self.values = output.detach().clone()
            for sink in self.sinks:
                sink(logits)
            if self.copies or not (logits.requires_grad or self.sinks):
                self.kept = logits.detach().clone()
                self.logits = logits if logits.requires_grad else self.kept
        except Exception as error:
            if not self.tolerate(error):
                raise

    def _picked(self, output: Any) -> Tensor | None:
        if self.pick is not None:
            picked = self.pick(output)
            return picked if isinstance(picked, Tensor) else None
        self._calls += 1
        if self._calls < self.place.call:
            return None
        return self.place.tensor_of(output)


class FeatureCapture:
    """Keeps the first input with B rows that a layer is given while the capture is armed."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward = None  # it is caught by a hook alone
        self.armed = False
        self.features: Tensor | None = None
        self._expected_rows = -1
        self._handle = module.register_forward_pre_hook(CaptureHook(self, "_enter"), with_kwargs=True)

    def arm(self, rows: int) -> None:
        """Begin a step."""
        self.clear()
        self._expected_rows = rows
        self.armed = True

    def clear(self) -> None:
        """Forget what was caught, so that no graph is kept alive."""
        self.features = None

    def remove(self) -> None:
        """Take the hook off the layer."""
        self.armed = False
        self.clear()
        self._handle.remove()

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        features = args[0] if args else kwargs.get("input")
        if self.features is None and isinstance(features, Tensor) and features.ndim == 2:
            self.features = features if features.shape[0] == self._expected_rows else None


def classifier_layer(module: nn.Module, path: str, option: str, *, linear: bool = False) -> nn.Module:
    """The layer that turns features into logits.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> classifier_layer(network, "", "features_from")
        Linear(in_features=8, out_features=3, bias=True)
    """
    name = type(module).__name__
    if not path:
        layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
        if layers:
            return layers[-1]
        problem = f"{name} has no nn.Linear to be its classifier layer."
        raise AttributeError(f"{problem} {_advice(module, option, linear)}")
    try:
        layer = module.get_submodule(path)
    except AttributeError:
        raise AttributeError(f"{name} has no submodule {path!r}. {_advice(module, option, linear)}") from None
    if linear and not isinstance(layer, nn.Linear):
        raise TypeError(
            f"{option}={path!r} is a {type(layer).__name__} in {name}; expected an nn.Linear, whose outputs are the "
            f"logits. {_advice(module, option, linear)}"
        )
    return layer


def layer_candidates(module: nn.Module, *, linear: bool = False) -> list[str]:
    """Layers of a model that may be its classifier layer.

    Returns dotted paths of all ``nn.Linear``; where there is none, of what else has a weight ``[K, D]``.

    Example:
        >>> layer_candidates(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
        ['0', '2']
    """
    found = [name for name, part in module.named_modules() if name and isinstance(part, nn.Linear)]
    if found or linear:
        return found
    return [
        name
        for name, part in module.named_modules()
        if name and not isinstance(part, nn.Embedding) and getattr(part._parameters.get("weight"), "ndim", 0) == 2
    ]


def _advice(module: nn.Module, option: str, linear: bool) -> str:
    candidates = layer_candidates(module, linear=linear)
    if candidates:
        return f"Name the layer with {option}=; candidates: {', '.join(map(repr, candidates))}."
    what = "no nn.Linear" if linear else "no layer with a weight [K, D]"
    return f"There is {what} that {option} could name: end the network in an nn.Linear."
