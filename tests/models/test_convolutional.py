"""LeNet-5 and VGG13: the layers that their authors describe, and what they refuse."""

import itertools

import pytest
import torch
from torch import nn

from ifcheck.errors import UnusableInput
from ifcheck.models import MLP, NETWORKS, VariationalSpec, initialise, rows_at_once

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(name, channels=3, **options):
    spec = NETWORKS.create(name, options)
    return initialise(spec, (channels, 32, 32), 10, 0, torch.float32)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_lenet_has_the_parameters_of_its_paper_s_layers(channels):
    """C1 6 @ 5x5, C3 16 @ 5x5 (of all maps), C5 120 @ 5x5, F6 84, output 10."""
    layers = [(25 * channels, 6), (25 * 6, 16), (25 * 16, 120), (120, 84), (84, 10)]
    assert parameters(build("lenet", channels)) == sum((a + 1) * b for a, b in layers)


def test_vgg13_has_the_parameters_of_its_layers():
    channels = [3, 64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    layers = [(9 * a, b) for a, b in itertools.pairwise(channels)]
    layers += [(512, 4096), (4096, 4096), (4096, 1000), (1000, 10)]
    assert parameters(build("vgg13")) == sum((a + 1) * b for a, b in layers)


@pytest.mark.parametrize(("name", "features"), [("lenet", 84), ("vgg13", 1000)])
def test_the_head_is_the_last_linear_layer(name, features):
    network = build(name)
    assert network.features(IMAGES).shape == (3, features)
    assert (network.head.in_features, network.head.out_features) == (features, 10)
    torch.testing.assert_close(network(IMAGES), network.head(network.features(IMAGES)))


def test_lenet_step_by_step():
    """The same by functions of torch, layer for layer."""
    from torch.nn import functional

    network = build("lenet")
    values = dict(network.named_parameters())
    x = IMAGES
    for index in (0, 3):
        x = functional.conv2d(x, values[f"body.{index}.weight"], values[f"body.{index}.bias"])
        x = functional.avg_pool2d(torch.tanh(x), 2)
    assert x.shape == (3, 16, 5, 5)
    x = torch.tanh(functional.conv2d(x, values["body.6.weight"], values["body.6.bias"]))
    x = torch.tanh(functional.linear(x[:, :, 0, 0], values["body.9.weight"], values["body.9.bias"]))
    torch.testing.assert_close(network.features(IMAGES), x)


def test_dropout_is_for_training_alone():
    network = build("vgg13")
    assert not network.training
    torch.testing.assert_close(network(IMAGES), network(IMAGES), rtol=0, atol=0)
    dropouts = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert dropouts == [0.4, 0.4, 0.4]
    network.train()
    assert not torch.equal(network(IMAGES), network(IMAGES))


@pytest.mark.parametrize("value", [-0.1, 1, "much"])
def test_an_impossible_dropout_is_refused(value):
    with pytest.raises(UnusableInput, match=r"dropout|compar|supported"):
        NETWORKS.create("vgg13", {"dropout": value})


@pytest.mark.parametrize("name", ["lenet", "vgg13"])
@pytest.mark.parametrize("shape", [(4,), (1, 8, 8), (32, 32)])
def test_images_of_another_size_are_refused(name, shape):
    with pytest.raises(UnusableInput, match=f"{name} takes images of 32 x 32 pixels; rows have"):
        initialise(NETWORKS.create(name), shape, 10, 0, torch.float32)


def test_lenet_has_a_bayesian_form_and_vgg13_has_none():
    spec = VariationalSpec(NETWORKS.create("lenet"))
    assert spec.convolutional
    network = initialise(spec, (3, 32, 32), 10, 0, torch.float32)
    assert network(IMAGES).shape == (3, 2, 10)
    with pytest.raises(UnusableInput, match="Dropout has no Bayesian form"):
        initialise(VariationalSpec(NETWORKS.create("vgg13")), (3, 32, 32), 10, 0, torch.float32)


def test_fc_is_a_perceptron_of_one_tanh_layer():
    network = initialise(NETWORKS.create("fc"), (1, 28, 28), 10, 0, torch.float32)
    assert type(network) is MLP
    assert network.layer_sizes == (784, 128, 10)
    assert network.activation == "tanh"
    flags = {name: NETWORKS.create(name).convolutional for name in NETWORKS}
    assert flags == {"mlp": False, "fc": False, "lenet": True, "vgg13": True}


def test_rows_that_are_differentiated_twice_together_leave_so_many_activations(monkeypatch):
    network = build("lenet")
    pooled = 6 * 14**2 + 16 * 5**2
    values = 2 * (6 * 28**2 + 16 * 10**2 + 120 + 84) + pooled + 120 + 10
    for allowed, rows in ((values, 1), (5 * values + 1, 5), (values - 1, 1), (1 << 40, 1_024)):
        monkeypatch.setattr("ifcheck.models.base.DERIVED_VALUES", allowed)
        assert rows_at_once(network, IMAGES) == rows
    spec = VariationalSpec(NETWORKS.create("lenet"))
    bayesian = initialise(spec, (3, 32, 32), 10, 0, torch.float32)
    monkeypatch.setattr("ifcheck.models.base.DERIVED_VALUES", 11 * values)
    assert rows_at_once(bayesian, IMAGES) == 5  # each value has a mean and a variance
    assert not any(module._forward_hooks for module in network.modules())
