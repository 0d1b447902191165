"""Short texts and records about artifacts, for the commands that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifcheck.artifacts import Artifact
from ifcheck.cli.terminal import UNDEFINED, number
from ifcheck.config import flatten
from ifcheck.stages.tables import plain


def default_out(sources: Sequence[Path], name: str) -> Path:
    """Return where a stage's file goes if the user does not say: into the run's folder."""
    source = sources[0]
    folder = source if source.is_dir() else source.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / name


def artifact_record(artifact: Artifact) -> dict[str, Any]:
    """Return an artifact as JSON can hold it: where, what made it, and all its arrays."""
    arrays = {name: plain(values.tolist()) for name, values in artifact.arrays.items()}
    return {"path": str(artifact.path), "meta": artifact.meta, "arrays": arrays}


def mean(values: NDArray[Any]) -> str:
    """Return the mean of the finite values as text."""
    finite = values[np.isfinite(values)]
    return number(float(finite.mean())) if finite.size else UNDEFINED


def median(values: NDArray[Any]) -> str:
    """Return the median of the finite values as text."""
    finite = values[np.isfinite(values)]
    return number(float(np.median(finite))) if finite.size else UNDEFINED


def extreme(values: NDArray[Any]) -> str:
    """Return `smallest to largest`."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return UNDEFINED
    return f"{number(float(finite.min()))} to {number(float(finite.max()))}"


def worst(values: NDArray[Any]) -> str:
    """Return the largest count as text."""
    return str(int(values.max()))


def misses_threshold(summaries: Sequence[Mapping[str, Any]], least: float | None) -> bool:
    """Return whether a pair's mean |Spearman| is undefined or below what the user asked for.

    Baselines are there to be beaten, and do not count.
    """
    if least is None:
        return False
    counted = [summary for summary in summaries if not summary.get("baseline", False)]
    return not all(summary.get("abs_spearman_mean", np.nan) >= least for summary in counted)


def misses_requirement(summaries: Sequence[Mapping[str, Any]], required: str | None) -> bool:
    """Return whether a verdict is less than what the user asked for, or there is none.

    A cell that failed has none; baselines are not judged, and do not count.
    """
    from ifcheck.agreement.verdict import meets

    if required is None:
        return False
    judged = [summary for summary in summaries if not summary.get("baseline", False)]
    verdicts = [summary.get("verdict") for summary in judged]
    return not verdicts or not all(v and meets(v, required) for v in verdicts)


def describe_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return an artifact's metadata with one line per fact."""
    facts = {
        name: meta[name]
        for name in ("kind", "schema", "sha256", "seed", "engine", "device", "dtype", "threads")
        if name in meta
    }
    for name in ("seconds", "peak_memory_bytes"):
        facts[name] = meta.get(name, UNDEFINED)
    facts["code"] = meta.get("code", UNDEFINED)
    for name, value in flatten(meta.get("config", {})):
        facts[name] = _short(value)
    facts["made from"] = _short([f"{n} {d[:8]}" for n, d in meta.get("parents", {}).items()])
    if meta.get("reasons"):
        facts["refused"] = "; ".join(meta["reasons"])
    return facts


def describe_values(name: str, values: NDArray[Any]) -> dict[str, str]:
    """Return name, type, shape and range of an array."""
    described = extreme(values) if values.dtype.kind in "iufb" and values.size else UNDEFINED
    return {
        "name": name,
        "type": str(values.dtype),
        "shape": "x".join(map(str, values.shape)) or "scalar",
        "range": described,
    }


def _short(value: Any, most: int = 6) -> str:
    if isinstance(value, list) and len(value) > most:
        return f"{', '.join(map(str, value[:most]))}, … ({len(value)} in all)"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
