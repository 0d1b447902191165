"""Layers that propagate moments, against sampling of what they stand for."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ifcheck.models import moments
from ifcheck.models.moments import Moments, bayesian, softmax, softplus

SAMPLES = 40_000
SIGMAS = 5.0  # of the sampled value: about one in two million by chance, of some hundred values
ROUNDING = 1e-14  # of a mean over all samples of a value that is certain
SMALL = 1e-6  # variance at which a first-order Taylor series is right to less than sampling's error


def sampled(draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance over the first axis, and the standard error of each."""
    mean, centred = draws.mean(0), draws - draws.mean(0)
    variance = centred.square().mean(0)
    of_variance = (centred.pow(4).mean(0) - variance.square()).clamp_min(0.0)
    return mean, variance, (variance / len(draws)).sqrt(), (of_variance / len(draws)).sqrt()


def check_sampled(found: Moments, draws: Tensor, slack: float = 0.0) -> None:
    """The moments are the draws', within sampling error and a relative slack of the variance."""
    mean, variance, mean_error, variance_error = sampled(draws)
    assert ((found.mean - mean).abs() <= SIGMAS * mean_error + ROUNDING).all()
    bound = SIGMAS * variance_error + slack * variance + ROUNDING**2
    assert ((found.variance - variance).abs() <= bound).all()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def random_moments(*shape: int, scale: float = 0.5) -> Moments:
    """Means about 1 in size; variances up to `scale`, some of them zero."""
    variance = scale * torch.rand(shape, generator=generator(2), dtype=torch.float64)
    return Moments(normal(*shape, seed=1), variance * (variance > 0.1 * scale))


def draws_of(given: Moments, samples: int = SAMPLES, seed: int = 3) -> Tensor:
    """Independent Gaussian draws of every value. Shape: (samples, ...)."""
    noise = normal(samples, *given.mean.shape, seed=seed)
    return given.mean + given.variance.sqrt() * noise


def random_layer(plain: nn.Module) -> moments.GaussianLayer:
    """The Bayesian form of a layer, with means and rho about 1 in size."""
    layer = bayesian(plain.double())
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=10 + index)
    return layer


def drawn_weights(layer: moments.GaussianLayer, samples: int) -> tuple[Tensor, Tensor]:
    """Draws of weights and biases, (samples, ...)."""
    weights = Moments(layer.weight.detach(), softplus(layer.weight_rho.detach()))
    biases = Moments(layer.bias.detach(), softplus(layer.bias_rho.detach()))
    return draws_of(weights, samples, seed=4), draws_of(biases, samples, seed=5)


LINEAR = (lambda: nn.Linear(4, 3), (2, 4))
CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (2, 2, 5, 4)),
    "strided and padded": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (1, 2, 6, 5)),
    "dilated": (lambda: nn.Conv2d(1, 2, 2, dilation=2), (1, 1, 5, 5)),
    "in groups": (lambda: nn.Conv2d(4, 4, 2, groups=2), (1, 4, 3, 3)),
}
WEIGHTED = pytest.mark.parametrize(
    ("make", "shape"), [LINEAR, *CONVOLUTIONS.values()], ids=["linear", *CONVOLUTIONS]
)


@WEIGHTED
@pytest.mark.parametrize("certain", [True, False], ids=["certain inputs", "random inputs"])
def test_a_layer_of_gaussian_weights_is_exact(make, shape, certain):
    layer = random_layer(make())
    given = Moments.of_certain(normal(*shape, seed=1)) if certain else random_moments(*shape)
    with torch.no_grad():
        found = layer(given)
    weights, biases = drawn_weights(layer, SAMPLES)
    inputs = draws_of(given)
    combine = torch.func.vmap(layer.combine)
    with torch.no_grad():
        draws = torch.cat(
            [
                combine(x, w, b)
                for x, w, b in zip(
                    inputs.split(1000), weights.split(1000), biases.split(1000), strict=True
                )
            ]
        )
    check_sampled(found, draws)


@WEIGHTED
def test_without_variances_it_is_the_plain_layer(make, shape):
    plain = make().double()
    layer = bayesian(plain)
    for name, parameter in layer.named_parameters():
        if name.endswith(moments.RHO):
            parameter.data.fill_(-800.0)
    inputs = normal(*shape, seed=1)
    with torch.no_grad():
        found = layer(Moments.of_certain(inputs))
        torch.testing.assert_close(found.mean, plain(inputs), rtol=0, atol=1e-14)
    assert (found.variance == 0).all()


ELEMENTWISE = {"selu": nn.SELU, "tanh": nn.Tanh, "relu": nn.ReLU}


@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_an_activation_is_right_to_first_order(activation):
    plain = ELEMENTWISE[activation]()
    given = Moments(
        torch.linspace(-3, 3, 24, dtype=torch.float64), torch.full((24,), SMALL).double()
    )
    check_sampled(bayesian(plain)(given), plain(draws_of(given)), slack=1e-3)


@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_its_slope_is_autograd_s(activation):
    plain = ELEMENTWISE[activation]()
    argument = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(plain(argument).sum(), argument)
    value = torch.ones_like(argument)
    found = bayesian(plain)(Moments(argument.detach(), value)).variance
    torch.testing.assert_close(found, slope.square(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("padding", [0, 1])
def test_average_pooling_is_exact(padding):
    plain = nn.AvgPool2d((2, 3), stride=2, padding=padding)
    given = random_moments(2, 3, 6, 6)
    check_sampled(
        bayesian(plain)(given), plain(draws_of(given).flatten(0, 1)).unflatten(0, (-1, 2))
    )


def test_max_pooling_is_right_to_first_order():
    plain = nn.MaxPool2d(2)
    given = random_moments(2, 3, 4, 6, scale=SMALL)
    found = bayesian(plain)(given)
    check_sampled(found, plain(draws_of(given).flatten(0, 1)).unflatten(0, (-1, 2)))
    torch.testing.assert_close(found.mean, plain(given.mean))


def test_flattening_keeps_what_belongs_together():
    given = random_moments(2, 3, 4, 5)
    found = bayesian(nn.Flatten())(given)
    for one, other in zip(found, given, strict=True):
        assert torch.equal(one, other.view(2, 60))


# --- softmax ---------------------------------------------------------------------------------


def test_the_full_jacobian_of_softmax_is_right_to_first_order():
    given = Moments(
        normal(4, 3), torch.full((4, 3), SMALL).double() * torch.tensor([1.0, 4.0, 0.5])
    )
    draws = draws_of(given).softmax(-1)
    check_sampled(softmax(given, "full"), draws, slack=1e-3)


def test_the_diagonal_leaves_out_the_other_logits_variances():
    """Of each class it keeps what its own logit contributes: sampled with the others certain."""
    given = Moments(normal(4, 3), torch.full((4, 3), SMALL).double())
    found = softmax(given)
    assert torch.equal(found.mean, given.mean.softmax(1))
    for c in range(3):
        own = torch.zeros(3).double()
        own[c] = 1.0
        alone = Moments(given.mean, given.variance * own)
        _, variance, _, error = sampled(draws_of(alone).softmax(-1))
        difference = (found.variance[:, c] - variance[:, c]).abs()
        assert (difference <= SIGMAS * error[:, c] + 1e-3 * variance[:, c]).all()
    assert (found.variance < softmax(given, "full").variance).all()


@pytest.mark.parametrize("jacobian", moments.JACOBIANS)
def test_one_class_is_certain_and_huge_logits_are_finite(jacobian):
    one = softmax(Moments(torch.zeros(2, 1), torch.ones(2, 1)), jacobian)
    assert (one.mean == 1).all()
    assert (one.variance == 0).all()
    huge = softmax(Moments(torch.tensor([[1e4, -1e4, 0.0]]), torch.full((1, 3), 1e6)), jacobian)
    assert huge.mean.isfinite().all()
    assert (huge.variance == 0).all()


# --- variances from rho, and what has no Bayesian form ----------------------------------------


@pytest.mark.parametrize("rho", [-200.0, -20.0, -5.0, 0.0, 1.0, 39.0, 41.0, 700.0])
def test_softplus_is_right_to_rounding_everywhere(rho):
    exact = float(np.logaddexp(np.longdouble(0), np.longdouble(rho)))
    exact = math.exp(rho) if rho < -40 else exact
    assert softplus(torch.tensor(rho).double()).item() == pytest.approx(exact, rel=1e-15)


def test_packing_keeps_means_first():
    given = random_moments(3, 4)
    packed = given.pack()
    assert packed.shape == (3, 2, 4)
    assert torch.equal(packed[:, 0], given.mean)
    for one, other in zip(Moments.unpack(packed), given, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        (nn.Dropout(), "Dropout has no Bayesian form; expected one of Linear, Conv2d"),
        (nn.Linear(2, 2, bias=False), "Linear without biases"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "'reflect'; expected 'zeros'"),
        (nn.AvgPool2d(2, ceil_mode=True), "all be of one size"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "all be of one size"),
        (nn.Flatten(0), "must keep the rows"),
    ],
)
def test_a_layer_without_a_bayesian_form_is_refused(plain, words):
    with pytest.raises(ValueError, match=words):
        bayesian(plain)


def test_gradients_reach_every_parameter_in_float32():
    body = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.SELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    layers = [bayesian(layer) for layer in body]
    given = Moments.of_certain(torch.randn(4, 1, 6, 6, generator=generator()))
    for layer in layers:
        given = layer(given)
    loss = functional.mse_loss(given.mean, given.variance)
    loss.backward()
    for layer in layers:
        for parameter in layer.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0
