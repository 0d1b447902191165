"""Which networks the engines know by heart: multilayer perceptrons and heads, plain or Bayesian."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ifcheck.models import MLP, VariationalNetwork, moments
from ifcheck.models.variational import VariationalHead
from ifcheck.objective import Objective, VariationalObjective
from ifcheck.params import Layout

ACTIVATIONS: dict[type[nn.Module], str] = {
    moments.SELU: "selu",
    moments.Tanh: "tanh",
    moments.ReLU: "relu",
}


@dataclass(frozen=True)
class Structure:
    """A multilayer perceptron, of which a head has one layer."""

    sizes: tuple[int, ...]  # the width of every layer, input and output included
    activation: str | None  # None for a head
    bayesian: bool = False
    packed: bool = False  # whether its inputs are moments


def structure_of(network: nn.Module) -> Structure | None:
    """Return the structure of a network that has one, else None."""
    if type(network) is MLP:
        return Structure(network.layer_sizes, network.activation)
    if type(network) is nn.Linear and network.bias is not None:
        return Structure((network.in_features, network.out_features), None)
    if type(network) is VariationalHead:
        return Structure((network.in_features, network.out_features), None, True, packed=True)
    if type(network) is VariationalNetwork:
        return _of_variational(network)
    return None


def require_structure(network: nn.Module) -> Structure:
    """Return the structure of a network. Raises: TypeError where it has none."""
    structure = structure_of(network)
    if structure is None:
        raise TypeError(
            f"expected an MLP or a linear head, plain or Bayesian, got {type(network).__name__}"
        )
    return structure


def is_structured(network: nn.Module, objective: Objective) -> bool:
    """Return whether gradients of this objective of this network are written out by hand."""
    structure = structure_of(network)
    if structure is None or not structure.bayesian:
        return structure is not None and type(objective) is Objective
    return (
        type(objective) is VariationalObjective
        and objective.likelihood == "marginal"
        and objective.jacobian == "diagonal"
    )


def means_then_rho(layout: Layout) -> Tensor:
    """Return where each flat parameter stands if every rho comes after all other parameters.

    Those of a plain network stay where they are.
    """
    return layout.is_rho.int().argsort(stable=True).argsort()


def _of_variational(network: VariationalNetwork) -> Structure | None:
    """Return the structure if linear layers and one kind of activation alternate."""
    layers, activations = list(network.body)[::2], list(network.body)[1::2]
    kinds = {type(layer) for layer in activations}
    linear = [layer for layer in layers if isinstance(layer, moments.Linear)]
    if len(linear) != len(layers) or len(layers) != len(activations) or len(kinds) != 1:
        return None
    activation = ACTIVATIONS.get(kinds.pop())
    if activation is None:
        return None
    sizes = [layer.in_features for layer in (*linear, network.head)]
    return Structure((*sizes, network.head.out_features), activation, bayesian=True)
