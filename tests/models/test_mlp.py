"""Multilayer perceptrons: their function, their specification, their initialisation."""

import numpy as np
import pytest
import torch
from torch import nn

from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.models import MLP, NETWORKS, initialise
from ifcheck.models.base import Network
from ifcheck.models.mlp import MLPSpec
from ifcheck.params import Layout
from tests import oracles

ACTIVATIONS = ["selu", "tanh", "relu"]


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def values(network: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach()


# --- the network -----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("depth", "width"), [(1, 5), (3, 4), (8, 1)])
def test_logits_against_numpy(depth, width, activation):
    network = MLP(4, width, depth, 3, activation).double()
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linear_layers(network)]
    expected = oracles.numpy_mlp(layers, inputs.numpy(), activation)
    with torch.no_grad():
        np.testing.assert_allclose(network(inputs).numpy(), expected, atol=1e-14)
        np.testing.assert_allclose(
            network.features(inputs) @ network.head.weight.T + network.head.bias,
            expected,
            atol=1e-14,
        )


@pytest.mark.parametrize(("depth", "width"), [(1, 5), (2, 5), (8, 5), (1, 50)])
def test_sizes_of_the_layers(depth, width):
    network = MLPSpec(depth, width).build((4,), 3)
    shapes = [(layer.in_features, layer.out_features) for layer in linear_layers(network)]
    assert shapes == [(4, width), *[(width, width)] * (depth - 1), (width, 3)]
    assert network.layer_sizes == (4, *[width] * depth, 3)
    assert network.head.in_features == width


def test_inputs_of_several_axes_are_read_row_by_row():
    network = MLPSpec(2, 3).build((2, 3, 4), 5)
    images = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert network(images).shape == (6, 5)
    assert torch.equal(network(images), network(images.reshape(6, 24)))


def test_the_head_comes_last_in_the_flat_vector():
    layout = Layout.of(MLPSpec(2, 5).build((4,), 3))
    assert layout.positions("head").tolist() == [*range(layout.size - 18, layout.size)]


class Unfinished(Network):
    """A network whose author forgot `features`."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)


def test_a_network_without_features_says_so():
    with pytest.raises(NotImplementedError, match=r"Unfinished must define features\(\)"):
        Unfinished()(torch.zeros(1, 4))


# --- the specification -----------------------------------------------------------------------


def test_the_defaults_are_the_paper_s_smallest_network():
    assert NETWORKS.create("mlp") == MLPSpec(depth=1, width=5, activation="selu")


@pytest.mark.parametrize("name", ["depth", "width"])
@pytest.mark.parametrize("size", [0, -1, 1.0, 2.5, "3", True, None])
def test_a_size_that_is_no_positive_integer_is_refused(name, size):
    with pytest.raises(UnusableInput, match=f"{name} is {size!r}; expected an integer") as error:
        NETWORKS.create("mlp", {name: size})
    assert error.value.remedy == "Its options are: depth, width, activation."


def test_an_unknown_activation_lists_the_known():
    with pytest.raises(UnusableInput, match="'gelu'; expected one of selu, tanh, relu"):
        NETWORKS.create("mlp", {"activation": "gelu"})


def test_an_unknown_network_suggests_a_near_one():
    with pytest.raises(UnknownName, match="unknown network 'mpl'") as error:
        NETWORKS.create("mpl")
    assert "Did you mean 'mlp'?" in error.value.remedy


# --- initialisation --------------------------------------------------------------------------


def start(seed: int, dtype: torch.dtype = torch.float64, **options) -> Network:
    return initialise(MLPSpec(**options), (4,), 3, seed, dtype)


def test_a_seed_decides_all_values():
    assert torch.equal(values(start(3)), values(start(3)))
    rows = torch.stack([values(start(seed)) for seed in range(20)])
    assert len({tuple(row.tolist()) for row in rows}) == 20


def test_the_global_generator_neither_decides_nor_moves():
    torch.manual_seed(1)
    first = values(start(0))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(values(start(0)), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("depth", [1, 8])
def test_single_and_double_precision_start_from_equal_values(depth):
    single, double = (start(0, dtype, depth=depth) for dtype in (torch.float32, torch.float64))
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert torch.equal(values(single).double(), values(double))


def test_initial_values_are_torch_s_default():
    """Uniform within 1 / sqrt(inputs) of a layer: the bound is kept, and nearly reached."""
    networks = [start(seed, depth=2, width=10) for seed in range(30)]
    for position, fan_in in enumerate((4, 10, 10)):
        layers = [linear_layers(network)[position] for network in networks]
        drawn = torch.cat([torch.cat([m.weight.flatten(), m.bias]) for m in layers]).detach()
        bound = fan_in**-0.5
        assert drawn.abs().max() <= bound
        assert drawn.abs().max() > 0.99 * bound
        # standard error of the mean of uniform values is bound / sqrt(3 n)
        assert drawn.mean().abs() < 5 * bound / (3 * len(drawn)) ** 0.5


def test_a_network_is_ready_to_be_evaluated():
    assert not start(0).training
