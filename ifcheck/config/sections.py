"""One frozen section per stage; each default stands here, once."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from ifcheck.config.values import (
    DEFAULT_NETWORK,
    DEFAULT_VARIANT,
    STRICT,
    Choice,
    Correlation,
    Curvature,
    Damping,
    Dampings,
    Names,
    Network,
    NonNegative,
    NonNegativeFloat,
    Normalisation,
    Positive,
    PositiveFloat,
    Precision,
    Seeds,
    Share,
    Variant,
)


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which examples: the data set, the rows held out as test points, limits on rows."""

    dataset: str = "iris"
    test_points: str = "max-loss"
    data_dir: str | None = None
    limit_train: Positive | None = None
    limit_test: Positive | None = None


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """How the base models are trained; retraining shares all but the epochs.

    Without `batch_size` every step is on all rows; `early_stop` counts epochs without improvement.
    """

    seeds: Seeds = tuple(range(50))
    epochs: Positive = 60_000
    learning_rate: PositiveFloat = 1e-3
    patience: Positive = 100
    factor: Share = 0.1
    batch_size: Positive | None = None
    early_stop: Positive | None = None
    amsgrad: bool = False
    dtype: Precision = "float32"
    polish: Literal["none", "head"] = "none"
    stop_at_lr_floor: bool = False


@dataclass(frozen=True, config=STRICT)
class InfluenceConfig:
    """How removal is predicted; an estimator is a named set of the fields below it.

    `solver_options` are the solver's, where they depart from its own defaults. `damping_path`
    holds the dampings that rows are scored at besides, as `damping: path` and `auto` ask for.
    """

    estimator: str = "objective"
    params: str | None = None
    hessian: Curvature | None = None
    damping: Damping | None = None
    solver: str | None = None
    normalisation: Normalisation | None = None
    solver_options: dict[str, Any] | None = None
    step: str | None = None
    curvature: str | None = None
    damping_path: Dampings | None = None


@dataclass(frozen=True, config=STRICT)
class RetrainConfig:
    """Which rows are removed, one by one or in groups, and how the truth is found.

    `replicates` repeats all of it under seeds of their own. A truth that trains again from
    initialisation takes `params`, `epochs` and `stop_at_lr_floor` from the training.
    `damping` is how strongly `pbrf` holds the weights, besides weight decay; others have none.
    """

    truth: str = "warm"
    params: str = "head"
    removals: str = "top-loss:40"
    group_size: Positive = 1
    epochs: Positive = 7_500
    replicates: Positive = 1
    normalisation: Normalisation = "n-1"
    damping: NonNegativeFloat = 0.0
    swa_restart: Literal["average", "live"] = "average"
    trajectory: bool = False
    trajectory_every: Positive = 25
    stop_at_lr_floor: bool = False


@dataclass(frozen=True, config=STRICT)
class EigenConfig:
    """How the curvature of the trained networks is measured.

    `density` adds the density of all eigenvalues and their sum, from so many probes and steps.
    """

    method: str = "power"
    top: Positive = 1
    hessian: Curvature = "data"
    dtype: Precision = "float64"
    density: bool = False
    density_probes: Positive = 10
    density_steps: Positive = 80


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """How prediction and truth are compared; `confidence` is of the bootstrap intervals."""

    top_k: Positive = 10
    confidence: Share = 0.95
    bootstrap_samples: NonNegative = 1_000
    min_spearman: Correlation | None = None


@dataclass(frozen=True, config=STRICT)
class VerdictConfig:
    """When scores count as right: the one place of all thresholds, each with its reason.

    `clear_*` pass a check, between them and the other bound is a warning.
    """

    # Three of four pairs of rows in the right order: 1/2 + asin(0.7) / pi of normal values.
    min_rank: Share = 0.7
    # How often predictions in random orders may agree as much: the usual level of a test.
    max_chance_p: Share = 0.05
    # So many removals and seeds tell a Spearman of `min_rank` from none with this probability.
    min_power: Share = 0.8
    # Half of the variance of the mean over replicates is no noise; below it, dividing by the noise
    # ceiling makes chance look like agreement.
    min_reliability: Share = 0.5
    # Of seeds and test points with that reliability: most of them.
    min_reliable_share: Share = 0.5
    # Signs as pairs: three of four.
    min_signs: Share = 0.75
    # True on predicted changes, or its inverse: right within a factor of two.
    max_factor: PositiveFloat = 2.0
    # About the identity: half of the variance of true changes is predicted, scale included.
    min_r2: Correlation = 0.5
    # Spread of true changes over what removing nothing changes: below 1 the drift is the larger,
    # above 10 it is a digit behind. The same of predicted changes, for one Newton step.
    min_signal_to_drift: PositiveFloat = 1.0
    clear_signal_to_drift: PositiveFloat = 10.0
    # Spread of true changes over the resolution of the type: below 10 ranks are of rounding.
    min_signal_to_resolution: PositiveFloat = 10.0
    clear_signal_to_resolution: PositiveFloat = 100.0
    # Relative residual of the solve: above 0.1 a score can be off by a tenth and more.
    max_residual: PositiveFloat = 0.1
    clear_residual: PositiveFloat = 1e-3
    require: Literal["trust", "ranking"] | None = None


@dataclass(frozen=True, config=STRICT)
class StudyConfig:
    """What `fragility` sweeps.

    `sizes` is a list of sweeps over options of the network; each is crossed within itself,
    and the union of all of them, without repetition, is studied. `variants` that are not
    given are all that are registered; `variant_options` are theirs by name, where they depart
    from those of the variant itself. `selections` are removals beside `retrain.removals`, for
    agreement by what the removed rows were chosen for.
    """

    sizes: tuple[dict[str, Any], ...] = ()
    variants: Names | None = None
    variant_options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    estimators: Names = ("objective", "paper", "authors")
    truths: Names = ("warm", "newton")
    selections: Names | None = None


@dataclass(frozen=True, config=STRICT)
class DiagnoseConfig:
    """Which predictions `diagnose` follows to which truths; one that a network lacks is left out.

    `replicates` are of truths that depend on a seed, whose noise nothing else tells.
    """

    estimators: Names = (
        "objective",
        "gradient-dot",
        "gradient-cosine",
        "train-loss",
        "same-class",
        "random",
    )
    truths: Names = ("pbrf", "newton", "warm", "scratch")
    replicates: Positive = 2


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Where and with what numbers are computed."""

    device: str = "auto"
    engine: str = "auto"
    threads: Positive | None = None


@dataclass(frozen=True, config=STRICT)
class Config:
    """Everything that a command can be told; each default stands here, once."""

    data: DataConfig = DataConfig()
    network: Network = Choice(DEFAULT_NETWORK)
    variant: Variant = Choice(DEFAULT_VARIANT)
    train: TrainConfig = TrainConfig()
    influence: InfluenceConfig = InfluenceConfig()
    retrain: RetrainConfig = RetrainConfig()
    eigen: EigenConfig = EigenConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    verdict: VerdictConfig = VerdictConfig()
    study: StudyConfig = StudyConfig()
    diagnose: DiagnoseConfig = DiagnoseConfig()
    run: RunConfig = RunConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts and lists, as they are stored in artifacts."""
        plain: dict[str, Any] = TypeAdapter(Config).dump_python(self, mode="json")
        return plain
