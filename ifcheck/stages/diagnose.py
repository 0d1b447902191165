"""Stage `diagnose`: whatever a trained run lacks for a verdict is made, and the verdict given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifcheck.artifacts import Artifact
from ifcheck.config import Config
from ifcheck.errors import RunFailed, UnusableInput
from ifcheck.report import write_report
from ifcheck.stages import pictures
from ifcheck.stages.evaluate import Evaluation, evaluate
from ifcheck.stages.reporting import Reporter, Silent
from ifcheck.stages.reports import REPORT_FILE, drawn_into, study_report
from ifcheck.stages.run import trained_configuration
from ifcheck.stages.run_files import Files, Part, parts_of
from ifcheck.stages.stage import stage
from ifcheck.stages.tables import write_json

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
    config = trained_configuration(files.sources, config)
    made, left_out = _all_parts(list(parts_of(config)), files)
    for what, reason in left_out.items():
        files.reporter.note(f"{what} is left out: {reason}")
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


def _all_parts(
    parts: Sequence[Part], files: Files
) -> tuple[dict[str, list[Artifact]], dict[str, str]]:
    """Return the artifacts by kind, and why others are left out.

    What this network lacks is refused as unusable input of no other kind; a truth can also be
    refused in its file.
    """
    made: dict[str, list[Artifact]] = {"influence": [], "retrain": [], "eigen": []}
    left_out: dict[str, str] = {}
    for part in parts:
        if files.found(part) is None:
            files.require_free(part)  # before anything is made
    for part in parts:
        ranked_by = made["influence"][0].path if made["influence"] else None
        try:
            artifact = files.ensure(part, ranked_by)
        except (UnusableInput, RunFailed, MemoryError) as error:
            if isinstance(error, UnusableInput) and type(error) is not UnusableInput:
                raise
            left_out[part.what] = str(error)
            continue
        if artifact.meta.get("reasons"):
            left_out[part.what] = "; ".join(artifact.meta["reasons"])
        else:
            made[part.kind].append(artifact)
    return made, left_out


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
