"""All measurements of speed, as one table:

python -m tests.benchmarks
python -m tests.benchmarks --rounds 1 --only engines
"""

from __future__ import annotations

import argparse
import datetime
import functools
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ifcheck.curvature.head import SoftmaxHeadLoss
from ifcheck.engines import run_each
from ifcheck.models import initialise
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective, weights_without
from ifcheck.removal.newton import HeadProblem, minimise_head
from tests.benchmarks import bayesian, end_to_end, engines, images, products, roofline, solvers
from tests.benchmarks import sequential_loop as loop

PARTS = ("engines", "bayesian", "newton", "images", "command", "products", "solvers")
IMAGE_ROUNDS = 3
COMMAND_ROUNDS = 3  # one takes two minutes, nearly all of them the loop's


def main() -> None:
    """Print the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements behind each median")
    parser.add_argument("--only", choices=PARTS, nargs="*", default=PARTS)
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {_processor()}, {torch.get_num_threads()} threads")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", *_numba())))
    for part in ("engines", "bayesian"):
        if part in options.only:
            _engines(part, options.rounds)
    if "newton" in options.only:
        _newton(options.rounds)
    if "images" in options.only:
        _images(min(options.rounds, IMAGE_ROUNDS))
    if "command" in options.only:
        _command(min(options.rounds, COMMAND_ROUNDS))
    if "products" in options.only:
        _products(options.rounds)
    if "solvers" in options.only:
        _solvers()


def _engines(part: str, rounds: int) -> None:
    """Print a table of engines beside the loop, for plain or for Bayesian networks."""
    limits = _limits()
    print(
        f"\n{'work':28} {'size':18} {'engine':6} {'':4} {'loop us':>8} {'us':>8} {'ratio':>6} limit"
    )
    measure = {"engines": engines.measure, "bayesian": bayesian.measure}[part]
    for line in measure(rounds, engines.engines(), limits):
        print(
            f"{line.work:28} {line.size:18} {line.engine:6} {line.dtype:4} "
            f"{line.loop_seconds * 1e6:8.0f} {line.seconds * 1e6:8.3f} {line.ratio:6.0f} "
            f"{line.share:5.0%}",
            flush=True,
        )


@functools.cache
def _limits() -> dict[str, roofline.Roofline]:
    """Measure the machine's limits, once, and print them."""
    limits = {label: roofline.measure(dtype) for label, dtype in engines.TYPES.items()}
    for label, limit in limits.items():
        print(
            f"limit {label}: {limit.flops / 1e9:.0f} GFLOP/s of matrix products, "
            f"{limit.exponentials / 1e9:.1f} G exponentials/s"
        )
    return limits


def _newton(rounds: int) -> None:
    """Time 50 seeds' heads, 40 removals each, to a gradient norm of 1e-10."""
    inputs, targets, *_ = loop.load_iris_without(loop.MAX_LOSS_ROW, torch.float64)
    removed = torch.arange(engines.REMOVALS)[:, None]
    weights = weights_without(len(targets), removed, "n-1")
    objective = Objective(engines.WEIGHT_DECAY)
    networks = [initialise(MLPSpec(1, 5), (4,), 3, s, torch.float64) for s in range(engines.SEEDS)]
    with torch.no_grad():
        features = [network.features(inputs) for network in networks]

    def solve(rows: Tensor) -> None:
        start = torch.zeros(len(removed), 18, dtype=torch.float64)
        no_rho = torch.zeros(18, dtype=torch.bool)
        problem = HeadProblem(SoftmaxHeadLoss(3), objective, no_rho, rows, targets, weights)
        optimum = minimise_head(problem, start)
        if not bool(optimum.converged.all()):
            raise RuntimeError("Newton's method did not converge")

    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        run_each(solve, features, elements=0, device=torch.device("cpu"))
        seconds.append(time.perf_counter() - started)
    print(f"\n2,000 Newton problems of width 5: {statistics.median(seconds):.2f} s")


def _images(rounds: int) -> None:
    """Print what is done with image networks, beside one row or model after the other."""
    print(f"\n{'work':72} {'':8} {'loop s':>8} {'s':>8} {'ratio':>6}")
    for line in images.measure(rounds):
        loop_seconds, ratio = "", ""
        if line.loop_seconds is not None:
            loop_seconds = f"{line.loop_seconds:.0f}"
            ratio = f"{line.loop_seconds / line.seconds:.0f}"
        print(
            f"{line.work:72} {line.dtype:8} {loop_seconds:>8} {line.seconds:8.3g} {ratio:>6}",
            flush=True,
        )


def _command(rounds: int) -> None:
    """Time the whole command beside one seed of the loop."""
    print()
    end_to_end.compare("l2", depth=1, width=5, rounds=rounds)


def _products(rounds: int) -> None:
    """Print products with Hessians beside other libraries', and what they leave in memory."""
    others = ", ".join(
        f"{name} {version(name)}" for name in ("curvlinops-for-pytorch", "pyhessian")
    )
    print(f"\n{others}; one thread, float64; ratio: ours to the fastest other")
    print(
        f"{'product':13} {'parameters':>10} {'rows':>6} {'blocks':>6} {'ours ms':>8} "
        f"{'curvlinops':>10} {'pyhessian':>9} {'ratio':>6} {'difference':>10}"
    )
    for line in products.measure(rounds):
        ms = {library: seconds * 1e3 for library, seconds in line.seconds.items()}
        print(
            f"{line.network:13} {line.parameters:10,} {line.rows:6,} {line.blocks:6} "
            f"{ms[products.OURS]:8.4g} {ms['curvlinops']:10.4g} {ms['pyhessian']:9.4g} "
            f"{line.ratio:6.2f} {line.difference:10.1e}",
            flush=True,
        )
    for grown in products.growth():
        print(
            f"{products.PRODUCTS:,} products, mlp 4-5-3, {grown.rows:,} rows in {grown.blocks} "
            f"block(s): {grown.before:.1f} MB before, {grown.after:.1f} MB after",
            flush=True,
        )


def _solvers() -> None:
    """Print every solver on every operator as a Markdown table, row by row as it is measured."""
    print(f"\n{solvers.introduction()}\n")
    print(solvers.HEADER)
    started = time.perf_counter()
    for line in solvers.measure():
        print(line.markdown(), flush=True)
    print(f"\nsolvers: {(time.perf_counter() - started) / 60:.0f} min")


def _processor() -> str:
    """Return the processor's name as the system tells it."""
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    ):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _numba() -> list[str]:
    return [name for name in engines.engines() if name == "numba"]


if __name__ == "__main__":
    main()
