"""Catching the features that enter the classifier layer with a forward hook."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_flip.steps.capture import CaptureHook

__all__ = ["FeatureCapture", "classifier_layer"]


class FeatureCapture:
    """Keeps the first input with B rows that a layer is given while the capture is armed.

    Args:
        module: the layer.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.armed = False
        self.features: Tensor | None = None
        self._expected_rows = -1
        self._handle = module.register_forward_pre_hook(CaptureHook(self, "_enter"), with_kwargs=True)

    def arm(self, rows: int) -> None:
        """Begin a step.

        Args:
            rows: the number B of samples in the batch.
        """
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


def classifier_layer(module: nn.Module, path: str, option: str) -> nn.Module:
    """The layer that turns features into logits.

    Args:
        module: the whole model.
        path: dotted path of the layer; "" for the last ``nn.Linear``.
        option: the option's name, for the error.

    Returns:
        The layer.

    Raises:
        AttributeError: if there is no such layer, or no ``nn.Linear`` at all.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> classifier_layer(network, "", "features_from")
        Linear(in_features=8, out_features=3, bias=True)
    """
    linear = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    if not path:
        if linear:
            return list(linear.values())[-1]
        found = "has no nn.Linear to be its classifier layer"
    else:
        try:
            return module.get_submodule(path)
        except AttributeError:
            found = f"has no submodule {path!r}"
    names = list(linear) or [name for name, _ in module.named_modules() if name]
    raise AttributeError(
        f"{type(module).__name__} {found}. Name the layer with {option}=; candidates: "
        f"{', '.join(map(repr, names)) or 'none'}."
    )
