"""Bayesian networks: what they are made of, how they start, what they say."""

import math

import pytest
import torch
from torch import nn

from ifcheck.models import Network, NetworkSpec, VariationalNetwork, VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.models.moments import RHO, Moments, softplus
from ifcheck.objective import VariationalObjective
from ifcheck.params import Layout
from tests.benchmarks import bayesian_loop as loop

ACTIVATIONS = ["selu", "tanh", "relu"]


def bayesian_mlp(depth: int = 2, width: int = 5, activation: str = "tanh", **options) -> Network:
    spec = VariationalSpec(MLPSpec(depth, width, activation), **options)
    return initialise(spec, (4,), 3, 0, torch.float64)


def inputs(rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 3])
def test_moments_of_the_logits_are_the_plain_loop_s(depth, activation):
    network = bayesian_mlp(depth, 5, activation, rho=-1.0, rho_spread=2.0)
    other = loop.make_bayesian_mlp(4, 5, depth, 3, activation).double()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        found, expected = Moments.unpack(network(inputs())), other(inputs())
    torch.testing.assert_close(found.mean, expected[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.variance, expected[1], rtol=1e-13, atol=1e-13)


def test_features_and_head_make_the_network():
    network = bayesian_mlp()
    features = network.features(inputs())
    assert features.shape == (6, 2, 5)
    assert network.head(features).shape == (6, 2, 3)
    assert torch.equal(network.head(features), network(inputs()))
    assert network.head.out_features == 3


def test_parameters_stand_layer_by_layer_means_first():
    names = Layout.of(bayesian_mlp(1)).names
    kinds = ["weight", "bias", "weight_rho", "bias_rho"]
    assert names == tuple(f"{layer}.{kind}" for layer in ("body.0", "head") for kind in kinds)
    layout = Layout.of(bayesian_mlp(1))
    assert layout.is_rho.sum() == layout.size // 2
    assert layout.positions("head-mean").tolist() == [
        p for p in layout.positions("head").tolist() if not layout.is_rho[p]
    ]


# --- where they start ------------------------------------------------------------------------


def test_means_start_by_xavier_and_variances_at_rho():
    network = bayesian_mlp(3, 200)
    for name, parameter in network.named_parameters():
        if name.endswith(RHO):
            assert (parameter == -5.0).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            expected = math.sqrt(2 / sum(parameter.shape))
            assert parameter.std().item() == pytest.approx(expected, rel=0.15)
    assert softplus(torch.tensor(-5.0)).item() == pytest.approx(math.log1p(math.exp(-5)))


def test_default_means_are_those_of_the_plain_network():
    network = bayesian_mlp(2, means="default")
    plain = initialise(MLPSpec(2, 5, "tanh"), (4,), 3, 0, torch.float64)
    for name, parameter in plain.named_parameters():
        assert torch.equal(network.get_parameter(name), parameter)


def test_rho_can_be_drawn_from_an_interval():
    rho = bayesian_mlp(2, 40, rho=0.0, rho_spread=5.0).head.weight_rho
    assert rho.min() >= 0
    assert rho.max() <= 5
    assert rho.std() > 1


def test_a_seed_gives_the_same_network_again_and_another_seed_another():
    def flat(seed: int) -> torch.Tensor:
        network = initialise(VariationalSpec(MLPSpec()), (4,), 3, seed, torch.float32)
        return nn.utils.parameters_to_vector(network.parameters())

    assert torch.equal(flat(1), flat(1))
    assert not torch.equal(flat(1), flat(2))


# --- other networks --------------------------------------------------------------------------


class Convolutional(Network):
    """A body of every layer that has a Bayesian form, and a linear head."""

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.Tanh(), pooling, nn.Flatten(), nn.Linear(12, 5), nn.SELU()
        )
        self.head = nn.Linear(5, 4)

    def features(self, rows: torch.Tensor) -> torch.Tensor:
        return self.body(rows)


@pytest.mark.parametrize("pooling", [nn.AvgPool2d(2), nn.MaxPool2d(2)], ids=["average", "max"])
def test_a_convolutional_network_has_a_bayesian_form(pooling):
    plain = Convolutional(pooling).double()
    network = VariationalNetwork(plain)
    images = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    outputs = network(images)
    assert outputs.shape == (3, 2, 4)
    torch.testing.assert_close(outputs[:, 0], plain(images), rtol=1e-12, atol=1e-12)
    assert (outputs[:, 1] > 0).all()


@pytest.mark.parametrize("pooling", [nn.AvgPool2d(2), nn.MaxPool2d(2)], ids=["average", "max"])
def test_batches_of_unequal_size_have_the_loss_and_gradient_of_all_rows(pooling):
    network = VariationalNetwork(Convolutional(pooling).double())
    objective = VariationalObjective(rows=7)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(7, 1, 6, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (7,), generator=generator)
    share = torch.full((7,), 1 / 7, dtype=torch.float64)
    parameters = list(network.parameters())
    loss = objective.data_loss(network(images), targets, share)
    gradient = torch.autograd.grad(loss, parameters)
    losses = [
        objective.data_loss(network(rows), labels, shares)
        for rows, labels, shares in zip(
            images.split(3), targets.split(3), share.split(3), strict=True
        )
    ]
    torch.testing.assert_close(sum(losses), loss, rtol=1e-14, atol=0)
    for found, expected in zip(torch.autograd.grad(sum(losses), parameters), gradient, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


class Branched(Network):
    """A network whose body is no sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)


class BranchedSpec(NetworkSpec):
    def build(self, input_shape: tuple[int, ...], classes: int) -> Network:
        return Branched()


def test_a_network_without_a_sequence_of_layers_is_refused():
    with pytest.raises(ValueError, match="Branched has no Bayesian form"):
        VariationalSpec(BranchedSpec()).build((4,), 3)
