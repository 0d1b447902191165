"""The files that a diagnosis of a trained run takes: found among what is there, or made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifcheck import provenance
from ifcheck.artifacts import Artifact, find_checkpoints, read_artifact, read_checkpoint
from ifcheck.artifacts.files import CHECKPOINT_FOLDER
from ifcheck.config import Config, differences, replace_section
from ifcheck.errors import ArtifactUnreadable, OutputRefused, UnusableInput
from ifcheck.stages.cells import influence_name, retrain_name
from ifcheck.stages.eigen import eigen
from ifcheck.stages.influence import influence
from ifcheck.stages.reporting import Reporter
from ifcheck.stages.resume import SHOWN_DIFFERENCES, STUDY_FILE, reusable
from ifcheck.stages.retrain import retrain, with_truth
from ifcheck.stages.run import TRAINED_SECTIONS, digests_of
from ifcheck.stages.setup import make_setup

FOLDER = "diagnosis"  # within the run's: what is made here is apart from the user's own files


def runs_of(sources: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the sources of each run, by the shortest names that tell them apart.

    Each folder is a run of its own, that of a study as many as it has trained cells; checkpoint
    files are one together. Raises: ArtifactUnreadable for a study without a trained cell,
    UnusableInput for a run that is named twice.
    """
    folders = [folder for source in sources for folder in _expanded(source)]
    files = [folder for folder in folders if not folder.is_dir()]
    runs = [[folder] for folder in folders if folder.is_dir()] + ([files] if files else [])
    paths = [run_folder(own[0]).resolve() for own in runs]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise UnusableInput(
            f"{twice[0]} is named twice, as a folder or by files in it.",
            remedy="Name each run once.",
        )
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {"/".join(p.parts[-depth:]): own for p, own in zip(paths, runs, strict=True)}


def _expanded(source: Path) -> list[Path]:
    """Return the trained cells of a study's folder; anything else as it is."""
    if not (source / STUDY_FILE).is_file():
        return [source]
    cells = sorted(path.parent for path in source.glob("cells/*/train.npz"))
    if not cells:
        raise ArtifactUnreadable(
            f"no cell of the study {source} is trained yet.",
            remedy="Let `ifcheck fragility` go on first.",
        )
    return cells


def run_folder(source: Path) -> Path:
    """Return the folder of a run, of one of its checkpoints or of the folder of them."""
    folder = source if source.is_dir() else source.parent
    return folder.resolve().parent if folder.resolve().name == CHECKPOINT_FOLDER else folder


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
        run = run_folder(sources[0])
        return cls(sources, digests_of(checkpoints), run, out or run / FOLDER, reporter, described)

    def found(self, part: Part, ranked_by: Path | None = None) -> Artifact | None:
        """Return the artifact if this configuration has made it before, from the same files.

        `ranked_by` are the scores that `top-score` removals go by.
        """
        description = make_setup(part.config).describe(part.kind)
        for folder in (self.run, self.out):
            path = folder / f"{part.name}.npz"
            artifact = reusable(path, part.kind, description, self.parents)
            if artifact is not None and _is_of_these_rows(artifact, part, ranked_by):
                return artifact
        return None

    def ensure(self, part: Part, ranked_by: Path | None = None) -> Artifact:
        """Return the artifact, made only where it is not found.

        Raises: OutputRefused where another file would be lost for it, and what the stages raise.
        """
        artifact = self.found(part, ranked_by)
        if artifact is not None:
            return artifact
        self.require_free(part)
        path, config = self.out / f"{part.name}.npz", part.config
        if part.kind == "eigen":
            return eigen(config, self.sources, path, self.reporter, self.explicit)
        if part.kind == "influence":
            return influence(config, self.sources, path, self.reporter, self.explicit, ranked_by)
        return retrain(config, self.sources, path, self.reporter, self.explicit, ranked_by)

    def require_free(self, part: Part) -> None:
        """Refuse to replace a file that another configuration made, with what differs."""
        path = self.out / f"{part.name}.npz"
        if not path.exists():
            return
        made = read_artifact(path, part.kind)
        lines = differences(make_setup(part.config).describe(part.kind), made.meta["config"])
        told = "; ".join(lines[:SHOWN_DIFFERENCES]) or "other checkpoints, or other rows by name"
        raise OutputRefused(
            f"{path} was made by another configuration: {told}.",
            remedy="Choose another --out, or remove that file.",
        )


def _is_of_these_rows(artifact: Artifact, part: Part, ranked_by: Path | None) -> bool:
    """Return whether rows that a configuration does not name by itself are the same.

    `top-score:K` goes by a file of scores and `like:FILE` by a file of removals, which artifacts
    know by their digests; scores also say which groups they are of.
    """
    settings = part.config.retrain
    kind, _, text = settings.removals.partition(":")
    grouped = settings.group_size > 1
    if part.kind == "eigen" or (part.kind == "influence" and not grouped and kind != "like"):
        return True
    if part.kind == "influence" and kind != "like":
        wanted = {"removals": settings.removals, "group_size": settings.group_size}
        if artifact.meta.get("groups") != wanted:
            return False
    source = {"top-score": ranked_by, "like": Path(text)}.get(kind)
    if source is None or not source.is_file():
        return True
    return provenance.file_digest(source) in artifact.meta.get("inputs", {}).values()
