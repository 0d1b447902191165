"""How many times faster a whole study is than an ordinary sequential torch loop.

Runs one seed of the loop (training, then 40 removals, each fine-tuned on its own) and the whole
command for 50 seeds in turn, and prints the ratio of 50 times the one to the other:

    python -m tests.benchmarks.end_to_end --rounds 3
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.benchmarks.sequential_loop import one_seed

SEEDS = 50
WEIGHT_DECAY = {"none": 0.0, "swa": 0.0, "l2": 0.005, "l2-swa": 0.005}


def time_loop(variant: str, depth: int, width: int, seed: int) -> float:
    """Return the seconds of one seed by the sequential loop, on one thread."""
    started = time.perf_counter()
    one_seed(
        seed,
        depth=depth,
        width=width,
        weight_decay=WEIGHT_DECAY[variant],
        averaging=variant.endswith("swa"),
    )
    return time.perf_counter() - started


def time_command(variant: str, depth: int, width: int, epochs: int | None = None) -> float:
    """Return the seconds of the whole process, start-up, tables, files and figures included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ifcheck", "fragility", "--dataset", "iris"]
        command += ["--depth", str(depth), "--width", str(width), "--variant", variant]
        command += ["--seeds", str(SEEDS), "--quiet", "--out", str(Path(folder) / "study")]
        if epochs is not None:
            command += ["--epochs", str(epochs), "--retrain-epochs", str(epochs)]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def compare(variant: str, depth: int, width: int, rounds: int) -> float:
    """Print each round's times; return the median ratio of 50 loops to one command."""
    time_command(variant, depth, width, epochs=10)  # what is compiled, searched and cached once
    ratios = []
    for index in range(rounds):
        one = time_loop(variant, depth, width, seed=index)
        command = time_command(variant, depth, width)
        ratios.append(SEEDS * one / command)
        print(
            f"round {index}: loop {one:.1f} s a seed, command {command:.1f} s for {SEEDS} seeds, "
            f"ratio {ratios[-1]:.0f}",
            flush=True,
        )
    print(f"median ratio: {statistics.median(ratios):.0f}")
    return statistics.median(ratios)


def main() -> None:
    """Compare for the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="l2", choices=WEIGHT_DECAY)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--width", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    compare(options.variant, options.depth, options.width, options.rounds)


if __name__ == "__main__":
    main()
