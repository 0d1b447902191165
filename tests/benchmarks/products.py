"""One product with a Hessian, beside the same one by curvlinops and by PyHessian.

Random rows in the sizes of Iris and MNIST: speed does not depend on what they show. All three
take the same rows in the same batches, in float64, and alternate in one process on one thread; a
figure is the median over the rounds. Results that differ end the measurement.
"""

from __future__ import annotations

import copy
import multiprocessing
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import psutil
import pyhessian
import torch
from curvlinops import HessianLinearOperator
from torch import Tensor, nn

from ifcheck.curvature.rows import NetworkRows
from ifcheck.models import NETWORKS, Network, initialise, rows_at_once
from ifcheck.models.mlp import MLPSpec
from ifcheck.objective import Objective
from tests.benchmarks.images import repeats_to_tell, timed
from tests.benchmarks.sequential_loop import one_thread

OURS = "ifcheck"
TOLERANCE = 1e-8  # of two results, relative: both are float64
WARM_UP, PRODUCTS = 100, 10_000  # products before and between the two sizes of the process
BLOCK_ROWS = (149, 3_000)  # which an MLP takes in one block and in three
MEGABYTE = 1e6


@dataclass(frozen=True)
class Line:
    """What one product takes."""

    network: str
    parameters: int
    rows: int
    blocks: int
    seconds: dict[str, float]  # by library
    difference: float  # the largest from ours, relative

    @property
    def ratio(self) -> float:
        """Ours over the fastest of the others."""
        return self.seconds[OURS] / min(s for name, s in self.seconds.items() if name != OURS)


@dataclass(frozen=True)
class Growth:
    """Resident size of the process before and after many products, in MB."""

    rows: int
    blocks: int
    before: float
    after: float


def measure(rounds: int) -> Iterator[Line]:
    """Yield a line for every network. Raises: RuntimeError where results differ."""
    cases = (
        ("mlp 4-5-3", MLPSpec(1, 5), (4,), 3, 149),
        ("fc 784-16-10", NETWORKS.create("fc", {"width": 16}), (1, 28, 28), 10, 2_000),
        ("lenet", NETWORKS.create("lenet"), (1, 32, 32), 10, 300),
    )
    for name, spec, shape, classes, count in cases:
        network = initialise(spec, shape, classes, 0, torch.float64)
        with warnings.catch_warnings():
            # PyHessian calls backward with create_graph, which torch advises against.
            warnings.filterwarnings("ignore", message="Using backward", category=UserWarning)
            line = _compare(name, network, _rows(count, shape, classes), rounds)
        yield line


def growth() -> Iterator[Growth]:
    """Yield how a fresh process grows by products with one block of rows, and with several.

    Fresh, because memory that others have freed would hide what is not given back.
    """
    for count in BLOCK_ROWS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool.submit(_grown, count).result()


@one_thread()
def _grown(count: int) -> Growth:
    network = initialise(MLPSpec(1, 5), (4,), 3, 0, torch.float64)
    inputs, targets = _rows(count, (4,), 3)
    rows = NetworkRows.of(network, Objective(), "all", (inputs, targets))
    vector = torch.ones(1, len(rows.parameters), dtype=torch.float64)
    vector = _iterate(rows, vector, WARM_UP)
    before = _resident()
    _iterate(rows, vector, PRODUCTS)
    blocks = len(inputs.split(rows_at_once(network, inputs)))
    return Growth(count, blocks, before, _resident())


@one_thread()
def _compare(name: str, network: Network, train: tuple[Tensor, Tensor], rounds: int) -> Line:
    inputs, targets = train
    step = rows_at_once(network, inputs)
    batches = list(zip(inputs.split(step), targets.split(step), strict=True))
    rows = NetworkRows.of(network, Objective(), "all", train)
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(len(rows.parameters), dtype=torch.float64, generator=generator)
    products = {
        OURS: lambda: rows.hessian_product(vector[None])[0],
        "curvlinops": _curvlinops(network, batches, vector),
        "pyhessian": _pyhessian(network, batches, vector),
    }
    own = products[OURS]()
    difference = max(float((product() - own).norm() / own.norm()) for product in products.values())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{name}: products differ by {difference:.1e}, relative")
    repeats = {library: repeats_to_tell(product) for library, product in products.items()}
    taken: dict[str, list[float]] = {library: [] for library in products}
    order = list(products)
    for _ in range(rounds):
        for library in order:
            taken[library].append(timed(products[library], repeats[library]))
        order.append(order.pop(0))  # what ran before leaves its memory and caches behind
    seconds = {library: statistics.median(times) for library, times in taken.items()}
    return Line(name, len(vector), len(targets), len(batches), seconds, difference)


def _curvlinops(
    network: Network, batches: list[tuple[Tensor, Tensor]], vector: Tensor
) -> Callable[[], Tensor]:
    operator = HessianLinearOperator(
        network,
        nn.CrossEntropyLoss(),
        list(network.parameters()),
        batches,
        check_deterministic=False,
    )
    return lambda: operator @ vector


def _pyhessian(
    network: Network, batches: list[tuple[Tensor, Tensor]], vector: Tensor
) -> Callable[[], Tensor]:
    """Return its product: of one batch by the gradient that it keeps, of several by its loop.

    Of a copy: it leaves gradients behind.
    """
    network = copy.deepcopy(network)
    sizes = [parameter.numel() for parameter in network.parameters()]
    pieces = zip(vector.split(sizes), network.parameters(), strict=True)
    directions = [piece.view_as(parameter) for piece, parameter in pieces]
    loss = nn.CrossEntropyLoss()
    if len(batches) > 1:
        looped = pyhessian.hessian(network, loss, dataloader=batches, cuda=False)
        return lambda: _flat(looped.dataloader_hv_product(directions)[1])
    kept = pyhessian.hessian(network, loss, data=batches[0], cuda=False)
    return lambda: _flat(
        pyhessian.utils.hessian_vector_product(kept.gradsH, kept.params, directions)
    )


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _rows(count: int, shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, *shape, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, classes, (count,), generator=generator)


def _iterate(rows: NetworkRows, vector: Tensor, products: int) -> Tensor:
    """Return what so many products with the Hessian, each made a unit vector, lead to."""
    for _ in range(products):
        vector = rows.hessian_product(vector / vector.norm())
    return vector


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / MEGABYTE
