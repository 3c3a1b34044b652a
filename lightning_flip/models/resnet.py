"""ResNets for small images: torchvision's network with the stem that CIFAR-sized inputs need."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

__all__ = ["resnet10", "resnet18"]


def resnet10(num_classes: int, in_channels: int = 3) -> ResNet:
    """Build a ResNet-10 for small images: one basic block a stage.

    Args:
        num_classes: number of classes ``K``.
        in_channels: channels of the input images.

    Returns:
        torchvision's ``ResNet`` that maps images ``[B, in_channels, H, W]`` to logits ``[B, K]``; ``fc`` is its
        classifier.

    Example:
        >>> import torch
        >>> resnet10(num_classes=5)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 5])
    """
    return _small_image_resnet([1, 1, 1, 1], num_classes, in_channels)


def resnet18(num_classes: int, in_channels: int = 3) -> ResNet:
    """Build a ResNet-18 for small images: two basic blocks a stage.

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
