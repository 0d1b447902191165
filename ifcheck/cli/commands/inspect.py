"""`ifcheck inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ifcheck.cli import terminal
from ifcheck.cli.session import Session


def inspect(
    session: Session,
    files: Annotated[
        list[Path], typer.Argument(help="Artifacts or checkpoints.", metavar="FILE...")
    ],
) -> None:
    """Show what is in a file and what made it.

    Example: `ifcheck inspect run/train.npz run/checkpoints/seed-000.safetensors`
    """
    session.configure({})
    records = [_record(path) for path in files]
    if session.json:
        from ifcheck.stages.tables import plain

        terminal.show_json(plain(records))
        return
    for record in records:
        facts = {name: value for name, value in record.items() if name not in ("arrays", "path")}
        terminal.show_facts(record["path"], {name: str(value) for name, value in facts.items()})
        rows = [[a["name"], a["type"], a["shape"], a["range"]] for a in record["arrays"]]
        terminal.show_table("", ["array", "type", "shape", "range"], rows)


def _record(path: Path) -> dict[str, Any]:
    from ifcheck.artifacts import find_checkpoints, read_artifact, read_checkpoint
    from ifcheck.cli.summaries import describe_meta, describe_values

    if path.suffix == ".npz":
        artifact = read_artifact(path)
        meta, arrays = artifact.meta, artifact.arrays
    else:
        checkpoint = read_checkpoint(find_checkpoints([path])[0])
        meta = {"kind": "checkpoint", "sha256": checkpoint.digest, **(checkpoint.meta or {})}
        arrays = {name: tensor.numpy() for name, tensor in checkpoint.state.items()}
        path = checkpoint.path
    described = [describe_values(name, values) for name, values in arrays.items()]
    return {"path": str(path), **describe_meta(meta), "arrays": described}
