"""What a command would cost: the same stages at a small size, extrapolated.

A stage's time is taken as a + b * epochs from two short runs with the real shapes, or as
proportional to the number of seeds from a run with a few; its memory is that of the short run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifcheck.artifacts import find_checkpoints
from ifcheck.config import Config, replace_section
from ifcheck.curvature.dense import MAX_DENSE_PARAMETERS
from ifcheck.errors import UnusableInput
from ifcheck.memory import peak_memory_bytes
from ifcheck.removal import TRUTHS
from ifcheck.stages.cells import Cell, influence_name, retrain_name
from ifcheck.stages.compare import compare
from ifcheck.stages.damping import check_held_out
from ifcheck.stages.eigen import eigen
from ifcheck.stages.evaluate import evaluate
from ifcheck.stages.forecast import HEAVY
from ifcheck.stages.influence import influence
from ifcheck.stages.reporting import Silent
from ifcheck.stages.retrain import retrain, with_truth
from ifcheck.stages.run import trained_configuration
from ifcheck.stages.run_files import Files, Part, parts_of
from ifcheck.stages.selections import further_retrainings
from ifcheck.stages.setup import make_setup
from ifcheck.stages.study_checks import check_study
from ifcheck.stages.train import network_layout, train
from ifcheck.stages.trunks import Trunks

TRAIN_SAMPLES = (40, 240)  # epochs of two runs whose difference is that of their epochs
RETRAIN_SAMPLES = (10, 60)
HEAVY_SECONDS = 2.0  # of a run of one epoch, beside which a run of many would be too long
HEAVY_SAMPLES = (1, 3)
TELLING_SECONDS = 0.5  # difference of two runs that says more than their noise
LONGER = 4  # times as many epochs where it does not
SEED_SAMPLE = 4  # seeds that stand for all where time is proportional to their number
PICTURE_SECONDS = 4.0  # measured for four figures, import of matplotlib included
PICTURE_BYTES = 600_000  # the same four
RESULTS_SHARE = 0.4  # size of `results.csv` beside the records of all cells
STARTUP_SECONDS = 3.0  # measured for importing torch and scipy on two cores


@dataclass
class Estimate:
    """What a command would need."""

    seconds: dict[str, float] = field(default_factory=dict)  # by step
    disk_bytes: float = 0.0

    @property
    def total_seconds(self) -> float:
        """Time of all steps together."""
        return sum(self.seconds.values())

    @property
    def memory_bytes(self) -> int:
        """Largest memory of this process so far, in which every shape was alive once."""
        return peak_memory_bytes()

    def add(self, step: str, seconds: float, times: float = 1) -> None:
        """Add a step's time, taken `times` times."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds * times

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON can hold it."""
        return {
            "seconds": self.seconds,
            "total_seconds": self.total_seconds,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
        }


def estimate_training(config: Config) -> Estimate:
    """Return what `ifcheck train` would need."""
    estimate = Estimate({"start": STARTUP_SECONDS})
    sample, seeds = _sampled(config)
    with tempfile.TemporaryDirectory() as folder:
        estimate.add("train", _training(sample, Path(folder)), seeds)
        estimate.disk_bytes = _size(Path(folder)) * seeds
    return estimate


def estimate_influence(
    config: Config,
    sources: Sequence[Path],
    influence_file: Path | None = None,
    held_out_file: Path | None = None,
) -> Estimate:
    """Return what `ifcheck influence` would need; a damping is chosen in no time."""
    if check_held_out(config.influence.damping, held_out_file) is not None:
        config = replace_section(config, "influence", damping="path")

    def scoring(config: Config, sources: Sequence[Path], out: Path) -> object:
        return influence(config, sources, out, None, None, influence_file)

    return _from_checkpoints("influence", scoring, config, sources)


def estimate_eigenvalues(config: Config, sources: Sequence[Path]) -> Estimate:
    """Return what `ifcheck eigen` would need."""
    return _from_checkpoints("eigen", eigen, config, sources)


def estimate_retraining(
    config: Config,
    sources: Sequence[Path],
    influence_file: Path | None = None,
    explicit: dict[str, Any] | None = None,
) -> Estimate:
    """Return what `ifcheck retrain` would need; `explicit` are the settings that the user gave."""
    estimate = Estimate({"start": STARTUP_SECONDS})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "retrain.npz"
        trained = trained_configuration(sources, config)
        estimate.add("retrain", _retraining(trained, sources, out, influence_file, explicit))
        estimate.disk_bytes = _size(Path(folder))
    return estimate


def estimate_evaluation(
    config: Config, influence_files: Sequence[Path], retrain_files: Sequence[Path]
) -> Estimate:
    """Return what `ifcheck evaluate` would need: it is quick enough to be done for it."""
    estimate = Estimate({"start": STARTUP_SECONDS})
    estimate.add("evaluate", _timed(evaluate, config, influence_files, retrain_files))
    return estimate


def estimate_comparison(config: Config, first: Path, second: Path) -> Estimate:
    """Return what `ifcheck compare` would need: it is quick enough to be done for it."""
    estimate = Estimate({"start": STARTUP_SECONDS})
    estimate.add("compare", _timed(compare, config, first, second))
    return estimate


def estimate_study(config: Config) -> Estimate:
    """Return what `ifcheck fragility` would need, from one sample of each size."""
    estimate = Estimate({"start": STARTUP_SECONDS, "figures": PICTURE_SECONDS}, PICTURE_BYTES)
    by_size: dict[str, list[Cell]] = {}
    for cell in check_study(config):
        by_size.setdefault(str(cell.options), []).append(cell)
    for alike in by_size.values():
        _add_cell(estimate, alike)
    return estimate


def estimate_diagnosis(
    config: Config, sources: Sequence[Path], out: Path | None = None
) -> Estimate:
    """Return what `ifcheck diagnose` would need for the files that one run does not have yet."""
    estimate = Estimate({"start": STARTUP_SECONDS})
    files = Files.of(sources, out, Silent(), {})
    ranked_by: Path | None = None
    for part in parts_of(trained_configuration(sources, config)):
        found = files.found(part)
        if found is not None:
            ranked_by = ranked_by or found.path
            continue
        try:
            needed = _needed(part, sources, ranked_by)
        except UnusableInput:
            continue  # the network lacks it: it is left out
        estimate.add(part.what, needed.seconds[part.kind])
        estimate.disk_bytes += needed.disk_bytes
    return estimate


def together(estimates: Sequence[Estimate]) -> Estimate:
    """Return what several runs of one command need after each other; it starts once."""
    whole = Estimate({"start": STARTUP_SECONDS})
    for estimate in estimates:
        for step, seconds in estimate.seconds.items():
            whole.add(step, seconds if step != "start" else 0.0)
        whole.disk_bytes += estimate.disk_bytes
    return whole


def _needed(part: Part, sources: Sequence[Path], ranked_by: Path | None) -> Estimate:
    """Return what one file of a diagnosis would need."""
    if part.kind == "retrain":
        config, removals = part.config, part.config.retrain.removals
        if ranked_by is None:  # scores that are not made yet: as many rows take as long
            removals = removals.replace("top-score:", "random:")
            config = replace_section(config, "retrain", removals=removals)
        return estimate_retraining(config, sources, ranked_by)
    of_kind = {"influence": estimate_influence, "eigen": estimate_eigenvalues}
    return of_kind[part.kind](part.config, sources)


def _add_cell(estimate: Estimate, alike: list[Cell]) -> None:
    """Add what the cells of one size need, from a sample of the last of them."""
    config, seeds = _sampled(alike[-1].config)
    study, cells = config.study, len(alike)
    times = cells * seeds
    spared = Trunks(make_setup(cell.config) for cell in alike).spared_epochs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainings = times - seeds * spared / config.train.epochs
        estimate.add("train", _training(config, folder), trainings)
        scores, truths = [], []
        for estimator in study.estimators:
            scores.append(folder / f"{influence_name(estimator)}.npz")
            part = replace_section(config, "influence", estimator=estimator)
            ranked_by = scores[0] if len(scores) > 1 else None
            seconds = _timed(influence, part, [folder], scores[-1], None, None, ranked_by)
            estimate.add("influence", seconds, times)
        for text in study.truths:
            truths.append(folder / f"{retrain_name(text)}.npz")
            part = with_truth(config, text)
            seconds = _retraining(part, [folder], truths[-1], scores[0])
            estimate.add(f"retrain {text}", seconds, times)
        for retraining, part in further_retrainings(config).items():
            truths.append(folder / f"{retraining}.npz")
            seconds = _retraining(part, [folder], truths[-1], scores[0])
            estimate.add(retraining.replace("-", " ", 1), seconds, times)
        few = find_checkpoints([folder])[:SEED_SAMPLE]
        scale = len(config.train.seeds) / len(few)
        small = network_layout(make_setup(config)).size <= MAX_DENSE_PARAMETERS
        for method in [config.eigen.method, *(["dense"] if small else [])]:
            density = config.eigen.density and method == config.eigen.method
            part = replace_section(config, "eigen", method=method, density=density)
            seconds = _timed(eigen, part, few, folder / f"eigen-{method}.npz")
            estimate.add("eigen", seconds * scale, times)
        records = folder / "evaluation.json"
        seconds = _timed(evaluate, config, scores, truths, None, records)
        estimate.add("evaluate", seconds, times)
        estimate.disk_bytes += (_size(folder) + RESULTS_SHARE * _size(records)) * times


def _sampled(config: Config) -> tuple[Config, int]:
    """Return a configuration with one seed, and how many it stands for, where one costs seconds.

    Small networks are trained together, in less time than one by one: there it is all of them.
    """
    setup, seeds = make_setup(config), config.train.seeds
    rows = setup.dataset.train_rows(1)
    if rows * network_layout(setup).size < HEAVY:
        return config, 1
    return replace_section(config, "train", seeds=seeds[:1]), len(seeds)


def _from_checkpoints(
    name: str, stage: Callable[..., Any], config: Config, sources: Sequence[Path]
) -> Estimate:
    estimate = Estimate({"start": STARTUP_SECONDS})
    checkpoints = find_checkpoints(sources)
    few = checkpoints[:SEED_SAMPLE]
    with tempfile.TemporaryDirectory() as folder:
        seconds = _timed(stage, config, few, Path(folder) / f"{name}.npz")
        scale = len(checkpoints) / len(few)
        estimate.add(name, seconds * scale)
        estimate.disk_bytes = _size(Path(folder)) * scale
    return estimate


def _training(config: Config, folder: Path) -> float:
    def run(epochs: int) -> float:
        return _timed(train, replace_section(config, "train", epochs=epochs), folder)

    return _extrapolate(run, TRAIN_SAMPLES, config.train.epochs)


def _retraining(
    config: Config,
    sources: Sequence[Path],
    out: Path,
    scores: Path | None = None,
    explicit: dict[str, Any] | None = None,
) -> float:
    epochs = make_setup(config).config.retrain.epochs  # those of training for some truths

    def run(epochs: int) -> float:
        return _timed(retrain, config, sources, out, None, explicit, scores, epochs)

    if not TRUTHS.create(config.retrain.truth).has_trajectory:
        return run(epochs)  # it has no epochs, and takes little time
    return _extrapolate(run, RETRAIN_SAMPLES, epochs)


def _extrapolate(run: Callable[[int], float], samples: tuple[int, int], epochs: int) -> float:
    """Return the time of `epochs` from the times of two smaller numbers of them."""
    alone = run(1)  # the first call pays for what torch and the data set load once
    if alone > HEAVY_SECONDS:
        samples = HEAVY_SAMPLES
    short, long = (min(sample, epochs) for sample in samples)
    first, second = run(short), run(long)
    while second - first < TELLING_SECONDS and long < epochs:
        long = min(LONGER * long, epochs)
        second = run(long)
    if long == short:
        return second
    per_epoch = max(0.0, (second - first) / (long - short))
    return first + per_epoch * (epochs - short)


def _timed(stage: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    stage(*arguments)
    return time.perf_counter() - started


def _size(place: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [place] if place.is_file() else place.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())
