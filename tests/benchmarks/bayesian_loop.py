"""The sequential torch loop for Bayesian networks: variational density propagation, as written.

Like `sequential_loop` it is oracle and baseline, caches nothing, and imports nothing from the
package. Parameters have the package's names, so that weights can be exchanged.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
Pair = tuple[Tensor, Tensor]  # mean and variance


class BayesianLinear(nn.Module):
    """Gaussian weights and biases: means, and rho with the variance softplus(rho)."""

    def __init__(self, inputs: int, outputs: int, rho: float = -5.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(outputs, inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_rho = nn.Parameter(torch.full((outputs, inputs), rho))
        self.bias_rho = nn.Parameter(torch.full((outputs,), rho))

    def forward(self, moments: Pair) -> Pair:
        mean, variance = moments
        weight_variance = functional.softplus(self.weight_rho)
        out = functional.linear(mean, self.weight, self.bias)
        out_variance = (
            functional.linear(mean**2, weight_variance)
            + functional.linear(variance, self.weight**2)
            + functional.linear(variance, weight_variance)
            + functional.softplus(self.bias_rho)
        )
        return out, out_variance


class Activation(nn.Module):
    """f(mean), f'(mean)^2 variance."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, moments: Pair) -> Pair:
        mean, variance = moments
        if self.name == "tanh":
            return torch.tanh(mean), (1 - torch.tanh(mean) ** 2) ** 2 * variance
        if self.name == "relu":
            return torch.relu(mean), (mean > 0).to(mean.dtype) * variance
        below = SELU_SCALE * SELU_ALPHA * torch.exp(mean.clamp_max(0.0))
        slope = torch.where(mean > 0, SELU_SCALE, below)
        return functional.selu(mean), slope**2 * variance


class BayesianMLP(nn.Module):
    """Hidden layers (`body`) and one linear top layer (`head`), from rows or from moments."""

    def __init__(self, body: nn.Sequential, head: BayesianLinear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, inputs: Tensor) -> Pair:
        """Return mean and variance of the logits."""
        return self.head(self.body((inputs, torch.zeros_like(inputs))))


def make_bayesian_mlp(
    inputs: int, width: int, depth: int, classes: int, activation: str, rho: float = -5.0
) -> BayesianMLP:
    """A Bayesian MLP with `depth` hidden layers, its means drawn from torch's generator."""
    layers: list[nn.Module] = []
    for layer in range(depth):
        layers += [BayesianLinear(width if layer else inputs, width, rho), Activation(activation)]
    head = BayesianLinear(width if depth else inputs, classes, rho)
    return BayesianMLP(nn.Sequential(*layers), head)


def row_losses(logits: Pair, targets: Tensor, noise: float) -> Tensor:
    """-log N(label; m, v + noise) of the softmax's moments, less a constant, in nats."""
    mean, variance = logits
    m = functional.softmax(mean, dim=1)
    v = (m * (1 - m)) ** 2 * variance + noise
    labels = functional.one_hot(targets, mean.shape[1]).to(mean.dtype)
    return 0.5 * (torch.log(v / noise) + (labels - m) ** 2 / v).sum(1)


def kl_divergence(model: nn.Module) -> Tensor:
    """KL of all weights and biases to N(0, 1), in nats."""
    total = torch.zeros(())
    for layer in model.modules():
        if isinstance(layer, BayesianLinear):
            for mean, rho in (
                (layer.weight, layer.weight_rho),
                (layer.bias, layer.bias_rho),
            ):
                variance = functional.softplus(rho)
                total = total + 0.5 * (variance + mean**2 - 1 - torch.log(variance)).sum()
    return total


def criterion(
    rows: int, noise: float = 0.1, kl_weight: float = 1.0, whole: bool = True
) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The objective 1/rows (sum of losses + kl_weight KL), of all layers or of the head alone."""

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        moving = model if whole else model.head
        data = row_losses(model(inputs), targets, noise).sum()
        return (data + kl_weight * kl_divergence(moving)) / rows

    return loss
