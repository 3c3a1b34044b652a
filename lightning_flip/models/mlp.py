"""Multilayer perceptrons for tabular data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers with ReLU between them; the FER paper's tabular network has two hidden layers of 128.

    The submodules are ``features`` (everything before the classifier) and ``classifier``.

    Args:
        in_features: number of input features ``D``; inputs of more dimensions are flattened first.
        num_classes: number of classes ``K``.
        hidden: width of each hidden layer; empty for a linear classifier.

    Raises:
        ValueError: if a width is below 1.

    Example:
        >>> import torch
        >>> MLP(4, 3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, in_features: int, num_classes: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        if min(*widths, num_classes) < 1:
            raise ValueError(
                "in_features, num_classes and every width in hidden must be at least 1, got "
                f"in_features={in_features}, num_classes={num_classes}, hidden={list(hidden)}."
            )
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Args:
            x: inputs ``[B, D]``, or ``[B, ...]`` with ``D`` values a sample.

        Returns:
            Logits ``[B, K]``.
        """
        logits: Tensor = self.classifier(self.features(x))
        return logits
