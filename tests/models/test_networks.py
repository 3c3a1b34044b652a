"""Shapes, parameter counts counted by hand, and single samples."""

import pytest
import torch
from torch import nn

from lightning_flip.models import MLP, SmallCNN, resnet10, resnet18

NETWORKS = {
    "MLP": (lambda: MLP(4, 3), (4,), 3),
    "MLP on images": (lambda: MLP(64, 10), (1, 8, 8), 10),
    "SmallCNN": (lambda: SmallCNN(), (1, 8, 8), 10),
    "SmallCNN, color": (lambda: SmallCNN(5, in_channels=3, width=8, image_size=16), (3, 16, 16), 5),
    "resnet10": (lambda: resnet10(7), (3, 32, 32), 7),
    "resnet18": (lambda: resnet18(7), (3, 32, 32), 7),
    "resnet10, gray": (lambda: resnet10(7, in_channels=1), (1, 16, 16), 7),
}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_one_row_a_sample_and_one_column_a_class(name):
    make, shape, classes = NETWORKS[name]
    assert make()(torch.rand(3, *shape)).shape == (3, classes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_one_gives_what_the_sample_gives_in_a_larger_batch(name):
    make, shape, classes = NETWORKS[name]
    torch.manual_seed(0)
    network, x = make().eval(), torch.rand(3, *shape)
    with torch.no_grad():
        alone = network(x[:1])
        assert alone.shape == (1, classes)
        torch.testing.assert_close(alone, network(x)[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    make, shape, _ = NETWORKS[name]
    network = make()
    network(torch.rand(3, *shape)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def conv(before, after, size):
    return before * after * size * size


def basic_stage(before, after, blocks):
    """Convolutions of 3x3 and two numbers a channel for each normalization; 1x1 shortcut where the width grows."""
    total = 0
    for block in range(blocks):
        width = before if block == 0 else after
        total += conv(width, after, 3) + conv(after, after, 3) + 2 * 2 * after
        if width != after:
            total += conv(width, after, 1) + 2 * after
    return total


@pytest.mark.parametrize(("make", "blocks"), [(resnet10, 1), (resnet18, 2)])
def test_resnet_parameters(make, blocks):
    stages = basic_stage(64, 64, blocks) + basic_stage(64, 128, blocks)
    stages += basic_stage(128, 256, blocks) + basic_stage(256, 512, blocks)
    assert count(make(100)) == conv(3, 64, 3) + 2 * 64 + stages + 512 * 100 + 100


def test_resnet18_has_the_published_size():
    assert count(resnet18(100)) == 11_220_132


def test_the_stem_keeps_the_resolution():
    network = resnet10(10)
    seen = []
    network.layer1.register_forward_hook(lambda module, args, output: seen.append((args[0].shape, output.shape)))
    network.layer4.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    network(torch.rand(2, 3, 32, 32))
    assert seen == [((2, 64, 32, 32), (2, 64, 32, 32)), (2, 512, 4, 4)]


def test_the_stem_is_initialized_like_the_other_convolutions():
    torch.manual_seed(0)
    # He initialization by fan-out: variance 2 / (64 * 3 * 3).
    assert float(resnet18(10).conv1.weight.detach().std()) == pytest.approx((2 / 576) ** 0.5, rel=0.1)


def test_small_cnn_parameters():
    assert count(SmallCNN()) == (conv(1, 32, 3) + 32) + (conv(32, 64, 3) + 64) + (64 * 16 * 10 + 10)


def test_mlp_layers():
    assert count(MLP(4, 3)) == (4 * 128 + 128) + (128 * 128 + 128) + (128 * 3 + 3)
    assert count(MLP(4, 3, hidden=[])) == 4 * 3 + 3
    linear = [layer for layer in MLP(4, 3, hidden=(7, 5)).modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(4, 7), (7, 5), (5, 3)]


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        MLP(4, 3, hidden=(0,))
    with pytest.raises(ValueError, match="even"):
        SmallCNN(image_size=7)
