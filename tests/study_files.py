"""Study folders written by hand, as small as they can be."""

import csv
import json
from pathlib import Path

CELL = {
    "cell": "iris-mlp-depth1-width5-selu-l2",
    "dataset": "iris",
    "network": "mlp",
    "depth": 1,
    "width": 5,
    "activation": "selu",
    "variant": "l2",
}
PAIR = {"estimator": "objective", "truth": "warm", "retrain_params": "head", "group_size": 1}
NUMBERS = {
    "spearman": 0.9,
    "slope": 1.1,
    "null_drift": 0.01,
    "top_eigenvalue": 2.0,
    "train_accuracy": 0.95,
}


def record(seed: int, **parts: object) -> dict[str, object]:
    """Return a row of `results.csv`; what is not given is that of a fine record."""
    return {**CELL, "seed": seed, "test_id": 83, **PAIR, **NUMBERS, "status": "ok", **parts}


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as CSV; None is an empty cell."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_study(
    folder: Path,
    rows: list[dict[str, object]],
    finished: bool = True,
    verdicts: list[dict[str, object]] | None = None,
    **settings: object,
) -> Path:
    """Write the files of a study that `ifcheck compare` reads; settings go under `train`."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"train": settings}))
    write_rows(folder / "results.csv", rows)
    if verdicts is not None:
        write_rows(folder / "summary.csv", verdicts)
    if finished:
        (folder / "tests.csv").write_text("quantity\n")
    return folder
