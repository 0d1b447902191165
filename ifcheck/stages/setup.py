"""From names in a configuration to the objects that a stage works with."""

from __future__ import annotations

import dataclasses
import functools
import time
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ifcheck.config import Choice, Config, DataConfig, RetrainConfig
from ifcheck.curvature.kinds import CURVATURES
from ifcheck.datasets import DATASETS, Dataset, DatasetOptions, Split
from ifcheck.engines import ENGINES, Recipe
from ifcheck.errors import UnusableInput
from ifcheck.memory import peak_device_bytes, peak_memory_bytes
from ifcheck.models import NETWORKS, NetworkSpec
from ifcheck.objective import Objective
from ifcheck.registry import Registry
from ifcheck.removal import TRUTHS, TruthMethod
from ifcheck.scores import STEPS, Estimator, resolve_estimator
from ifcheck.solvers import SOLVERS
from ifcheck.spectrum import SPECTRA
from ifcheck.stages.testpoints import count_test_points
from ifcheck.variants import VARIANTS, Variant

HISTORY_POINTS = 200  # losses recorded along a training, besides the last
DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Sections that decide what a stage computes; where and by which engine stands beside them.
SECTIONS = {
    "train": ("data", "network", "variant", "train"),
    "influence": ("data", "network", "variant", "train", "influence"),
    "retrain": ("data", "network", "variant", "train", "retrain"),
    "eigen": ("data", "network", "variant", "train", "eigen"),
}


@dataclass(frozen=True)
class Setup:
    """A configuration with every name resolved; making one checks them all."""

    config: Config  # with all options of network, variant and estimator spelled out
    dataset: Dataset
    spec: NetworkSpec
    variant: Variant
    estimator: Estimator
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that networks are trained in."""
        return DTYPES[self.config.train.dtype]

    @functools.cached_property
    def objective(self) -> Objective:
        """What this variant's networks descend."""
        tests = count_test_points(self.config.data.test_points, self.dataset)
        return self.variant.objective(self.dataset.train_rows(tests))

    @property
    def recipe(self) -> Recipe:
        """How this variant's networks are trained."""
        settings = self.config.train
        plain = self.plain_recipe(
            settings.epochs, max(1, settings.epochs // HISTORY_POINTS), settings.stop_at_lr_floor
        )
        return self.variant.recipe(plain)

    def plain_recipe(self, epochs: int, record_every: int | None, stop_at_floor: bool) -> Recipe:
        """Return what training and retraining have in common, for so many epochs."""
        settings = self.config.train
        return Recipe(
            epochs=epochs,
            learning_rate=settings.learning_rate,
            patience=settings.patience,
            factor=settings.factor,
            record_every=record_every,
            stop_at_floor=stop_at_floor,
            early_stop=settings.early_stop,
            batch_size=settings.batch_size,
            amsgrad=settings.amsgrad,
        )

    def split(self, test_ids: NDArray[np.int64]) -> Split:
        """Return the training rows that the configuration allows, and these test points.

        Raises: UnusableInput where a limit does not fit the data set.
        """
        return self.dataset.split(test_ids.tolist())

    def describe(self, kind: str) -> dict[str, Any]:
        """Return the sections of the configuration that decide what a stage computes."""
        sections = self.config.to_dict()
        described = {name: sections[name] for name in SECTIONS[kind]}
        described["data"].pop("data_dir")
        return described

    def environment(
        self, started: float, engine: str = "torch", dtype: str = "float64"
    ) -> dict[str, Any]:
        """Return what else an artifact records of how it was made: what was used, not asked."""
        return {
            "engine": engine,
            "device": str(self.device),
            "dtype": dtype,
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_bytes": peak_memory_bytes(),  # of the process until now
            "peak_device_bytes": peak_device_bytes(self.device),
        }


def make_setup(config: Config) -> Setup:
    """Resolve and check every name. Raises: UnknownName, UnusableInput."""
    spec = NETWORKS.create(config.network.name, config.network.options)
    variant = VARIANTS.create(config.variant.name, config.variant.options)
    estimator = resolve_estimator(config.influence)
    SOLVERS.create(estimator.solver, estimator.solver_options)
    STEPS.create(estimator.step)
    CURVATURES.create(estimator.curvature)
    options = SOLVERS.options(estimator.solver) | dict(estimator.solver_options)
    SPECTRA.create(config.eigen.method)
    objective = variant.objective(rows=1)  # says what the variant makes of a normalisation
    estimator = dataclasses.replace(
        estimator,
        normalisation=objective.normalisation(estimator.normalisation),
        solver_options=options,
    )
    resolved = dataclasses.replace(
        config,
        network=_spelled_out(config.network, NETWORKS),
        variant=_spelled_out(config.variant, VARIANTS),
        influence=dataclasses.replace(config.influence, **dataclasses.asdict(estimator)),
        retrain=_retraining(config, objective),
    )
    if config.run.engine != "auto":
        ENGINES.create(config.run.engine)
    return Setup(
        config=resolved,
        dataset=DATASETS.create(config.data.dataset, _data_options(config.data, spec)),
        spec=variant.network(spec),
        variant=variant,
        estimator=estimator,
        device=_device(config.run.device),
    )


def truth_method(settings: RetrainConfig) -> TruthMethod:
    """Return the truth by its name, with those of the settings that are options of it.

    Raises: UnknownName.
    """
    known = TRUTHS.options(settings.truth)
    return TRUTHS.create(settings.truth, {name: getattr(settings, name) for name in known})


def _retraining(config: Config, objective: Objective) -> RetrainConfig:
    """Return how rows are removed, with what the variant and the truth make of it."""
    truth = truth_method(config.retrain)
    normalisation = truth.normalisation or config.retrain.normalisation
    settings = dataclasses.replace(
        config.retrain, normalisation=objective.normalisation(normalisation)
    )
    if not truth.trains_again:
        return settings
    return dataclasses.replace(
        settings,
        params="all",
        epochs=config.train.epochs,
        stop_at_lr_floor=config.train.stop_at_lr_floor,
    )


def _data_options(data: DataConfig, spec: NetworkSpec) -> dict[str, Any]:
    given = {field.name: getattr(data, field.name, None) for field in fields(DatasetOptions)}
    return given | {"for_convolution": spec.convolutional}


def _spelled_out(choice: Choice, registry: Registry[Any]) -> Choice:
    return Choice(choice.name, registry.options(choice.name) | choice.options)


def _device(name: str) -> torch.device:
    """Raises: UnusableInput for an unknown device, or CUDA that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnusableInput(
            f"--device got {name!r}; expected auto, cpu or cuda[:n].", remedy="Use --device auto."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise UnusableInput(
            f"--device got {name!r}; expected auto, cpu or cuda[:n].", remedy="Use --device auto."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnusableInput(
            f"--device {name} asks for a GPU; this torch ({torch.__version__}) sees "
            f"{torch.cuda.device_count()}.",
            remedy="Use --device cpu, or install a torch built for CUDA.",
        )
    return device
