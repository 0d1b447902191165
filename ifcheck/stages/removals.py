"""Which rows, or groups of rows, are removed from each network of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ifcheck import provenance
from ifcheck.artifacts import Artifact, read_artifact
from ifcheck.errors import ArtifactMismatch, ArtifactUnreadable, UnusableInput
from ifcheck.models import evaluate
from ifcheck.removal.selection import FORMS, largest, parse_count, parse_ids, random_rows
from ifcheck.stages.run import Run, require_same_checkpoints
from ifcheck.stages.setup import Setup
from ifcheck.stages.testpoints import count_test_points

MOST_GROUPS = 100_000  # that are drawn at random; each is retrained without


def check_removals(setup: Setup) -> str:
    """Refuse removals that cannot be chosen, before anything is computed; return their kind.

    Raises: UnusableInput.
    """
    settings, dataset = setup.config.retrain, setup.dataset
    tests = count_test_points(setup.config.data.test_points, dataset)
    rows = dataset.train_rows(tests)
    kind, text = parse_removals(settings.removals, rows, settings.group_size)
    if kind == "ids":
        known = np.arange(rows) if dataset.has_test_set else dataset.row_ids
        _parse_groups(text, settings.removals, known, settings.group_size)
    return kind


def parse_removals(specification: str, rows: int, group_size: int) -> tuple[str, str]:
    """Split a selection such as top-loss:40 into its kind and its text, and check the count.

    Raises: UnusableInput.
    """
    kind, _, text = specification.partition(":")
    if kind not in ("ids", "like", "top-loss", "top-score", "random"):
        raise UnusableInput(
            f"--removals got {specification!r}; expected {FORMS}.",
            remedy="For example: --removals top-loss:40",
        )
    if group_size >= rows:
        # One row must be left: a mean over no rows is no objective.
        raise UnusableInput(
            f"--group-size got {group_size}; there are {rows} training rows, of which one must "
            "be left.",
            remedy=f"Use --group-size {max(1, rows - 1)} or less.",
        )
    if kind not in ("ids", "like"):
        available, what = rows - 1, "rows"
        if group_size > 1:
            available = MOST_GROUPS if kind == "random" else rows // group_size
            what = f"groups of {group_size} rows"
        parse_count(text, specification, available, what=what)
    return kind, text


def _parse_groups(
    text: str, specification: str, known: NDArray[np.int64], group_size: int
) -> NDArray[np.int64]:
    """Read ids, each `group_size` of them a group. Shape: (K, G)."""
    ids = parse_ids(text, specification, known)
    if len(ids) % group_size:
        raise UnusableInput(
            f"{specification!r} names {len(ids)} rows, which are no whole number of groups of "
            f"{group_size}.",
            remedy="Name all rows of one group after the other.",
        )
    return ids.reshape(-1, group_size)


def select_removals(run: Run, influence_file: Path | None = None) -> NDArray[np.int64]:
    """Return the positions of the rows that leave each network together, in order.

    `influence_file` is what top-score:K ranks by.
    Shape: (S, K, G). Raises: UnusableInput, ArtifactUnreadable, ArtifactMismatch.
    """
    settings, ids = run.setup.config.retrain, run.split.train_ids
    size = settings.group_size
    kind, text = parse_removals(settings.removals, len(ids), size)
    if kind == "ids":
        chosen = np.searchsorted(ids, _parse_groups(text, settings.removals, ids, size))
        return np.tile(chosen, (len(run.seeds), 1, 1))
    if kind == "like":
        return _like(Path(text), run)
    count = int(text)
    if kind == "random":
        return np.stack([_random_groups(count, size, len(ids), int(s)) for s in run.seeds])
    values = losses(run, "train") if kind == "top-loss" else _sizes_of_scores(run, influence_file)
    return np.stack([largest_groups(row, count, size) for row in values])


def largest_groups(values: NDArray[np.float64], count: int, group_size: int) -> NDArray[np.int64]:
    """Return the positions of the largest values, cut into groups in falling order.

    Shape: (count, group_size).
    """
    return largest(values, count * group_size).reshape(count, group_size)


def _random_groups(count: int, group_size: int, rows: int, seed: int) -> NDArray[np.int64]:
    """Draw groups, each without regard to the others; single rows are all different."""
    if group_size == 1:
        return random_rows(count, rows, seed, "removals")[:, None]
    groups = [random_rows(group_size, rows, seed, f"group {k}") for k in range(count)]
    return np.stack(groups)


def losses(run: Run, rows: str) -> NDArray[np.float64]:
    """Return the float64 losses of the trained networks on "train" or "test" rows. (S, rows)."""
    inputs, targets = run.tensors()[rows]
    found = [
        run.setup.objective.per_example_loss(evaluate(network, inputs), targets)
        for network in run.networks
    ]
    return torch.stack(found).cpu().numpy()


def removed_rows(artifact: Artifact) -> NDArray[np.int64]:
    """Return the ids that a file of `retrain` removes, or one of `influence` scores, together.

    Shape: (S, K, G). Raises: ArtifactUnreadable for a file that does neither.
    """
    if "group_ids" in artifact.arrays:
        return artifact["group_ids"]
    if "removed_ids" in artifact.arrays:
        return artifact["removed_ids"][..., None]
    raise ArtifactUnreadable(
        f"{artifact.path.name} ({artifact.kind}) holds neither removed_ids nor group_ids.",
        remedy="Give a file that `ifcheck retrain` wrote, or `ifcheck influence --group-size`.",
    )


def compared_removals(
    influence: Artifact, retrain: Artifact, seed_place: int, retrain_place: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return what a seed's retraining removed, (K, G), and which of it scores may be judged by.

    Removals of the seed on which the damping of the scores was chosen are not. Shape: (K,).
    Raises: ArtifactMismatch where rows were removed that were not scored.
    """
    removed, known = removed_rows(retrain)[retrain_place], influence["train_ids"]
    if not np.isin(removed, known).all():
        raise ArtifactMismatch(
            f"{retrain.path.name} removed rows that {influence.path.name} did not score.",
            remedy="Make both from the same data.",
        )
    if "held_out_ids" not in influence.arrays:
        return removed, np.ones(len(removed), dtype=bool)
    held_out = np.isin(removed, influence["held_out_ids"][seed_place])
    return removed, np.asarray(~held_out.any(axis=1))


def predicted_changes(
    influence: Artifact, retrain: Artifact, seed_place: int, retrain_place: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the scores (T, k) of what a seed's retraining removed, and which removals these are.

    Shape of the latter: (K,), k of them true. Raises: ArtifactMismatch, see `compared_removals`,
    and where groups were not scored.
    """
    removed, kept = compared_removals(influence, retrain, seed_place, retrain_place)
    if "group_ids" in retrain.arrays:
        return _group_scores(influence, removed[kept], seed_place, retrain.path), kept
    positions = np.searchsorted(influence["train_ids"], removed[kept, 0])
    return np.asarray(influence["scores"][seed_place][:, positions]), kept


def _group_scores(
    influence: Artifact, removed: NDArray[np.int64], seed_place: int, path: Path
) -> NDArray[np.float64]:
    """Return the scores of groups (K, G), whose rows may stand in another order. Shape: (T, K)."""
    known = influence["group_ids"][seed_place] if "group_ids" in influence.arrays else []
    places = {frozenset(group.tolist()): place for place, group in enumerate(known)}
    wanted = [places.get(frozenset(group.tolist())) for group in removed]
    if None in wanted:
        raise ArtifactMismatch(
            f"{path.name} removed groups of {removed.shape[1]} rows; {influence.path.name} did "
            f"not score {'these' if len(places) else 'groups'}.",
            remedy=f"Score them: ifcheck influence RUN --removals like:{path}",
        )
    return np.asarray(influence["group_scores"][seed_place][:, wanted])


def _sizes_of_scores(run: Run, path: Path | None) -> NDArray[np.float64]:
    """Return the largest |score| over test points of each row. Shape: (S, N)."""
    if path is None:
        raise ValueError("top-score needs a file of scores")
    artifact = read_artifact(path, "influence")
    require_same_checkpoints(run, artifact.parents, path)
    order = places_of_seeds(run, artifact)
    return np.asarray(np.abs(artifact["scores"][order]).max(axis=1))


def _like(path: Path, run: Run) -> NDArray[np.int64]:
    artifact = read_artifact(path)
    removed = removed_rows(artifact)
    require_same_checkpoints(run, artifact.parents, path)
    size, asked = removed.shape[2], run.setup.config.retrain.group_size
    if asked not in (1, size):
        raise UnusableInput(
            f"{path} holds groups of {size}; --group-size got {asked}.",
            remedy="Leave --group-size out: the file says it.",
        )
    return np.searchsorted(run.split.train_ids, removed[places_of_seeds(run, artifact)])


def input_digests(run: Run, *files: Path | None) -> dict[str, str]:
    """Return the SHA-256, by path, of what an artifact was made from besides checkpoints.

    These files, where they are given, and that of `--removals like:FILE` or `top-score`.
    """
    kind, _, text = run.setup.config.retrain.removals.partition(":")
    used = [file for file in files if file is not None]
    if kind == "like":
        used.append(Path(text))
    return {path.as_posix(): provenance.file_digest(path) for path in used}


def places_of_seeds(run: Run, artifact: Artifact) -> list[int]:
    """Return where each seed of the run stands in the artifact."""
    places = {int(seed): index for index, seed in enumerate(artifact["seeds"])}
    missing = [int(seed) for seed in run.seeds if int(seed) not in places]
    if missing:
        raise ArtifactMismatch(
            f"{artifact.path.name} has no seed {missing[0]}; it holds {sorted(places)}.",
            remedy="Make that file again from these checkpoints.",
        )
    return [places[int(seed)] for seed in run.seeds]
