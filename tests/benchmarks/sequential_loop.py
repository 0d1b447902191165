"""The sequential torch loop: one model at a time, as a researcher would write it.

It is the oracle of the batched engines and the baseline of their speed, so it uses torch's own
optimiser, schedules and weight averaging, caches nothing, and imports nothing from the package.

    python tests/benchmarks/sequential_loop.py --epochs 600 --retrain-epochs 75 --removals 2
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR, AveragedModel

Criterion = Callable[[nn.Module, Tensor, Tensor], Tensor]
ACTIVATIONS = {"selu": nn.SELU, "tanh": nn.Tanh, "relu": nn.ReLU}
AVERAGING_START = 0.75  # weights of the epochs after this share of training are averaged
AVERAGING_RATE = 1e-3  # learning rate while averaging
ANNEALING_SHARE = 0.1  # share of training over which the rate is annealed to AVERAGING_RATE
IRIS_CLASSES = 3
FULL_EPOCHS, FULL_RETRAIN_EPOCHS, FULL_REMOVALS = 60_000, 7_500, 40  # one seed of the paper
MAX_LOSS_ROW = 83  # row of Iris with the largest leave-one-out loss


class MLP(nn.Module):
    """Hidden layers (`body`) and one linear top layer (`head`)."""

    def __init__(self, body: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


def make_mlp(inputs: int, width: int, depth: int, classes: int, activation: str) -> MLP:
    """An MLP with `depth` hidden layers, in torch's default initialisation and generator."""
    layers: list[nn.Module] = []
    for layer in range(depth):
        layers += [nn.Linear(width if layer else inputs, width), ACTIVATIONS[activation]()]
    return MLP(nn.Sequential(*layers), nn.Linear(width if depth else inputs, classes))


@dataclass
class Run:
    """What one training left behind; the live weights are in the model itself."""

    losses: list[float] = field(default_factory=list)  # data term before each step, if recorded
    learning_rates: list[float] = field(default_factory=list)  # used at each step, if recorded
    averaged: MLP | None = None  # equal-weight average of the last quarter's weights


@contextmanager
def only_trainable(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Freeze every other parameter, so that autograd does not visit it; restore at the end."""
    chosen = {id(p) for p in parameters}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


def data_term(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sum of the rows' cross-entropies (nats); without weights their mean."""
    if weights is None:
        return functional.cross_entropy(logits, targets)
    return (weights * functional.cross_entropy(logits, targets, reduction="none")).sum()


def train(
    model: MLP,
    inputs: Tensor,  # (rows, inputs)
    targets: Tensor,  # (rows,)
    *,
    epochs: int,
    weights: Tensor | None = None,
    weight_decay: float = 0.0,
    learning_rate: float = 1e-3,
    patience: int = 100,
    factor: float = 0.1,
    averaging: bool = False,
    parameters: Iterable[nn.Parameter] | None = None,
    learning_rates: Sequence[float] | None = None,
    criterion: Criterion | None = None,
    record: bool = False,
) -> Run:
    """Train `model` in place, full batch, with Adam and coupled weight decay.

    weights: per-row weights that sum to one; None is 1/n each, a removed row has weight 0.
    parameters: the only ones that the optimiser moves, for instance `model.head.parameters()`.
    learning_rates: one forced rate for each epoch, in place of every schedule.
    criterion: the loss of model, inputs and targets, in place of the data term.
    record: fill `Run.losses` and `Run.learning_rates`.

    The plateau schedule sees the data term before the step, without weight decay. With averaging,
    epochs (from 0) after 0.75 `epochs` leave the plateau schedule: after the step the weights
    enter the average, then the rate is annealed by cosine to 1e-3 (Izmailov et al. 2018).
    Raises: ValueError if the forced rates are not one an epoch, or no epoch would be averaged.
    """
    if learning_rates is not None and len(learning_rates) != epochs:
        raise ValueError(f"got {len(learning_rates)} learning rates for {epochs} epochs")
    if averaging and epochs - 1 <= AVERAGING_START * epochs:
        raise ValueError(f"averaging needs at least 5 epochs, got {epochs}")
    chosen = list(model.parameters() if parameters is None else parameters)
    optimizer = torch.optim.Adam(chosen, lr=learning_rate, weight_decay=weight_decay)
    plateau = ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
    if averaging:
        averaged = AveragedModel(model)
        annealing = int(ANNEALING_SHARE * epochs)
        swa = SWALR(optimizer, AVERAGING_RATE, anneal_epochs=annealing, anneal_strategy="cos")
    run = Run()
    with only_trainable(model, chosen):
        for epoch in range(epochs):
            if learning_rates is not None:
                optimizer.param_groups[0]["lr"] = learning_rates[epoch]
            optimizer.zero_grad()
            if criterion is None:
                loss = data_term(model(inputs), targets, weights)
            else:
                loss = criterion(model, inputs, targets)
            loss.backward()
            value = loss.item()
            if record:
                run.losses.append(value)
                run.learning_rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            averaged_epoch = averaging and epoch > AVERAGING_START * epochs
            if averaged_epoch:
                averaged.update_parameters(model)
            if learning_rates is not None:
                continue
            if averaged_epoch:
                swa.step()
            else:
                plateau.step(value)
    if averaging:
        run.averaged = averaged.module
    return run


def load_iris_without(
    row: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Iris without `row`, standardised on the other 149 rows.

    Shapes: x_train (149, 4), y_train (149,), x_test (1, 4), y_test (1,); targets are int64.
    """
    inputs, targets = load_iris(return_X_y=True)
    kept = [i for i in range(len(targets)) if i != row]
    scaler = StandardScaler().fit(inputs[kept])
    x_train = torch.tensor(scaler.transform(inputs[kept]), dtype=dtype)
    x_test = torch.tensor(scaler.transform(inputs[[row]]), dtype=dtype)
    return x_train, torch.tensor(targets[kept]), x_test, torch.tensor(targets[[row]])


@torch.no_grad()
def row_losses(model: MLP, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row in nats, computed in float64. Shape: (rows,)."""
    exact = copy.deepcopy(model).double()
    return functional.cross_entropy(exact(inputs.double()), targets, reduction="none")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, on which models this small are fastest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class SeedResult(NamedTuple):
    """The true effects of the removals under one seed, and what they cost."""

    rows: tuple[int, ...]  # removed training rows, largest training loss first
    changes: tuple[float, ...]  # test loss after minus before, nats; positive: removal hurts
    loss_before: float  # test loss of the trained model, nats
    train_seconds: float
    retrain_seconds: float


def one_seed(
    seed: int,
    *,
    depth: int,
    width: int,
    weight_decay: float,
    averaging: bool,
    epochs: int = FULL_EPOCHS,
    retrain_epochs: int = FULL_RETRAIN_EPOCHS,
    removals: int = FULL_REMOVALS,
    held_out: int = MAX_LOSS_ROW,
    dtype: torch.dtype = torch.float32,
    activation: str = "selu",
) -> SeedResult:
    """Train once, then fine-tune the head without each of the rows of largest training loss.

    Every removal starts from the trained model (the average, with averaging) with a fresh
    optimiser and the mean of the other rows. The initial weights are drawn in float32 whatever
    `dtype` is, so that the types start from the same point.
    """
    x_train, y_train, x_test, y_test = load_iris_without(held_out, dtype)
    torch.manual_seed(seed)
    model = make_mlp(x_train.shape[1], width, depth, IRIS_CLASSES, activation).to(dtype)
    with one_thread():
        started = time.perf_counter()
        run = train(
            model, x_train, y_train, epochs=epochs, weight_decay=weight_decay, averaging=averaging
        )
        trained = time.perf_counter()
        base = model if run.averaged is None else run.averaged
        loss_before = row_losses(base, x_test, y_test).item()
        losses = row_losses(base, x_train, y_train)
        rows = torch.sort(losses, descending=True, stable=True).indices[:removals].tolist()
        changes = []
        for row in rows:
            tuned = copy.deepcopy(base)
            kept = torch.arange(len(y_train)) != row
            train(
                tuned,
                x_train[kept],
                y_train[kept],
                epochs=retrain_epochs,
                weight_decay=weight_decay,
                parameters=tuned.head.parameters(),
            )
            changes.append(row_losses(tuned, x_test, y_test).item() - loss_before)
        finished = time.perf_counter()
    return SeedResult(
        tuple(rows), tuple(changes), loss_before, trained - started, finished - trained
    )


def main() -> None:
    """Time both phases on a short run and extrapolate to one full seed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--width", type=int, default=5)
    parser.add_argument("--weight-decay", type=float, default=0.005)
    parser.add_argument("--averaging", action="store_true")
    parser.add_argument("--epochs", type=int, default=FULL_EPOCHS)
    parser.add_argument("--retrain-epochs", type=int, default=FULL_RETRAIN_EPOCHS)
    parser.add_argument("--removals", type=int, default=FULL_REMOVALS)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = vars(parser.parse_args())
    options["dtype"] = getattr(torch, options["dtype"])
    # torch imports and allocates at first use: keep that out of the measurement
    one_seed(**{**options, "epochs": 20, "retrain_epochs": 5, "removals": 1})
    result = one_seed(**options)
    train_epoch = result.train_seconds / options["epochs"]
    retrain_epoch = result.retrain_seconds / (options["removals"] * options["retrain_epochs"])
    full = FULL_EPOCHS * train_epoch + FULL_REMOVALS * FULL_RETRAIN_EPOCHS * retrain_epoch
    print(f"training     {train_epoch:.3e} s per epoch")
    print(f"fine-tuning  {retrain_epoch:.3e} s per epoch")
    print(
        f"one full seed {full:.1f} s "
        f"({FULL_EPOCHS} epochs, {FULL_REMOVALS} removals of {FULL_RETRAIN_EPOCHS})"
    )


if __name__ == "__main__":
    main()
