"""Continuing where an interrupted study stopped: which files may be used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifcheck import provenance
from ifcheck.artifacts import Artifact, read_artifact, write_text
from ifcheck.artifacts.files import CHECKPOINT_FOLDER
from ifcheck.config import Config, differences
from ifcheck.errors import ArtifactUnreadable, OutputRefused
from ifcheck.stages.setup import make_setup
from ifcheck.stages.train import LIVE_FOLDER

STUDY_FILE = "study.json"
SHOWN_DIFFERENCES = 5


def claim_study(config: Config, out: Path) -> None:
    """Make `out` the folder of this study, or find that it already is.

    Raises: OutputRefused where another configuration or version made what is there, with
    what differs.
    """
    ours = _identity(config)
    path = out / STUDY_FILE
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not path.is_file()):
        raise OutputRefused(
            f"{out} exists and is not the folder of a study.", remedy="Choose another --out."
        )
    theirs = read_identity(path) if path.is_file() else ours
    # Verdicts come anew every time: other thresholds make no other study.
    lines = differences(*({**which, "verdict": {}} for which in (ours, theirs)))
    if lines:
        shown = "; ".join(lines[:SHOWN_DIFFERENCES])
        more = f"; and {len(lines) - SHOWN_DIFFERENCES} more" * (len(lines) > SHOWN_DIFFERENCES)
        raise OutputRefused(
            f"{out} was made by another configuration: {shown}{more}.",
            remedy="Choose another --out, or run the configuration that made it.",
        )
    if not path.is_file() or ours != theirs:
        write_text(path, json.dumps(ours, indent=1) + "\n")


def _identity(config: Config) -> dict[str, Any]:
    """Return everything that the numbers of a study depend on."""
    described = config.to_dict()
    described["run"] = {key: described["run"][key] for key in ("device", "engine")}
    described["data"].pop("data_dir")
    described["evaluate"].pop("min_spearman")
    described["verdict"].pop("require")
    described.pop("diagnose")  # is not run
    device = make_setup(config).device  # what "auto" means on this machine
    described["run"]["device"] = str(device)
    described["code"] = provenance.code_revision()
    described["versions"] = provenance.versions()
    identity: dict[str, Any] = json.loads(json.dumps(described))
    return identity


def read_identity(path: Path) -> dict[str, Any]:
    """Return what a study's file says its numbers depend on. Raises: OutputRefused if damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OutputRefused(
            f"{path} is damaged: {error}.", remedy="Choose another --out, or remove the folder."
        ) from error


def identity_of(folder: Path) -> dict[str, Any]:
    """Return what the numbers of the study in this folder depend on.

    Raises: ArtifactUnreadable where it holds no study.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise ArtifactUnreadable(
            f"{folder} is not the folder of a study: it has no {STUDY_FILE}.",
            remedy="Give the folder that `ifcheck fragility --out` wrote.",
        )
    try:
        return read_identity(path)
    except OutputRefused as error:  # which speaks of a folder to write into
        raise ArtifactUnreadable(
            error.message, remedy="Run that study again, in another folder."
        ) from error


def reusable_training(folder: Path, description: Mapping[str, Any]) -> Artifact | None:
    """Return the finished `train.npz` of a cell, if its checkpoints are all as it left them."""
    artifact = _readable(folder / "train.npz", "train", description)
    if artifact is None:
        return None
    files = {folder / CHECKPOINT_FOLDER / n: d for n, d in artifact.parents.items()}
    files |= {folder / LIVE_FOLDER / n: d for n, d in artifact.meta["live"].items()}
    intact = all(p.is_file() and provenance.file_digest(p) == d for p, d in files.items())
    return artifact if intact else None


def reusable(
    path: Path, kind: str, description: Mapping[str, Any], parents: Mapping[str, str]
) -> Artifact | None:
    """Return a finished artifact if this configuration made it from these checkpoints."""
    artifact = _readable(path, kind, description)
    return artifact if artifact is not None and artifact.parents == parents else None


def _readable(path: Path, kind: str, description: Mapping[str, Any]) -> Artifact | None:
    try:
        artifact = read_artifact(path, kind)
    except ArtifactUnreadable:
        return None
    return None if differences(description, artifact.meta["config"]) else artifact
