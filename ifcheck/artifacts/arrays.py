"""Typed `.npz` artifacts: schema, atomic save, checked load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.artifacts.files import atomic_write
from ifcheck.errors import ArtifactUnreadable

SCHEMA_VERSION = 1

# Arrays of each kind and the axes that they share: S seeds, T test points, N training rows,
# K removals of G rows each, H rows held out, E epochs, L eigenvalues, D points of a grid. A
# question mark after the axes: may be absent. A small r at the end: an axis of R replicates, which
# either all arrays that have it bear or none; there are two replicates or more.
SCHEMAS: dict[str, dict[str, str]] = {
    "train": {
        "seeds": "S",
        "train_ids": "N",
        "test_ids": "ST",
        "train_loss": "SN",
        "test_loss": "ST",
        "test_negative_log_probability": "ST",
        "train_accuracy": "S",
        "test_accuracy": "S",
        "grad_norm": "S",
        "polished": "S",
        "history_epoch": "E",
        "history_loss": "SE",
    },
    "influence": {
        "seeds": "S",
        "train_ids": "N",
        "test_ids": "ST",
        "scores": "STN",
        "null_scores": "ST?",
        "rel_residual": "ST",
        "converged": "ST",
        "steps": "ST?",
        "hessian_min": "S",
        "hessian_max": "S",
        "null_space": "S",
        "negative": "S",
        "damping_path": "D?",
        "path_scores": "SDTN?",
        "path_rel_residual": "SDT?",
        "path_steps": "SDT?",
        "path_converged": "SDT?",
        "held_out_ids": "SH?",
        "group_ids": "SKG?",
        "group_scores": "STK?",
        "group_residual": "SK?",
        "group_converged": "SK?",
    },
    "retrain": {
        "seeds": "S",
        "test_ids": "ST",
        "removed_ids": "SK?",  # single rows, or else:
        "group_ids": "SKG?",
        "loss_before": "ST",
        "loss_after": "STKr",
        "null_loss_after": "STr",
        "converged": "SKr",
        "grad_norm": "SKr",
        "null_grad_norm": "Sr",
        "positive_definite": "SK?",
        "null_positive_definite": "S?",
        "trajectory_epoch": "E?",
        "trajectory": "STKE?",
    },
    "eigen": {
        "seeds": "S",
        "values": "SL",
        "rel_residual": "SL",
        "min_value": "S",
        "max_value": "S",
        "density_grid": "D?",
        "density": "SD?",
        "density_error": "SD?",
        "trace": "S?",
        "trace_error": "S?",
        "negative_share_low": "S?",
        "negative_share_high": "S?",
        "negative_share_error": "S?",
    },
}

REPLICATES = "r"  # the optional axis in schemas

# Of these arrays a file of this kind holds one.
ALTERNATIVES = {"retrain": ("removed_ids", "group_ids")}


@dataclass(frozen=True)
class Artifact:
    """The arrays of an `.npz` file and what made them."""

    path: Path
    kind: str
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    @property
    def parents(self) -> dict[str, str]:
        """SHA-256 of each file this one was made from, by name."""
        return dict(self.meta["parents"])


def write_artifact(
    path: Path, kind: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
) -> Artifact:
    """Check arrays against the schema of their kind and save them, all or nothing."""
    checked = {name: np.asarray(array) for name, array in arrays.items()}
    _check(path, kind, checked)
    full = {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "versions": provenance.versions(),
        "code": provenance.code_revision(),
        **meta,
    }
    text = np.array(json.dumps(full))

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, meta=text, **checked)

    atomic_write(path, save)
    return Artifact(path, kind, checked, full)


def read_artifact(path: Path, kind: str | None = None) -> Artifact:
    """Load an `.npz` file without unpickling; `kind` is what the caller expects.

    Raises: ArtifactUnreadable for a missing, truncated or foreign file, another kind or
    schema, or arrays that are missing or do not fit together.
    """
    arrays = _load(path)
    try:
        meta = json.loads(str(arrays.pop("meta")))
        found, schema = str(meta["kind"]), meta["schema"]
        complete = isinstance(meta["config"], dict) and isinstance(meta["parents"], dict)
    except (LookupError, ValueError, TypeError) as error:
        raise ArtifactUnreadable(
            f"{path} was not written by ifcheck: it holds no readable meta.",
            remedy="Give a file that an ifcheck stage wrote.",
        ) from error
    if schema != SCHEMA_VERSION or not complete:
        raise ArtifactUnreadable(
            f"{path} has schema {schema!r}; this ifcheck reads schema {SCHEMA_VERSION}.",
            remedy="Make the file again with this version.",
        )
    if found not in SCHEMAS or (kind is not None and found != kind):
        raise ArtifactUnreadable(
            f"{path} holds {found!r}; expected {kind or ' or '.join(SCHEMAS)!r}.",
            remedy=f"Give a file that `ifcheck {kind or 'train'}` wrote.",
        )
    _check(path, found, arrays)
    return Artifact(path, found, arrays, meta)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise ArtifactUnreadable(f"{path} does not exist.", remedy="Check the path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # foreign bytes make numpy and zipfile raise almost anything
        raise ArtifactUnreadable(
            f"{path} is not a readable .npz file: {error or type(error).__name__}.",
            remedy="It may be truncated or of another format: make it again.",
        ) from error


def _check(path: Path, kind: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse missing arrays and lengths that contradict each other."""
    lengths: dict[str, int] = {}
    alternatives = ALTERNATIVES.get(kind, ())
    if alternatives and sum(name in arrays for name in alternatives) != 1:
        raise ArtifactUnreadable(
            f"{path} ({kind}) lacks the array {alternatives[0]!r}, or holds {alternatives[1]!r} "
            "beside it; expected one of the two.",
            remedy="Make the file again with this version.",
        )
    for name, axes in _schema(kind, arrays).items():
        if name not in arrays:
            if axes.endswith("?"):
                continue
            raise ArtifactUnreadable(
                f"{path} ({kind}) lacks the array {name!r}; expected {', '.join(SCHEMAS[kind])}.",
                remedy="Make the file again with this version.",
            )
        axes = axes.rstrip("?")
        shape = arrays[name].shape
        if len(shape) != len(axes) or any(
            lengths.setdefault(axis, length) != length
            for axis, length in zip(axes, shape, strict=True)
        ):
            expected = ", ".join(f"{axis}={lengths.get(axis, '?')}" for axis in axes)
            raise ArtifactUnreadable(
                f"{path} ({kind}): {name!r} has shape {shape}; expected ({expected}).",
                remedy="Make the file again.",
            )


def _schema(kind: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the axes of a kind's arrays, that of replicates as the first array with it has it."""
    schema = SCHEMAS[kind]
    optional = [n for n, axes in schema.items() if axes.endswith(REPLICATES) and n in arrays]
    shape = arrays[optional[0]].shape if optional else ()
    replicated = optional and len(shape) == len(schema[optional[0]]) and shape[-1] > 1
    axis = REPLICATES.upper() if replicated else ""
    return {name: axes.replace(REPLICATES, axis) for name, axes in schema.items()}
