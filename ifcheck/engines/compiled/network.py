"""What the loop of epochs asks of a network: functions that are chosen when the loop is compiled.

A kind of network is a NamedTuple class. Adding one means a file that implements the functions
below for it, and a line in `run` that makes it from a task; numba tells kinds apart by their type,
and compiles the loop once for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.extending import overload


def make_workspace(network: Any, rows: int, parameters: Any) -> Any:
    """Return one thread's memory for one model at a time, of the type of `parameters`.

    It is a NamedTuple with a `gradient` (params,), whose columns of padding are zero.
    """
    raise NotImplementedError


def enter_inputs(network: Any, inputs: Any, work: Any) -> None:
    """Write one group's inputs (features, rows) to where `evaluate` expects them."""
    raise NotImplementedError


def evaluate(network: Any, parameters: Any, labels: Any, weights: Any, work: Any) -> None:
    """Run forward, and find the derivatives of the weighted losses in the outputs."""
    raise NotImplementedError


def objective(
    network: Any, parameters: Any, labels: Any, weights: Any, work: Any, row_losses: Any
) -> float:
    """Return the loss that the schedule hears, and set each row's, (rows,); after `evaluate`."""
    raise NotImplementedError


def differentiate(network: Any, parameters: Any, work: Any) -> None:
    """Set the gradient of the same loss, but for weight decay; after `evaluate`."""
    raise NotImplementedError


def implements(function: Callable[..., Any], kind: type) -> Callable[[Any], Any]:
    """Return a decorator: the decorated function is `function` for networks of this kind.

    Inlining is left to LLVM: numba's own (inline="always") gives wrong losses here, and a forced
    one compiles half as long again for no gain.
    """

    def register(implementation: Any) -> Any:
        @overload(function, strict=False, jit_options={"error_model": "numpy"})
        def choose(network: Any, *arguments: Any) -> Any:
            is_kind = getattr(network, "instance_class", None) is kind
            return implementation if is_kind else None

        return implementation

    return register
