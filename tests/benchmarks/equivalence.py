"""Whether float32 engines and the sequential float32 loop give the same distributions.

Trajectories in float32 cannot be compared number by number: rounding is amplified. Compared are 50
seeds of each, by test loss, by the true changes' size and by the Spearman correlation of predicted
with true change, with a two-sample Kolmogorov-Smirnov test. Both sides start from networks of
their own.

    python -m tests.benchmarks.equivalence --depth 8
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, field

import torch
from scipy import stats
from torch import Tensor, nn

from ifcheck.curvature.local import local_model
from ifcheck.engines import ENGINES, Recipe, Task
from ifcheck.models import Network, initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, uniform_weights, weights_without
from ifcheck.params import load_flat, stack_modules
from ifcheck.scores import ESTIMATORS, influence_scores
from tests.benchmarks import sequential_loop as loop
from tests.benchmarks.engines import engines

WEIGHT_DECAY = 0.005
OBJECTIVE = Objective(WEIGHT_DECAY)


@dataclass
class Sample:
    """One number for every seed, under each name."""

    test_loss: list[float] = field(default_factory=list)
    change: list[float] = field(default_factory=list)  # median size over the removals
    spearman: list[float] = field(default_factory=list)

    def add(self, network: Network, loss: float, removed: Tensor, changes: Tensor) -> None:
        """Take note of a seed: its network, and what removing each row did to the test loss."""
        predicted = _scores(network)[removed]
        self.test_loss.append(loss)
        self.change.append(changes.abs().median().item())
        self.spearman.append(float(stats.spearmanr(predicted, changes).statistic))


def by_loop(seeds: int, spec: MLPSpec, epochs: int, retrain_epochs: int, removals: int) -> Sample:
    """Return the sample of the sequential loop in float32."""
    sample = Sample()
    for seed in range(seeds):
        network = initialise(spec, (4,), 3, 1_000 + seed, torch.float32)
        model = loop.make_mlp(4, spec.width, spec.depth, 3, "selu")
        model.load_state_dict(network.state_dict())
        inputs, targets, test_input, test_target = loop.load_iris_without(loop.MAX_LOSS_ROW)
        with loop.one_thread():
            loop.train(model, inputs, targets, epochs=epochs, weight_decay=WEIGHT_DECAY)
            removed = _worst(loop.row_losses(model, inputs, targets), removals)
            before = loop.row_losses(model, test_input, test_target).item()
            changes = []
            for row in removed.tolist():
                tuned, kept = copy.deepcopy(model), torch.arange(len(targets)) != row
                loop.train(
                    tuned,
                    inputs[kept],
                    targets[kept],
                    epochs=retrain_epochs,
                    weight_decay=WEIGHT_DECAY,
                    parameters=tuned.head.parameters(),
                )
                changes.append(loop.row_losses(tuned, test_input, test_target).item() - before)
        network.load_state_dict(model.state_dict())
        sample.add(network, before, removed, torch.tensor(changes))
    return sample


def by_engine(
    name: str, seeds: int, spec: MLPSpec, epochs: int, retrain_epochs: int, removals: int
) -> Sample:
    """Return the sample of an engine in float32."""
    inputs, targets, test_input, test_target = loop.load_iris_without(loop.MAX_LOSS_ROW)
    engine = ENGINES.create(name)
    networks = [initialise(spec, (4,), 3, seed, torch.float32) for seed in range(seeds)]
    weights = uniform_weights(len(targets), torch.float32).expand(seeds, -1)
    start = stack_modules(networks)
    training = Task(networks[0], OBJECTIVE, start, inputs[None], targets, weights)
    for network, flat in zip(networks, engine.fit(training, Recipe(epochs)).live, strict=True):
        load_flat(network, flat)
    with torch.no_grad():
        losses = torch.stack(
            [nn.functional.cross_entropy(n(inputs), targets, reduction="none") for n in networks]
        )
        features = torch.stack([n.features(inputs) for n in networks])
        probes = torch.stack([n.features(test_input) for n in networks])
    removed = torch.stack([_worst(row, removals) for row in losses])
    tuning = Task(
        network=networks[0].head,
        objective=OBJECTIVE,
        parameters=stack_modules([n.head for n in networks]).repeat_interleave(removals, dim=0),
        inputs=features,
        targets=targets,
        weights=weights_without(len(targets), removed.view(-1, 1), "n-1", torch.float32),
        probe_inputs=probes,
        probe_targets=test_target,
    )
    fit = engine.fit(tuning, Recipe(retrain_epochs, record_every=retrain_epochs))
    course = fit.probe_losses[:, 0].unflatten(0, (seeds, removals))
    sample = Sample()
    for network, rows, values in zip(networks, removed, course, strict=True):
        sample.add(network, values[0, 0].item(), rows, values[:, -1] - values[:, 0])
    return sample


def _worst(losses: Tensor, count: int) -> Tensor:
    return torch.sort(losses, descending=True, stable=True).indices[:count]


def _scores(network: Network) -> Tensor:
    """Return the predicted change of the test loss for every training row, in float64."""
    inputs, targets, test_input, test_target = loop.load_iris_without(
        loop.MAX_LOSS_ROW, torch.float64
    )
    estimator = ESTIMATORS.create("objective")
    model = local_model(
        copy.deepcopy(network).double(),
        OBJECTIVE,
        estimator.params,
        (inputs, targets),
        (test_input, test_target),
    )
    return influence_scores(model, estimator).values[0]


def main() -> None:
    """Print the p-value of each comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--width", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=3_000)
    parser.add_argument("--retrain-epochs", type=int, default=1_000)
    parser.add_argument("--removals", type=int, default=8)
    options = parser.parse_args()
    amount = (options.epochs, options.retrain_epochs, options.removals)
    spec = MLPSpec(options.depth, options.width)
    looped = by_loop(options.seeds, spec, *amount)
    for name in engines():
        sample = by_engine(name, options.seeds, spec, *amount)
        for quantity in vars(looped):
            ours, theirs = getattr(sample, quantity), getattr(looped, quantity)
            p = stats.ks_2samp(ours, theirs).pvalue
            middle = [torch.tensor(values).median().item() for values in (ours, theirs)]
            print(
                f"depth {spec.depth} width {spec.width}, {name}: {quantity:9} "
                f"median {middle[0]:.4g}, loop {middle[1]:.4g}, p = {p:.2f}"
            )


if __name__ == "__main__":
    main()
