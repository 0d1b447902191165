"""Stage `diagnose`: whatever a trained run lacks for a verdict is made, and the verdict given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifcheck.artifacts import Artifact, find_checkpoints, read_checkpoint
from ifcheck.artifacts.files import CHECKPOINT_FOLDER
from ifcheck.config import Config, replace_section
from ifcheck.errors import RunFailed, UnusableInput
from ifcheck.report import write_report
from ifcheck.stages import pictures
from ifcheck.stages.cells import influence_name, retrain_name
from ifcheck.stages.eigen import eigen
from ifcheck.stages.evaluate import Evaluation, evaluate
from ifcheck.stages.influence import influence
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.reports import REPORT_FILE, drawn_into, study_report
from ifcheck.stages.resume import STUDY_FILE, reusable
from ifcheck.stages.retrain import retrain, with_truth
from ifcheck.stages.run import TRAINED_SECTIONS, digests_of, trained_configuration
from ifcheck.stages.setup import make_setup
from ifcheck.stages.stage import stage
from ifcheck.stages.tables import write_json

FOLDER = "diagnosis"  # within the run's: what is made here is apart from the user's own files
FILE = "diagnosis.json"


@dataclass(frozen=True)
class Diagnosis:
    """What was found about one run."""

    folder: Path  # of `diagnosis.json` and what was made for it
    config: Config
    evaluation: Evaluation
    influences: list[Artifact]
    retrains: list[Artifact]
    eigen: Artifact | None
    left_out: dict[str, str]  # estimators and truths that the network lacks, and why

    def to_dict(self) -> dict[str, Any]:
        """Return what `diagnosis.json` holds."""
        return {**self.evaluation.to_dict(self.config), "left_out": self.left_out}


@stage
def diagnose(
    config: Config,
    sources: Sequence[Path],
    out: Path | None = None,
    reporter: Reporter | None = None,
    explicit: dict[str, Any] | None = None,
) -> Diagnosis:
    """Follow predictions of one run to its truths, and judge.

    Files of the run that the same configuration made are used; others are made into `out`, or the
    folder `diagnosis` within the run's, where the next time finds them. An estimator or a truth
    that the network lacks, or that fails, is left out with the reason.
    Raises: UnusableInput where nothing is left to compare, ArtifactUnreadable, ArtifactMismatch.
    """
    files = Files.of(sources, out, reporter or Silent(), explicit or {})
    left_out: dict[str, str] = {}
    made: dict[str, list[Artifact]] = {"influence": [], "retrain": [], "eigen": []}
    config = trained_configuration(files.sources, config)
    for part in parts_of(config):
        ranked_by = made["influence"][0].path if made["influence"] else None
        try:
            made[part.kind].append(files.ensure(part, ranked_by))
        except (UnusableInput, RunFailed) as error:
            if type(error) not in (UnusableInput, RunFailed):
                raise
            left_out[part.what] = error.message
            files.reporter.note(f"{part.what} is left out: {error.message}")
    influences, retrains = made["influence"], made["retrain"]
    if not (influences and retrains):
        raise UnusableInput(
            f"nothing is left to compare: {next(iter(left_out.values()))}",
            remedy="Give --estimator and --truth that this network has.",
        )
    curvature = next(iter(made["eigen"]), None)
    evaluation = evaluate(
        config,
        [artifact.path for artifact in influences],
        [artifact.path for artifact in retrains],
        None if curvature is None else curvature.path,
    )
    diagnosis = Diagnosis(files.out, config, evaluation, influences, retrains, curvature, left_out)
    write_json(files.out / FILE, diagnosis.to_dict())
    _write_report(diagnosis, files)
    return diagnosis


def _write_report(diagnosis: Diagnosis, files: Files) -> None:
    """Draw the pictures of the run, and write the page that shows them."""
    found, folder = diagnosis.evaluation, files.out / "figures"
    cell = pictures.CellPictures(
        diagnosis.config.variant.name,
        "",
        diagnosis.influences,
        diagnosis.retrains,
        pictures.recorded(diagnosis.retrains),
        diagnosis.eigen,
    )
    drawn = pictures.draw(folder, found.summaries, [cell], files.reporter, found.paths, found.gaps)
    report = study_report(
        found.summaries,
        diagnosis.config,
        title=f"Can influence functions be trusted? {files.run.resolve().name}",
        gaps=found.gaps,
        paths=found.paths,
        pictures=drawn_into(folder, drawn),
    )
    write_report(files.out / REPORT_FILE, report)


def runs_of(sources: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the sources of each run, by the shortest names that tell them apart.

    Each folder is a run of its own, that of a study as many as it has cells; checkpoint files are
    one together.
    """
    folders: list[Path] = []
    for source in sources:
        is_study = (source / STUDY_FILE).is_file()
        folders += sorted((source / "cells").iterdir()) if is_study else [source]
    files = [folder for folder in folders if not folder.is_dir()]
    runs = [[folder] for folder in folders if folder.is_dir()] + ([files] if files else [])
    paths = [_run_folder(own[0]).resolve() for own in runs]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return {"/".join(p.parts[-depth:]): own for p, own in zip(paths, runs, strict=True)}


@dataclass(frozen=True)
class Part:
    """A file that a diagnosis needs."""

    kind: str
    name: str  # of the file, without `.npz`
    what: str  # the estimator or truth
    config: Config


def parts_of(config: Config) -> Iterator[Part]:
    """Yield the scores, retrainings and eigenvalues that a diagnosis takes, in order.

    Raises: UnknownName, UnusableInput.
    """
    for estimator in config.diagnose.estimators:
        own = replace_section(config, "influence", estimator=estimator)
        yield Part("influence", influence_name(estimator), estimator, own)
    config = replace_section(config, "retrain", replicates=config.diagnose.replicates)
    for truth in config.diagnose.truths:
        yield Part("retrain", retrain_name(truth), truth, with_truth(config, truth))
    yield Part("eigen", "eigen", "eigenvalues", config)


def _run_folder(source: Path) -> Path:
    """Return the folder of a run, of one of its checkpoints or of the folder of them."""
    folder = source if source.is_dir() else source.parent
    return folder.resolve().parent if folder.resolve().name == CHECKPOINT_FOLDER else folder


@dataclass(frozen=True)
class Files:
    """The artifacts of one run: found among the user's own, found from last time, or made."""

    sources: Sequence[Path]
    parents: dict[str, str]
    run: Path
    out: Path
    reporter: Reporter
    explicit: dict[str, Any]

    @classmethod
    def of(
        cls, sources: Sequence[Path], out: Path | None, reporter: Reporter, explicit: dict[str, Any]
    ) -> Files:
        """Return those of one run; what is made goes to `out`. Raises: ArtifactUnreadable."""
        checkpoints = [read_checkpoint(path) for path in find_checkpoints(sources)]
        # What is asked of retraining is for the truths that have it: scratch has its own epochs.
        described = {k: v for k, v in explicit.items() if k.partition(".")[0] in TRAINED_SECTIONS}
        run = _run_folder(sources[0])
        return cls(sources, digests_of(checkpoints), run, out or run / FOLDER, reporter, described)

    def found(self, part: Part) -> Artifact | None:
        """Return the artifact if this configuration has made it before."""
        description = make_setup(part.config).describe(part.kind)
        for folder in (self.run, self.out):
            path = folder / f"{part.name}.npz"
            artifact = reusable(path, part.kind, description, self.parents)
            if artifact is not None:
                return artifact
        return None

    def ensure(self, part: Part, ranked_by: Path | None = None) -> Artifact:
        """Return the artifact, made only where it is not found."""
        artifact = self.found(part)
        if artifact is not None:
            return artifact
        path, config = self.out / f"{part.name}.npz", part.config
        if part.kind == "eigen":
            return eigen(config, self.sources, path, self.reporter, self.explicit)
        if part.kind == "influence":
            return influence(config, self.sources, path, self.reporter, self.explicit)
        return retrain(config, self.sources, path, self.reporter, self.explicit, ranked_by)
