"""A small convolutional network for small gray images."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["SmallCNN"]


class SmallCNN(nn.Module):
    """Two 3x3 convolutions, one pooling, one linear layer; no normalization, so that samples do not touch each other.

    Made for scikit-learn's 8x8 digits, where it has room to memorize wrong labels: see ``examples/digits``.

    The submodules are ``features`` (everything before the classifier) and ``classifier``.

    Args:
        num_classes: number of classes ``K``.
        in_channels: channels of the input images.
        width: channels of the first convolution; the second one has twice as many.
        image_size: height and width of the images; an even number.

    Raises:
        ValueError: if ``image_size`` is odd or below 2.

    Example:
        >>> import torch
        >>> SmallCNN()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, width: int = 32, image_size: int = 8) -> None:
        super().__init__()
        if image_size < 2 or image_size % 2:
            raise ValueError(f"image_size must be even and at least 2, got {image_size}; pad the images by one pixel.")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(2 * width * (image_size // 2) ** 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Args:
            x: images ``[B, in_channels, image_size, image_size]``.

        Returns:
            Logits ``[B, K]``.
        """
        logits: Tensor = self.classifier(self.features(x))
        return logits
