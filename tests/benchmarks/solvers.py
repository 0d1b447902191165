"""Every solver on every operator, by the real commands, beside `exact` and the truth `newton`.

Each network is trained once and its heads retrained once without each of some rows. Then
every solver scores all rows with every curvature, each in a process of its own on one thread,
whose memory is that of this solve and of nothing before.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ifcheck.curvature.kinds import CURVATURES
from ifcheck.solvers import SOLVERS

REFERENCE = "exact"
REMOVALS = "top-loss:40"
LIMIT_SECONDS = 75  # of scoring; training and retraining take as long as they take
TIMED_OUT = 124  # what `timeout` returns
KILLED = 128  # and more: by a signal
MESSAGE_LENGTH = 110
MEGABYTE = 1e6


@dataclass(frozen=True)
class Case:
    """A network, and why its whole is left out, if it is."""

    name: str
    train: str  # options of `ifcheck train`
    whole_left_out: str = ""


@dataclass(frozen=True)
class Selection:
    """Which parameters move, and what is added to the diagonal."""

    params: str
    damping: float

    def __str__(self) -> str:
        return f"{self.params}, {self.damping:g}" if self.damping else self.params


_MNIST = "--variant l2 --limit-train 2000 --limit-test 500 --seeds 1 --polish head"
CASES = (
    Case(
        "Iris 1 x 5",
        "--dataset iris --depth 1 --width 5 --variant l2 --epochs 15000 --seeds 3 --polish head",
    ),
    Case(
        "Iris 8 x 5",
        "--dataset iris --depth 8 --width 5 --variant l2 --epochs 15000 --seeds 3 --polish head",
    ),
    Case(
        "digits 1 x 16",
        "--dataset digits --depth 1 --width 16 --variant l2 --epochs 1000 --seeds 3 --polish head",
    ),
    Case("MNIST fc 16", f"--dataset mnist --network fc --width 16 --epochs 1000 {_MNIST}"),
    Case(
        "MNIST lenet",
        f"--dataset mnist --network lenet --epochs 30 {_MNIST}",
        "left out: a product with the curvature of 61,706 parameters on 2,000 rows takes seconds",
    ),
)
HEAD = Selection("head", 0.0)
# All these Hessians are positive definite with it: eigenvalues go down to -0.031 (Iris 8 x 5).
WHOLE = Selection("all", 0.05)

COLUMNS = {
    "network": 13,
    "params": 9,
    "operator": 16,
    "solver": 8,
    "residual": 8,
    "converged": 9,
    "s": 6,
    "MB": 5,
    "steps": 6,
    "exact": 6,
    "newton": 6,
    "note": 4,
}


def _markdown(cells: Sequence[str]) -> str:
    padded = [f"{cell:{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True)]
    return f"| {' | '.join(padded)} |"


HEADER = _markdown(list(COLUMNS)) + "\n" + _markdown(["---"] * len(COLUMNS))


@dataclass(frozen=True)
class Scores:
    """What a file of scores says."""

    values: NDArray[np.float64]  # (seeds, tests, rows)
    train_ids: NDArray[np.int64]  # (rows,)
    residual: float  # the worst, relative
    converged: float  # share of the solves
    seconds: float
    memory: float  # MB
    steps: int  # the most

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Return those of an `influence` artifact."""
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            return cls(
                values=file["scores"],
                train_ids=file["train_ids"],
                residual=float(file["rel_residual"].max()),
                converged=float(file["converged"].mean()),
                seconds=meta["seconds"],
                memory=meta["peak_memory_bytes"] / MEGABYTE,
                steps=int(file["steps"].max()),
            )


@dataclass(frozen=True)
class Truth:
    """What retraining without rows changed."""

    removed_ids: NDArray[np.int64]  # (seeds, removals)
    changes: NDArray[np.float64]  # (seeds, tests, removals), nats

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Return that of a `retrain` artifact."""
        with np.load(path, allow_pickle=False) as file:
            changes = file["loss_after"] - file["loss_before"][..., None]
            return cls(file["removed_ids"], changes)

    def predicted(self, scores: Scores) -> NDArray[np.float64]:
        """Return the scores of the removed rows. Shape: (seeds, tests, removals)."""
        order = np.argsort(scores.train_ids)
        places = order[np.searchsorted(scores.train_ids, self.removed_ids, sorter=order)]
        return np.take_along_axis(scores.values, places[:, None], axis=-1)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    case: Case
    selection: Selection
    curvature: str
    solver: str
    scores: Scores | None = None
    like_exact: float = math.nan  # median Spearman over seeds and test points; nan: none
    like_truth: float = math.nan
    failure: str = ""  # why there are no scores

    def markdown(self) -> str:
        """Return the row."""
        names = [self.case.name, str(self.selection), self.curvature, self.solver]
        if self.scores is None:
            return _markdown([*names, *[""] * (len(COLUMNS) - len(names) - 1), self.failure])
        numbers = [
            f"{self.scores.residual:.1e}",
            f"{self.scores.converged:.0%}",
            f"{self.scores.seconds:.2f}",
            f"{self.scores.memory:.0f}",
            f"{self.scores.steps:,}",
            *(
                "" if math.isnan(rho) else f"{rho:.3f}"
                for rho in (self.like_exact, self.like_truth)
            ),
        ]
        return _markdown([*names, *numbers, ""])


def introduction() -> str:
    """Return what the columns hold and what the networks are."""
    networks = "\n".join(f"- {case.name}: ifcheck train {case.train}" for case in CASES)
    return (
        "Residual: the worst, relative; s and MB: of the stage and of its process, on one thread "
        f"(stopped after {LIMIT_SECONDS} s);\nexact: median Spearman over seeds with the scores of "
        "--solver exact, all rows, same operator; newton: with the true changes\nof heads, "
        f"--removals {REMOVALS}. Estimator objective; params all with damping "
        f"{WHOLE.damping:g}.\n{networks}"
    )


def measure() -> Iterator[Line]:
    """Yield a line for every network, selection, curvature and solver."""
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            run = Path(folder) / case.name.replace(" ", "-")
            truth_path = run / "retrain-newton.npz"
            retrain = ["retrain", str(run), "--truth", "newton", "--removals", REMOVALS]
            failure = _ifcheck(["train", *case.train.split(), "--out", str(run)]) or _ifcheck(
                [*retrain, "--out", str(truth_path)]
            )
            if failure:
                yield Line(case, HEAD, "", "", failure=failure)
                continue
            truth = Truth.read(truth_path)
            yield from _solve(case, run, HEAD, truth)
            if case.whole_left_out:
                yield Line(case, WHOLE, "", "", failure=case.whole_left_out)
            else:
                yield from _solve(case, run, WHOLE, truth)


def _solve(case: Case, run: Path, selection: Selection, truth: Truth) -> Iterator[Line]:
    for curvature in CURVATURES:
        reference: Scores | None = None
        for solver in sorted(SOLVERS, key=lambda name: name != REFERENCE):
            out = run / f"{selection.params}-{curvature}-{solver}.npz"
            command = ["influence", str(run), "--params", selection.params]
            command += ["--damping", str(selection.damping), "--curvature", curvature]
            failure = _ifcheck([*command, "--solver", solver, "--out", str(out)], LIMIT_SECONDS)
            if failure:
                yield Line(case, selection, curvature, solver, failure=failure)
                continue
            scores = Scores.read(out)
            reference = scores if solver == REFERENCE else reference
            yield Line(
                case,
                selection,
                curvature,
                solver,
                scores,
                like_exact=_spearman(scores.values, reference.values) if reference else math.nan,
                like_truth=_spearman(truth.predicted(scores), truth.changes),
            )


def _ifcheck(arguments: Sequence[str], limit: int = 0) -> str:
    """Run a command on one thread for at most `limit` seconds (0: any); return why it failed.

    By way of `timeout`, which is small: Linux counts as a process's own peak memory what the one
    that started it had at that moment.
    """
    command = ["timeout", str(limit), sys.executable, "-m", "ifcheck", *arguments, "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return ""
    if done.returncode == TIMED_OUT:
        return f"stopped after {time.perf_counter() - started:.0f} s"
    lines = done.stderr.strip().splitlines() or ["killed" if done.returncode > KILLED else ""]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    message = (told or lines[-1:])[0]
    if len(message) > MESSAGE_LENGTH:
        message = f"{message[:MESSAGE_LENGTH].rsplit(' ', 1)[0]} ..."
    return f"exit {done.returncode}: {message}"


def _spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return the median over all but the last axis; nan where something is constant."""
    pairs = zip(left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1]), strict=True)
    each = [math.nan if not (np.ptp(a) and np.ptp(b)) else spearmanr(a, b)[0] for a, b in pairs]
    return float(np.median(each))
