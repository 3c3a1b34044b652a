"""Catching the logits of a step with a forward hook."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CaptureHook", "LogitCapture", "LogitSource", "as_logits", "candidate_modules", "nothing_caught"]

LogitSource = str | Callable[[Any], Any]


def as_logits(output: Any) -> Tensor | None:
    """The logits in what a forward returned.

    Args:
        output: a tensor, a tuple or list whose first element is one, or a mapping or object with ``logits``.

    Returns:
        float ``[B, K]``; one logit z counts as ``[0, z]``. None if there is nothing of that shape.

    Example:
        >>> as_logits({"logits": torch.zeros(4, 3)}).shape
        torch.Size([4, 3])
        >>> as_logits(torch.tensor([[2.0]]))
        tensor([[0., 2.]])
    """
    logits = output if isinstance(output, Tensor) else _logits_within(output)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        return None
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.ndim != 2 or logits.shape[1] == 0:
        return None
    if logits.shape[1] == 1:
        return torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits


def _logits_within(output: Any) -> Any:
    if isinstance(output, Mapping):
        return output.get("logits")
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, (tuple, list)) and output else None


class CaptureHook:
    """A hook that copies of the module carry along without effect (EMA callbacks copy modules deeply).

    Args:
        capture: has ``module`` and ``armed``; held weakly.
        method: name of its method that takes what the hook is given, without the module.
    """

    def __init__(self, capture: Any, method: str) -> None:
        self._capture = weakref.ref(capture)
        self._method = method

    def __call__(self, module: nn.Module, *args: Any) -> None:
        """Pass on what the hook is given, while the capture is armed and no backward pass computes forwards again."""
        capture = self._capture()
        if capture is not None and capture.armed and module is capture.module and not _in_backward():
            getattr(capture, self._method)(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> CaptureHook:
        return self

    def __reduce__(self) -> Any:
        return _inert_hook, ()


def _in_backward() -> bool:
    """Whether autograd runs the caller, as it does for checkpointed activations."""
    # The way in which torch.autograd.graph's multi-grad hooks tell; nothing public does.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _no_effect(*args: Any) -> None:
    return None


def _inert_hook() -> Callable[..., None]:
    return _no_effect


class LogitCapture:
    """Keeps the first output with B rows that a module gives while the capture is armed.

    Args:
        module: the submodule whose output are the logits.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.armed = False
        self.copies = False
        self.logits: Tensor | None = None
        self.kept: Tensor | None = None  # as the network gave them; evaluation only, training copies into blocks
        self.sinks: list[Callable[[Tensor], None]] = []
        self.inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.other_rows: list[int] = []
        self._expected_rows = -1
        self._outermost_is_step = False
        self._depth = 0
        self._handles = [module.register_forward_hook(CaptureHook(self, "_leave"), with_kwargs=True)]

    def arm(self, rows: int, *, outermost_is_step: bool) -> None:
        """Begin a step.

        Args:
            rows: the number B of samples in the batch.
            outermost_is_step: the outermost call of the module is the strategy's own and returns what the
                step returned (DistributedDataParallel runs steps through ``forward``): it is passed over.
        """
        if outermost_is_step and len(self._handles) == 1:
            # Calls are only counted where one of them is passed over.
            self._handles.append(self.module.register_forward_pre_hook(CaptureHook(self, "_enter")))
        self.logits = self.kept = None
        if self.other_rows:
            self.other_rows = []
        self._expected_rows = rows
        self._outermost_is_step = outermost_is_step
        self._depth = 0
        self.armed = True

    def disarm(self) -> None:
        """End a step: what runs later (checkpointed activations in the backward pass) is not looked at."""
        self.armed = False

    def clear(self) -> None:
        """Forget what was caught, so that no graph is kept alive."""
        self.logits = self.kept = None
        self.inputs, self.other_rows = ((), {}), []

    def remove(self) -> None:
        """Take the hooks off the module."""
        self.armed = False
        self.clear()
        for handle in self._handles:
            handle.remove()

    def _enter(self, args: Any) -> None:
        self._depth += 1

    def _leave(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._outermost_is_step:
            self._depth -= 1
            if self._depth < 1:
                return
        if self.logits is not None:
            return
        plain = type(output) is Tensor and output.ndim == 2 and output.shape[1] > 1 and output.is_floating_point()
        logits = output if plain else as_logits(output)
        if logits is None:
            return
        if logits.shape[0] == self._expected_rows:
            self.logits, self.inputs = logits, (args, kwargs)
            for sink in self.sinks:
                sink(logits)
            if self.copies or not (logits.requires_grad or self.sinks):
                self.kept = logits.detach().clone()
                self.logits = logits if logits.requires_grad else self.kept
        else:
            self.other_rows.append(logits.shape[0])


def candidate_modules(module: nn.Module, step: Callable[[], Any], rows: int) -> list[str]:
    """Names of the submodules that give ``[B, K]`` when a step runs; only an error message asks for them.

    Args:
        module: the LightningModule.
        step: runs its step once more.
        rows: the number B of samples in the batch.

    Returns:
        Dotted submodule paths with the shape of their output, in the order in which they ran.
    """
    found: dict[str, None] = {}
    handles = []
    for name, part in module.named_modules():
        if name:

            def note(_part: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == rows:
                    found[f'"{name}" [{output.shape[0]}, {output.shape[1]}]'] = None

            handles.append(part.register_forward_hook(note))
    try:
        with torch.no_grad():
            step()
    except Exception:  # an error is on its way already; this run only makes its text better
        found.setdefault("(the step could not be repeated to find them)")
    finally:
        for handle in handles:
            handle.remove()
    return list(found)


def nothing_caught(logits_from: LogitSource, step_name: str, candidates: list[str]) -> str:
    """The words for a step without logits.

    Args:
        logits_from: where they were looked for.
        step_name: the step.
        candidates: what :func:`candidate_modules` found.

    Returns:
        The error's text.
    """
    where = "the module's own forward" if logits_from == "" else f"logits_from={logits_from!r}"
    return (
        f"no logits [B, K] were caught from {where} in {step_name}. Usual causes: the step calls self.net(x) or "
        "self.forward(x) instead of self(x), or the network was compiled before. Submodules whose output was [B, K]: "
        f"{', '.join(candidates) or 'none'}. Name one of them: logits_from=..., call self(x) in the step, or pass a "
        "function of the step's output."
    )
