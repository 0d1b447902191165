"""One trained network in one file: safetensors with a JSON header, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ifcheck import provenance
from ifcheck.artifacts.files import atomic_write, find_checkpoints
from ifcheck.errors import ArtifactUnreadable, IfcheckError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a `state_dict` and, where ifcheck wrote the file, what made them."""

    path: Path
    digest: str  # SHA-256 of the file
    state: dict[str, Tensor]
    meta: dict[str, Any] | None  # config, seed, data digest, versions; None: a user's own file


def write_checkpoint(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Save a state dict with its metadata, all or nothing."""
    full = {
        "schema": SCHEMA_VERSION,
        "versions": provenance.versions(),
        "code": provenance.code_revision(),
        **meta,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header = {"ifcheck": json.dumps(full, sort_keys=True)}

    def save(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    atomic_write(path, save)


def read_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint of ifcheck's, or a user's own `.pt` state dict, onto the CPU.

    Raises: ArtifactUnreadable for a missing, truncated or foreign file and for values that
    are not finite.
    """
    if not path.is_file():
        raise ArtifactUnreadable(f"{path} does not exist.", remedy="Check the path.")
    state, meta = (
        _read_safetensors(path) if path.suffix == ".safetensors" else _read_state_dict(path)
    )
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactUnreadable(
                f"{path}: {name} holds values that are not finite.",
                remedy="The network has diverged: train it again.",
            )
    return Checkpoint(path, provenance.file_digest(path), state, meta)


def trained_network(sources: Sequence[Path]) -> str | None:
    """Return the name of the network that checkpoints hold, where ifcheck wrote the first of them.

    Reads no tensor, and raises nothing: what is wrong with the files is told by who reads them.
    """
    with suppress(IfcheckError, SafetensorError, OSError, ValueError, TypeError, LookupError):
        with safe_open(find_checkpoints(sources)[0], framework="pt") as file:
            described = json.loads((file.metadata() or {})["ifcheck"])
        return str(described["config"]["network"]["name"])
    return None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactUnreadable(
            f"{path} is not a readable safetensors file: {error}.",
            remedy="It may be truncated: make it again.",
        ) from error
    if "ifcheck" not in header:
        return state, None
    return state, _read_header(path, header["ifcheck"])


def _read_header(path: Path, text: str) -> dict[str, Any]:
    try:
        meta = json.loads(text)
        schema = meta["schema"]
        complete = isinstance(meta["config"], dict) and isinstance(meta["seed"], int)
        complete = complete and isinstance(meta["data"], str)
    except (ValueError, TypeError, LookupError) as error:
        raise ArtifactUnreadable(
            f"{path} has a header that ifcheck did not write: {error}.",
            remedy="Train again, or remove the key `ifcheck` from its metadata.",
        ) from error
    if schema != SCHEMA_VERSION or not complete:
        raise ArtifactUnreadable(
            f"{path} has schema {schema!r}; this ifcheck reads {SCHEMA_VERSION}.",
            remedy="Train again with this version.",
        )
    return dict(meta)


def _read_state_dict(path: Path) -> tuple[dict[str, Tensor], None]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make torch raise almost anything
        first_line = (str(error) or type(error).__name__).split("\n")[0]
        raise ArtifactUnreadable(
            f"{path} is not a state dict that loads with weights_only=True: {first_line}",
            remedy="Save `model.state_dict()` with torch.save, or use safetensors.",
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ArtifactUnreadable(
            f"{path} holds a {type(state).__name__}; expected a state dict of tensors.",
            remedy="Save `model.state_dict()` with torch.save.",
        )
    return dict(state), None
