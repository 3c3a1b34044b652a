"""Networks of the papers: a multilayer perceptron, a small convolutional network, ResNets for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

__all__ = ["MLP", "SmallCNN", "resnet10", "resnet18"]


class MLP(nn.Module):
    """Fully connected layers with ReLU between them; the FER paper's tabular network has two hidden layers of 128.

    The submodules are ``features`` (everything before the classifier) and ``classifier``.

    Args:
        in_features: number of input features ``D``; inputs ``[B, ...]`` are flattened to ``[B, D]``.
        num_classes: number of classes ``K``; logits are ``[B, K]``.
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
        """Compute logits ``[B, K]``."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


class SmallCNN(nn.Module):
    """Two 3x3 convolutions, one pooling, one linear layer; without normalization, so each output depends on one sample.

    Made for scikit-learn's 8x8 digits, where it has room to memorize wrong labels: see ``examples/digits``.

    The submodules are ``features`` (everything before the classifier) and ``classifier``.

    Args:
        num_classes: number of classes ``K``; logits are ``[B, K]``.
        in_channels: channels of the input images ``[B, in_channels, image_size, image_size]``.
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
        """Compute logits ``[B, K]``."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def resnet10(num_classes: int, in_channels: int = 3) -> ResNet:
    """Build a ResNet-10 for small images: one basic block per stage, otherwise as :func:`resnet18`.

    Example:
        >>> import torch
        >>> resnet10(num_classes=5)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 5])
    """
    return _small_image_resnet([1, 1, 1, 1], num_classes, in_channels)


def resnet18(num_classes: int, in_channels: int = 3) -> ResNet:
    """Build a ResNet-18 for small images: two basic blocks per stage, and the stem that CIFAR-sized inputs need.

    Args:
        num_classes: number of classes ``K``.
        in_channels: channels of the input images.

    Returns:
        torchvision's ``ResNet`` that maps images ``[B, in_channels, H, W]`` to logits ``[B, K]``; ``fc`` is its
        classifier. With 100 classes it has 11,220,132 parameters.

    Example:
        >>> sum(parameter.numel() for parameter in resnet18(num_classes=100).parameters())
        11220132
    """
    return _small_image_resnet([2, 2, 2, 2], num_classes, in_channels)


def _small_image_resnet(blocks: list[int], num_classes: int, in_channels: int) -> ResNet:
    network = ResNet(BasicBlock, blocks, num_classes=num_classes)
    # The ImageNet stem divides the resolution by 4, which leaves a 32x32 image 1x1 in the last stage.
    network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
