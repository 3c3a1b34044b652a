"""Catching the features that enter the classifier layer with a forward hook."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_flip.steps.capture import CaptureHook

__all__ = ["FeatureCapture", "classifier_layer", "layer_candidates"]


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
