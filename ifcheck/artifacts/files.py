"""Writing all or nothing, refusing to overwrite, finding checkpoints."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ifcheck.errors import ArtifactUnreadable, OutputRefused, RunFailed

# Errors that another output folder would not have; all others are failures while running.
WRONG_PLACE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
}
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth")


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file in the same folder, then move it over `path`.

    A reader, or a run resumed after `kill -9`, sees the old file or the whole new one.
    Raises: OutputRefused where the folder cannot be written, RunFailed where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno in WRONG_PLACE:
            raise OutputRefused(
                f"cannot write {path}: {error.strerror}.", remedy="Choose another --out."
            ) from error
        raise RunFailed(
            f"writing {path} failed: {error.strerror or error}.",
            remedy="Free some disk space, then run it again; finished files are kept.",
        ) from error
    finally:
        with suppress(OSError):  # moved, or never made: its folder may not even be a folder
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file all or nothing."""
    atomic_write(path, lambda temporary: _write_utf8(temporary, text))


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def require_free(out: Path, force: bool) -> None:
    """Refuse an output that exists and is not empty, unless it may be replaced.

    Also finds out, before hours of work, that nothing can be written there. Creates nothing.
    Raises: OutputRefused.
    """
    occupied = any(out.iterdir()) if out.is_dir() else out.exists()
    if occupied and not force:
        raise OutputRefused(
            f"{out} exists already.", remedy="Add --force to replace it, or choose another --out."
        )
    if out.exists() and not (out.is_dir() or out.is_file()):
        raise OutputRefused(f"{out} is a device.", remedy="Choose another --out.")
    ancestor = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not ancestor.is_dir() and ancestor != out:
        raise OutputRefused(
            f"cannot write {out}: {ancestor} is not a folder.", remedy="Choose another --out."
        )
    if not os.access(ancestor, os.W_OK):
        raise OutputRefused(
            f"cannot write {out}: no permission in {ancestor}.", remedy="Choose another --out."
        )


def find_checkpoints(sources: Sequence[Path]) -> list[Path]:
    """Return the checkpoint files of run folders, checkpoint folders or files, by name.

    Raises: ArtifactUnreadable where there are none.
    """
    found: list[Path] = []
    for source in sources:
        folder = source / CHECKPOINT_FOLDER
        if source.is_dir():
            files = sorted((folder if folder.is_dir() else source).iterdir())
            found += [file for file in files if file.suffix in CHECKPOINT_SUFFIXES]
        elif source.is_file():
            found.append(source)
        else:
            raise ArtifactUnreadable(
                f"{source} does not exist; expected a run folder or checkpoint files.",
                remedy="Run `ifcheck train … --out run/` first.",
            )
    if not found:
        raise ArtifactUnreadable(
            f"no checkpoints in {', '.join(map(str, sources))}.",
            remedy="Run `ifcheck train … --out run/` first, or name the files.",
        )
    return list(dict.fromkeys(found))  # a run that is named twice counts once
