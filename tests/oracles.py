"""Slow and plain oracles in float64: softmax heads, their optima, and what removing a row does.

The head is multinomial logistic regression on fixed features, with weight decay on its weights
and biases. With theta = concat(W.ravel(), b), W of shape (classes, d), and row weights a_i,

    R_a(theta) = sum_i a_i l_i(theta) + w/2 |theta|^2.

Everything loops over rows and uses numpy and scipy only; nothing comes from the package.
Changes of the test loss are after minus before, in nats: positive means that removal hurts.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

GRADIENT_NORM = 1e-11  # largest gradient norm accepted as an optimum
MAX_POLISH_STEPS = 50  # Newton converges quadratically from scipy's solution: about 3 are used
GRADIENT_STEP = 6e-6  # about eps^(1/3): balances truncation and rounding of a central difference
HESSIAN_STEP = 1e-4  # about eps^(1/4): the same for a second difference
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. (2017)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "selu": lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}


# --- the head and its objective ------------------------------------------------------------


def split_theta(theta: Array, inputs: int) -> tuple[Array, Array]:
    """W (classes, inputs) and b (classes,) of a flat theta."""
    classes = theta.size // (inputs + 1)
    return theta[: classes * inputs].reshape(classes, inputs), theta[classes * inputs :]


def softmax(logits: Array) -> Array:
    """Class probabilities of one row."""
    scaled = np.exp(logits - logits.max())
    return scaled / scaled.sum()


def softmax_loss(theta: Array, features: Array, targets: Labels, classes: int) -> Array:
    """Cross-entropy of each row in nats. Shape: (rows,)."""
    W, b = split_theta(theta, features.shape[1])
    if len(b) != classes:
        raise ValueError(f"theta is for {len(b)} classes, expected {classes}")
    losses = np.empty(len(targets))
    for i, (h, y) in enumerate(zip(features, targets, strict=True)):
        logits = W @ h + b
        top = logits.max()
        losses[i] = top - logits[y] + np.log(np.exp(logits - top).sum())
    return losses


def logit_jacobian(h: Array, classes: int) -> Array:
    """Derivative of one row's logits by theta. Shape: (classes, params)."""
    jacobian = np.zeros((classes, classes * (len(h) + 1)))
    for c in range(classes):
        jacobian[c, c * len(h) : (c + 1) * len(h)] = h
        jacobian[c, classes * len(h) + c] = 1
    return jacobian


def row_gradient(theta: Array, h: Array, y: int) -> Array:
    """Gradient of one row's loss: J^T (p - e_y). Shape: (params,)."""
    W, b = split_theta(theta, len(h))
    residual = softmax(W @ h + b)
    residual[y] -= 1
    return logit_jacobian(h, len(b)).T @ residual


def row_hessian(theta: Array, h: Array) -> Array:
    """Hessian of one row's loss: J^T (diag(p) - p p^T) J. Shape: (params, params)."""
    W, b = split_theta(theta, len(h))
    p = softmax(W @ h + b)
    jacobian = logit_jacobian(h, len(b))
    return jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian


def head_objective(
    theta: Array, features: Array, targets: Labels, weights: Array, weight_decay: float
) -> float:
    """sum_i weights_i l_i + weight_decay/2 |theta|^2, in nats."""
    classes = theta.size // (features.shape[1] + 1)
    losses = softmax_loss(theta, features, targets, classes)
    return float(weights @ losses + weight_decay / 2 * theta @ theta)


def head_gradient(
    theta: Array, features: Array, targets: Labels, weights: Array, weight_decay: float
) -> Array:
    """Gradient of `head_objective`. Shape: (params,)."""
    gradient = weight_decay * theta
    for a, h, y in zip(weights, features, targets, strict=True):
        gradient = gradient + a * row_gradient(theta, h, y)
    return gradient


def head_hessian(
    theta: Array, features: Array, targets: Labels, weights: Array, weight_decay: float
) -> Array:
    """Hessian of `head_objective` (the targets do not enter). Shape: (params, params)."""
    hessian = weight_decay * np.eye(theta.size)
    for a, h, _ in zip(weights, features, targets, strict=True):
        hessian = hessian + a * row_hessian(theta, h)
    return hessian


# --- the optimum ---------------------------------------------------------------------------


def head_optimum(
    features: Array, targets: Labels, weights: Array, weight_decay: float, classes: int
) -> Array:
    """The minimiser of `head_objective`, from zero. Shape: (params,).

    scipy's trust-region Newton, then plain Newton steps while the gradient still shrinks, which
    ends at rounding (about 1e-16): a norm of 1e-11 alone would allow an error of 1e-11 / w.
    Raises: ValueError without weight decay (there may be no optimum), RuntimeError if the
    gradient norm stays above 1e-11.
    """
    if weight_decay <= 0:
        raise ValueError(f"the head's optimum needs weight decay above 0, got {weight_decay}")
    problem = (features, targets, weights, weight_decay)
    start = np.zeros(classes * (features.shape[1] + 1))
    theta = minimize(
        head_objective,
        start,
        args=problem,
        jac=head_gradient,
        hess=head_hessian,
        method="trust-exact",
        options={"gtol": 1e-6},
    ).x
    gradient = head_gradient(theta, *problem)
    for _ in range(MAX_POLISH_STEPS):
        moved = theta - np.linalg.solve(head_hessian(theta, *problem), gradient)
        moved_gradient = head_gradient(moved, *problem)
        if np.linalg.norm(moved_gradient) >= np.linalg.norm(gradient):
            break
        theta, gradient = moved, moved_gradient
    norm = np.linalg.norm(gradient)
    if not norm <= GRADIENT_NORM:
        raise RuntimeError(f"gradient norm is {norm:.1e}, expected at most {GRADIENT_NORM:.0e}")
    return theta


def loss_at_optimum(
    features: Array,
    targets: Labels,
    weights: Array,
    weight_decay: float,
    classes: int,
    test_features: Array,  # (d,)
    test_target: int,
) -> float:
    """Loss of one test point, in nats, at the optimum under these row weights."""
    theta = head_optimum(features, targets, weights, weight_decay, classes)
    test_row = (test_features[None], np.array([test_target]))
    return float(softmax_loss(theta, *test_row, classes)[0])


# --- what removing a row does --------------------------------------------------------------


def central_derivative(f: Callable[[float], float], step: float) -> float:
    """f'(0): central differences at `step` and `step` / 2, extrapolated (Richardson).

    The error is of order step^4, plus rounding / step.
    """

    def difference(h: float) -> float:
        return (f(h) - f(-h)) / (2 * h)

    return (4 * difference(step / 2) - difference(step)) / 3


def removal_derivative_n(
    features: Array,  # (n, d)
    targets: Labels,  # (n,)
    weight_decay: float,
    classes: int,
    row: int,
    test_features: Array,  # (d,)
    test_target: int,
    step: float = 1e-4,
) -> float:
    """First-order change of the test loss if `row` is removed and the denominator stays n.

    -1/n times the derivative, by the row's weight, of the test loss at the re-solved optimum:
    the weight goes from 1/n to 0. `step` is a change of that weight. Agrees with the closed form
    1/n g_t^T H^-1 g_i to 1e-10 relative for values above 1e-4 nats (n = 50 and 149).
    """
    n = len(targets)

    def test_loss(change: float) -> float:
        weights = np.full(n, 1 / n)
        weights[row] += change
        problem = (features, targets, weights, weight_decay, classes)
        return loss_at_optimum(*problem, test_features, test_target)

    return -central_derivative(test_loss, step) / n


def removal_derivative_n_minus_1(
    features: Array,  # (n, d)
    targets: Labels,  # (n,)
    weight_decay: float,
    classes: int,
    row: int,
    test_features: Array,  # (d,)
    test_target: int,
    step: float = 1e-2,
) -> float:
    """First-order change of the test loss if `row` is removed and the others are averaged.

    The derivative at u = 0 of the test loss at the optimum of (1-u) R + u R_without_row, with
    R_without_row = 1/(n-1) sum over the rest + weight decay. `step` is a change of u, of which
    1 is the whole removal. Agrees with the closed form 1/(n-1) g_t^T H^-1 (g_i + w theta) to
    1e-10 relative for values above 1e-4 nats (n = 50 and 149).
    """
    n = len(targets)
    full = np.full(n, 1 / n)
    without = np.full(n, 1 / (n - 1))
    without[row] = 0

    def test_loss(u: float) -> float:
        problem = (features, targets, (1 - u) * full + u * without, weight_decay, classes)
        return loss_at_optimum(*problem, test_features, test_target)

    return central_derivative(test_loss, step)


def leave_one_out_change(
    features: Array,  # (n, d)
    targets: Labels,  # (n,)
    weight_decay: float,
    classes: int,
    row: int,
    test_features: Array,  # (d,)
    test_target: int,
    normalisation: str,
) -> float:
    """Exact change of the test loss between the optima with and without `row`, in nats.

    normalisation: "n" keeps the others' weights at 1/n, "n-1" raises them to 1/(n-1).
    """
    n = len(targets)
    denominators = {"n": n, "n-1": n - 1}
    if normalisation not in denominators:
        raise ValueError(f"normalisation is {normalisation!r}, expected one of {[*denominators]}")
    full = np.full(n, 1 / n)
    without = np.full(n, 1 / denominators[normalisation])
    without[row] = 0

    def test_loss(weights: Array) -> float:
        problem = (features, targets, weights, weight_decay, classes)
        return loss_at_optimum(*problem, test_features, test_target)

    return test_loss(without) - test_loss(full)


# --- networks and differences --------------------------------------------------------------


def numpy_mlp(parameters: Sequence[tuple[Array, Array]], inputs: Array, activation: str) -> Array:
    """Logits of an MLP given its layers (W (out, in), b (out,)). Shape: (rows, classes).

    The activation ("selu", "tanh", "relu") follows every layer but the last.
    """
    outputs = inputs
    for layer, (W, b) in enumerate(parameters):
        outputs = outputs @ W.T + b
        if layer < len(parameters) - 1:
            outputs = ACTIVATIONS[activation](outputs)
    return outputs


def bayesian_head_loss(
    theta: Array, features: Array, targets: Labels, weights: Array, noise: float = 0.1
) -> float:
    """Weighted sum of -log N(label; softmax moments + noise), up to a constant, in nats.

    theta: means of W (classes, d) and b, then rho of each in the same order; features (rows, 2, d):
    means, then variances.
    """
    means, rho = np.split(theta, 2)
    W, b = split_theta(means, features.shape[2])
    variance = np.log1p(np.exp(rho))
    S, s_b = split_theta(variance, features.shape[2])
    total = 0.0
    for (h, v), y, a in zip(features, targets, weights, strict=True):
        p = softmax(W @ h + b)
        spread = (p * (1 - p)) ** 2 * (S @ (h**2 + v) + W**2 @ v + s_b) + noise
        label = np.eye(len(b))[y]
        total += a * 0.5 * (np.log(spread / noise) + (label - p) ** 2 / spread).sum()
    return float(total)


def kl_to_standard_normal(theta: Array) -> float:
    """KL divergence of means, then rho, to N(0, 1), in nats."""
    means, rho = np.split(theta, 2)
    variance = np.log1p(np.exp(rho))
    return float(0.5 * (variance + means**2 - 1 - np.log(variance)).sum())


def finite_difference_gradient(
    f: Callable[[Array], float], x: Array, step: float = GRADIENT_STEP
) -> Array:
    """Central differences of a scalar function. Error about 1e-10 for values near 1."""
    gradient = np.empty(x.size)
    for i, e in enumerate(step * np.eye(x.size)):
        gradient[i] = (f(x + e) - f(x - e)) / (2 * step)
    return gradient


def finite_difference_hessian(
    f: Callable[[Array], float], x: Array, step: float = HESSIAN_STEP
) -> Array:
    """Central second differences of a scalar function. Error about 1e-7 for values near 1."""
    hessian = np.empty((x.size, x.size))
    offsets = step * np.eye(x.size)
    for i, d in enumerate(offsets):
        for j, e in enumerate(offsets[: i + 1]):
            second = f(x + d + e) - f(x + d - e) - f(x - d + e) + f(x - d - e)
            hessian[i, j] = hessian[j, i] = second / (4 * step**2)
    return hessian
