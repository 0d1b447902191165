"""EK-FAC, the eigenvalue-corrected Kronecker-factored curvature of a network, by curvlinops."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from ifcheck.curvature.kronecker import KroneckerLayer, KroneckerMatrix
from ifcheck.curvature.operator import BYTES, require_finite, require_memory
from ifcheck.errors import UnusableInput
from ifcheck.models import rows_at_once

# Of the factors and the parameters, alive together at most: measured 4.7 for one layer, whose
# eigenvectors take most of them, and 3.6 for three.
FACTOR_COPIES = 5


def require_curvlinops() -> None:
    """Raises: UnusableInput where curvlinops is not installed, or cannot be imported."""
    try:
        import curvlinops  # noqa: F401 (an extra)
    except ImportError as error:
        raise UnusableInput(
            f"the solver ekfac needs curvlinops-for-pytorch, which cannot be imported ({error}).",
            remedy="Run `pip install 'ifcheck[ekfac]'`, or use another --solver.",
        ) from error


def ekfac(
    network: nn.Module,
    names: Collection[str],
    inputs: Tensor,
    targets: Tensor,
    empirical: bool = False,
) -> KroneckerMatrix:
    """Approximate the Gauss-Newton matrix of the mean cross-entropy over rows.

    For the parameters `names`, in the network's order. A layer's block is diagonal in the
    eigenvectors of E[g g^T] (x) E[a a^T], with a its inputs (and a one, for the bias) and g the
    gradients at its outputs; each eigenvalue is what the layer's block of the matrix itself has
    there on its diagonal. Blocks between layers are zero. Expectations are over rows, positions in
    an image, and exactly over the classes that the network gives probabilities to; `empirical`
    takes the rows' own targets instead, for the empirical Fisher matrix. Block by block of rows.
    Raises: UnusableInput for other layers than whole nn.Linear and nn.Conv2d; RunFailed where the
    factors do not fit into memory; Diverged where they are not finite.
    Reference: George et al. (2018); Grosse et al. (2023).
    """
    layers = _whole_layers(network, names)
    _require_memory_for_factors(layers.values(), inputs.device)
    from curvlinops import EKFACLinearOperator

    step = rows_at_once(network, inputs)
    # A copy, as hooks are set on it, and its parameters may be frozen.
    copied = copy.deepcopy(network).requires_grad_(False)
    parameters = [p.requires_grad_() for n, p in copied.named_parameters() if n in names]
    with torch.enable_grad():
        approximation = EKFACLinearOperator(
            copied,
            nn.CrossEntropyLoss(),
            parameters,
            list(zip(inputs.split(step), targets.split(step), strict=True)),
            check_deterministic=False,
            fisher_type="empirical" if empirical else "type-2",
            num_per_example_loss_terms=1,
            separate_weight_and_bias=False,
            num_data=len(targets),
        )
        approximation.compute_kronecker_factors()
        factors = approximation.state_dict()
        for name in layers:
            require_finite(factors["input_covariances"][name], "a layer's input")
            require_finite(factors["gradient_covariances"][name], "a gradient of the outputs")
        approximation.compute_eigenvalue_correction()
    state = approximation.state_dict()
    return KroneckerMatrix(
        tuple(
            KroneckerLayer(
                outputs=state["gradient_covariances_eigenvectors"][name],
                inputs=state["input_covariances_eigenvectors"][name],
                values=state["corrected_eigenvalues"][name],
            )
            for name in layers
        )
    )


def _whole_layers(network: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """Return the layers that the parameters belong to, by name, in the network's order.

    Raises: UnusableInput where one is of another kind, or not whole.
    """
    layers = {}
    for name, module in network.named_modules():
        own = [n for n, _ in module.named_parameters(prefix=name, recurse=False)]
        selected = [n for n in own if n in names]
        if not selected:
            continue
        if not (_is_known(module) and len(selected) == len(own)):
            raise UnusableInput(
                "the solver ekfac takes whole layers: nn.Linear, or nn.Conv2d without groups and "
                f"padded by zeros, with weight and bias; of a {type(module).__name__} it got "
                f"{', '.join(selected)}.",
                remedy="Use --params head or all of a plain network, or another --solver.",
            )
        layers[name] = module
    return layers


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.padding_mode != "zeros"):
        return False
    return isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None


def _require_memory_for_factors(layers: Collection[nn.Module], device: torch.device) -> None:
    """Raises: RunFailed where the factors of these layers do not fit now."""
    values = 0
    for layer in layers:
        weight = layer.get_parameter("weight")
        outputs, inputs = weight.flatten(1).shape
        values += outputs**2 + (inputs + 1) ** 2 + outputs * (inputs + 1)
    require_memory(
        FACTOR_COPIES * BYTES * values,
        device,
        "Kronecker factors of these layers take",
        remedy="Use --solver cg, which needs products with the Hessian alone.",
    )
