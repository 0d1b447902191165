"""Predictions and truths whose verdict is known, drawn anew from one generator.

Ridge regressions are solved again without each row, in closed form; changes of a known rank
correlation, bend or noise are drawn. Nothing here is ifcheck's own but the format of the files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ifcheck.artifacts import write_artifact
from ifcheck.config import load_config
from ifcheck.stages.evaluate import evaluate

REMOVALS = 40
ROWS = 150
BOOTSTRAP = {"evaluate.bootstrap_samples": 200}
CONFIG = load_config(None, BOOTSTRAP)

Generator = np.random.Generator


@dataclass(frozen=True)
class Network:
    """What is predicted and what is true of one network and test point, in nats."""

    scores: np.ndarray  # (N,)
    removed: np.ndarray  # (K,)
    before: float
    after: np.ndarray  # (K,) or, of replicates, (K, R)
    null: np.ndarray  # () or (R,)
    null_score: float = 0.0
    baseline: np.ndarray | None = None  # (N,)
    deterministic: str = "nothing is drawn at random"
    dtype: str = "float64"


Scenario = Callable[[Generator, int], Network]  # the latter: how many rows the network has


# --- problems ----------------------------------------------------------------------------------


def ridge(generator: Generator, rows: int, steps: int | None = None) -> Network:
    """A ridge regression, at its optimum or where gradient descent stopped after so many steps.

    Of ten test points the one of largest loss; noise, dimension and weight decay vary.
    """
    features = int(generator.integers(2, 9))
    inputs = generator.normal(size=(rows, features))
    noise, decay = 10 ** generator.uniform(-1, 0.5), 10 ** generator.uniform(-3, -1)
    coefficients = generator.normal(size=features)

    def targets_of(points: np.ndarray) -> np.ndarray:
        return points @ coefficients + noise * generator.normal(size=len(points))

    targets = targets_of(inputs)
    hessian = inputs.T @ inputs / rows + decay * np.eye(features)
    moments = inputs.T @ targets / rows
    optimum = np.linalg.solve(hessian, moments)
    model = optimum if steps is None else np.zeros(features)
    for _ in range(steps or 0):
        model = model - 0.3 * (hessian @ model - moments)
    candidates = generator.normal(size=(10, features))
    wanted = targets_of(candidates)
    worst = int(np.argmax((candidates @ model - wanted) ** 2))

    def test_loss(parameters: np.ndarray) -> np.ndarray:
        return 0.5 * (parameters @ candidates[worst] - wanted[worst]) ** 2

    gradients = (inputs @ model - targets)[:, None] * inputs
    residual = candidates[worst] @ model - wanted[worst]
    solved = np.linalg.solve(hessian, residual * candidates[worst])
    removed = generator.choice(rows, REMOVALS, replace=False)
    gone = inputs[removed]
    without = hessian - gone[:, :, None] * gone[:, None, :] / rows
    left = moments - gone * targets[removed, None] / rows
    return Network(
        scores=gradients @ solved / rows,
        removed=removed,
        before=float(test_loss(model)),
        after=test_loss(np.linalg.solve(without, left[..., None])[..., 0]),
        null=test_loss(optimum),
        null_score=float(-solved @ (hessian @ model - moments)),
    )


def stopped_early(generator: Generator, rows: int) -> Network:
    """The base network is three steps from its start; every retraining ends at an optimum."""
    return ridge(generator, rows, steps=3)


def shuffled(generator: Generator, rows: int) -> Network:
    """The scores of a ridge regression, each given to another row."""
    network = ridge(generator, rows)
    return replace(network, scores=generator.permutation(network.scores))


def opposite(generator: Generator, rows: int) -> Network:
    """The scores of a ridge regression with the sign of a forgotten minus."""
    network = ridge(generator, rows)
    return replace(network, scores=-network.scores)


def few(generator: Generator, rows: int) -> Network:
    """Of the forty removals of a ridge regression, five."""
    network = ridge(generator, rows)
    return replace(network, removed=network.removed[:5], after=network.after[:5])


def rounded(generator: Generator, rows: int) -> Network:
    """Changes of a few roundings of float32, of which the loss keeps what it can."""
    network = ridge(generator, rows)
    size = 3 * float(np.finfo(np.float32).eps) * network.before
    factor = size / network.scores.std()
    after = network.before + factor * (network.after - network.before)
    before = np.float32(network.before)
    return replace(
        network,
        scores=factor * network.scores,
        before=float(before),
        after=after.astype(np.float32).astype(np.float64),
        null=np.array(float(before)),
        dtype="float32",
    )


# --- drawn changes -----------------------------------------------------------------------------


def drawn(
    predicted: np.ndarray, true: np.ndarray, removed: np.ndarray, noise: np.ndarray | None = None
) -> Network:
    """A truth that changes a loss of one nat; with `noise` (K, R) it has replicates."""
    after = 1.0 + true if noise is None else 1.0 + true[:, None] + noise
    null = np.array(1.0) if noise is None else np.ones(noise.shape[1])
    return Network(predicted, removed, 1.0, after, null)


def ranked(generator: Generator, rows: int, spearman: float) -> Network:
    """Normal changes whose predictions have this rank correlation, over all possible rows.

    Of normal values Pearson's is 2 sin(pi rho / 6) (Kruskal 1958).
    """
    pearson = 2 * math.sin(math.pi * spearman / 6)
    scores, rest = 0.01 * generator.normal(size=(2, rows))
    removed = generator.choice(rows, REMOVALS, replace=False)
    true = pearson * scores + math.sqrt(1 - pearson**2) * rest
    return drawn(scores, true[removed], removed)


def half_right(generator: Generator, rows: int) -> Network:
    """A Spearman of 0.5, below what is asked for."""
    return ranked(generator, rows, 0.5)


def well_ranked(generator: Generator, rows: int) -> Network:
    """A Spearman of 0.85, above what is asked for."""
    return ranked(generator, rows, 0.85)


def unlike_each_other(generator: Generator, rows: int) -> Network:
    """A Spearman between 0.3 and 0.8, another for each network: 0.55 on average."""
    return ranked(generator, rows, generator.uniform(0.3, 0.8))


def bent(generator: Generator, rows: int, noise: float = 0.0) -> Network:
    """True changes are a strictly rising function of the predicted, of another size."""
    scores = 0.01 * generator.normal(size=rows)
    removed = generator.choice(rows, REMOVALS, replace=False)
    standard = scores[removed] / 0.01
    power, size = generator.choice([1 / 3, 1.0, 3.0]), generator.choice([0.1, 10.0])
    true = np.sign(standard) * np.abs(standard) ** power
    if generator.random() < 0.5:
        true = np.expm1(standard)
    true = true + noise * true.std() * generator.normal(size=REMOVALS)
    return drawn(scores, 0.01 * size * true, removed)


def bent_and_noisy(generator: Generator, rows: int) -> Network:
    """As `bent`, with a tenth of noise."""
    return bent(generator, rows, noise=0.1)


def noise_alone(generator: Generator, rows: int) -> Network:
    """Two replicates that have nothing in common."""
    scores = 0.01 * generator.normal(size=rows)
    removed = generator.choice(rows, REMOVALS, replace=False)
    noise = 0.01 * generator.normal(size=(REMOVALS, 2))
    return replace(drawn(scores, np.zeros(REMOVALS), removed, noise), deterministic="")


def noise_unmeasured(generator: Generator, rows: int) -> Network:
    """The same, and nobody trained twice."""
    network = noise_alone(generator, rows)
    return replace(network, after=network.after[:, 0], null=np.array(1.0))


def noisy(generator: Generator, rows: int, spearman: float = 1.0) -> Network:
    """A truth of two replicates whose mean has a reliability of 0.8."""
    network = ranked(generator, rows, spearman)
    true = network.after - network.before
    # 0.8 = 1 / (1 + variance / 2) of changes of variance 1.
    noise = 0.01 * math.sqrt(0.5) * generator.normal(size=(REMOVALS, 2))
    return replace(drawn(network.scores, true, network.removed, noise), deterministic="")


def noisy_and_half_right(generator: Generator, rows: int) -> Network:
    """Beside a truth without that noise the Spearman would be 0.5."""
    return noisy(generator, rows, 0.5)


def no_better_than_a_baseline(generator: Generator, rows: int) -> Network:
    """A prediction and a baseline that are equally far from the truth."""
    true, first, second = 0.01 * generator.normal(size=(3, rows))
    removed = generator.choice(rows, REMOVALS, replace=False)
    network = drawn(true + 0.4 * first, true[removed], removed)
    return replace(network, baseline=true + 0.4 * second)


def better_than_a_baseline(generator: Generator, rows: int) -> Network:
    """A prediction much nearer to the truth than the baseline."""
    true, first, second = 0.01 * generator.normal(size=(3, rows))
    removed = generator.choice(rows, REMOVALS, replace=False)
    network = drawn(true + 0.1 * first, true[removed], removed)
    return replace(network, baseline=true + 2.0 * second)


# --- through the files -------------------------------------------------------------------------


def summary_of(scenario: Scenario, generator: Generator, seeds: int, folder: Path) -> dict:
    """Draw so many networks, write their files, evaluate them, return the pair's summary."""
    rows = int(generator.integers(100, 2 * ROWS - 100)) if scenario is ridge else ROWS
    networks = [scenario(generator, rows) for _ in range(seeds)]
    scores = {"objective": np.stack([network.scores for network in networks])}
    if networks[0].baseline is not None:
        scores["train-loss"] = np.stack([network.baseline for network in networks])
    null_scores = np.array([[network.null_score] for network in networks])
    files = [_write_scores(folder, name, found, null_scores) for name, found in scores.items()]
    retrain = _write_truth(folder, networks)
    return evaluate(CONFIG, files, [retrain]).summaries[0]


def _write_scores(
    folder: Path, estimator: str, scores: np.ndarray, null_scores: np.ndarray
) -> Path:
    seeds, rows = scores.shape
    config, path = CONFIG.to_dict(), folder / f"influence-{estimator}.npz"
    step = "first-order" if estimator == "objective" else estimator
    config["influence"] |= {"estimator": estimator, "step": step, "params": "head"}
    config["influence"] |= {"damping": 0.0, "normalisation": "n"}
    arrays = {
        "seeds": np.arange(seeds),
        "train_ids": np.arange(rows),
        "test_ids": np.full((seeds, 1), rows),
        "scores": scores[:, None],
        "null_scores": null_scores,
        "rel_residual": np.full((seeds, 1), 1e-12),
        "converged": np.ones((seeds, 1), dtype=bool),
        "hessian_min": np.full(seeds, 0.1),
        "hessian_max": np.ones(seeds),
        "null_space": np.zeros(seeds, dtype=int),
        "negative": np.zeros(seeds, dtype=int),
    }
    meta = {"config": config, "parents": {}, "dtype": "float64"}
    write_artifact(path, "influence", arrays, meta)
    return path


def _write_truth(folder: Path, networks: list[Network]) -> Path:
    config, path = CONFIG.to_dict(), folder / "retrain-warm.npz"
    config["retrain"] |= {"normalisation": "n"}
    after = np.stack([network.after for network in networks])
    seeds, ending = len(networks), after.shape[2:]
    arrays = {
        "seeds": np.arange(seeds),
        "test_ids": np.full((seeds, 1), len(networks[0].scores)),
        "removed_ids": np.stack([network.removed for network in networks]),
        "loss_before": np.array([[network.before] for network in networks]),
        "loss_after": after[:, None],
        "null_loss_after": np.stack([network.null for network in networks])[:, None],
        "converged": np.ones(after.shape, dtype=bool),
        "grad_norm": np.zeros(after.shape),
        "null_grad_norm": np.zeros((seeds, *ending)),
    }
    meta = {
        "config": config,
        "parents": {},
        "reasons": [],
        "deterministic": networks[0].deterministic,
        "dtype": networks[0].dtype,
    }
    write_artifact(path, "retrain", arrays, meta)
    return path
