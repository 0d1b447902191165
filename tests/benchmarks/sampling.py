"""How far propagated moments are from sampling all weights of a network jointly:

python -m tests.benchmarks.sampling
python -m tests.benchmarks.sampling --activation tanh --samples 2000

The formulas take the values of a layer for independent, activations for linear around their
mean, and leave terms of the softmax out. What that costs on trained networks is reported here
and asserted nowhere: only single layers are exact.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from ifcheck.engines import ENGINES, Recipe, Task
from ifcheck.models import Network, VariationalSpec, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.models.moments import RHO, Moments, softmax, softplus
from ifcheck.objective import VariationalObjective, uniform_weights
from ifcheck.params import load_flat, stack_modules
from tests.benchmarks import engines
from tests.benchmarks import sequential_loop as loop

SIZES = ((1, 5), (3, 5), (8, 5), (1, 50))
SEEDS = 10
EPOCHS = 60_000
AT_ONCE = 500  # samples of a network's weights
QUANTILES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


@dataclass(frozen=True)
class Gap:
    """Propagated over sampled variance, and propagated less sampled mean; seeds joined."""

    logits: Tensor  # (values,) ratio of variances
    diagonal: Tensor  # (values,) the same of the softmax
    full: Tensor  # (values,) the same with the softmax's whole Jacobian
    mean: Tensor  # (values,) difference of the softmax's means
    accuracies: tuple[float, float]  # of the propagated and of the sampled mean


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--activation", default="selu", choices=("selu", "tanh", "relu"))
    parser.add_argument("--samples", type=int, default=10_000, help="of all weights of a network")
    options = parser.parse_args()
    print(f"{options.activation}, {SEEDS} seeds, {options.samples} samples: variance propagated /")
    print("sampled at quantiles .1 .5 .9 of all rows and classes; the softmax's means, accuracies")
    for depth, width in SIZES:
        gap = measure(depth, width, options.activation, options.samples)
        ratios = "  ".join(
            f"{name} {' '.join(f'{value:.2f}' for value in ratio.quantile(QUANTILES))}"
            for name, ratio in (
                ("logits", gap.logits),
                ("diagonal", gap.diagonal),
                ("full", gap.full),
            )
        )
        print(
            f"depth {depth}, width {width}: {ratios}  mean off by {gap.mean.abs().median():.4f}, "
            f"at most {gap.mean.abs().max():.3f}; {gap.accuracies[0]:.3f} {gap.accuracies[1]:.3f}",
            flush=True,
        )


def measure(depth: int, width: int, activation: str, samples: int) -> Gap:
    """Train networks of one size and sample their weights."""
    inputs, targets, *_ = loop.load_iris_without(loop.MAX_LOSS_ROW, torch.float64)
    plain = MLPSpec(depth, width, activation)
    parts: dict[str, list[Tensor]] = {"logits": [], "diagonal": [], "full": [], "mean": []}
    right: list[tuple[float, float]] = []
    for seed, network in enumerate(trained(plain, inputs, targets)):
        with torch.no_grad():
            logits = Moments.unpack(network(inputs))
        diagonal, full = softmax(logits, "diagonal"), softmax(logits, "full")
        draws = torch.cat([*outputs(network, plain, inputs, samples, seed)])
        logit_variance, probabilities = draws.var(0), draws.softmax(-1)
        mean, variance = probabilities.mean(0), probabilities.var(0)
        parts["logits"].append(logits.variance / logit_variance)
        parts["diagonal"].append(diagonal.variance / variance)
        parts["full"].append(full.variance / variance)
        parts["mean"].append(diagonal.mean - mean)
        right.append(tuple((m.argmax(1) == targets).double().mean() for m in (diagonal.mean, mean)))
    joined = {name: torch.cat(values).flatten() for name, values in parts.items()}
    accuracies = torch.tensor(right).mean(0).tolist()
    return Gap(**joined, accuracies=(accuracies[0], accuracies[1]))


def trained(plain: MLPSpec, inputs: Tensor, targets: Tensor) -> list[Network]:
    """Return Bayesian networks after the study's training, in float64."""
    networks = [
        initialise(VariationalSpec(plain), inputs.shape[1:], 3, seed, torch.float64)
        for seed in range(SEEDS)
    ]
    task = Task(
        network=networks[0],
        objective=VariationalObjective(rows=len(targets)),
        parameters=stack_modules(networks),
        inputs=inputs[None],
        targets=targets,
        weights=uniform_weights(len(targets), torch.float64).expand(SEEDS, -1),
    )
    fit = ENGINES.create(engines.engines()[0]).fit(task, Recipe(EPOCHS))
    for network, flat in zip(networks, fit.parameters, strict=True):
        load_flat(network, flat)
    return networks


def outputs(
    network: Network, plain: MLPSpec, inputs: Tensor, samples: int, seed: int
) -> Iterator[Tensor]:
    """Yield the logits, (samples, rows, classes), of the plain network under drawn weights."""
    generator = torch.Generator().manual_seed(seed)
    layers = plain.build(inputs.shape[1:], 3).double()
    values = {name: value.detach() for name, value in network.named_parameters()}
    for first in range(0, samples, AT_ONCE):
        count = min(AT_ONCE, samples - first)
        drawn = {
            name: values[name]
            + softplus(values[name + RHO]).sqrt()
            * torch.randn(count, *values[name].shape, generator=generator, dtype=torch.float64)
            for name, _ in layers.named_parameters()
        }
        with torch.no_grad():
            yield vmap(lambda weights: functional_call(layers, weights, (inputs,)))(drawn)


if __name__ == "__main__":
    main()
