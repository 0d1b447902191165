"""One epoch of one multilayer perceptron, compiled: forward, loss, backward.

Rows (examples) stand last and are padded to whole vector registers, so that every inner loop
runs over contiguous memory. Nothing here allocates. Every constant takes the type of the arrays,
so that float32 stays float32.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from ifcheck.engines.compiled.blocks import affine, outer_sum, row_sums, transpose
from ifcheck.engines.compiled.functions import FAST, IN_ORDER, exponential, logarithm
from ifcheck.models.moments import SELU_ALPHA, SELU_SCALE

SELU, TANH, RELU = 0, 1, 2
ACTIVATIONS = {"selu": SELU, "tanh": TANH, "relu": RELU}
SELU_SCALE_ALPHA = SELU_SCALE * SELU_ALPHA

_options: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "cache": True}


@njit(**_options)
def activate(kind: int, values: Any) -> None:
    """Replace z by f(z)."""
    of = values.dtype.type
    zero, one, two = of(0.0), of(1.0), of(2.0)
    scale, scale_alpha = of(SELU_SCALE), of(SELU_SCALE_ALPHA)
    for u in range(values.shape[0]):
        if kind == SELU:
            for j in range(values.shape[1]):
                z = values[u, j]
                below = scale_alpha * exponential(zero if z > zero else z) - scale_alpha
                values[u, j] = scale * z if z > zero else below
        elif kind == TANH:
            for j in range(values.shape[1]):
                values[u, j] = one - two / (exponential(two * values[u, j]) + one)
        else:
            for j in range(values.shape[1]):
                z = values[u, j]
                values[u, j] = zero if z < zero else z


@njit(**_options)
def activation_backward(kind: int, upstream: Any, activated: Any) -> None:
    """Replace d by d * f'(z), found from f(z)."""
    of = upstream.dtype.type
    zero, one = of(0.0), of(1.0)
    scale, scale_alpha = of(SELU_SCALE), of(SELU_SCALE_ALPHA)
    for u in range(upstream.shape[0]):
        if kind == SELU:
            for j in range(upstream.shape[1]):
                a = activated[u, j]
                upstream[u, j] *= scale if a > zero else a + scale_alpha
        elif kind == TANH:
            for j in range(upstream.shape[1]):
                upstream[u, j] *= one - activated[u, j] * activated[u, j]
        else:
            for j in range(upstream.shape[1]):
                upstream[u, j] = upstream[u, j] if activated[u, j] > zero else zero


@njit(**_options)
def softmax_backward(
    logits: Any, labels: Any, weights: Any, delta: Any, largest: Any, total: Any
) -> None:
    """Set delta = weight * (softmax - label), (classes, rows).

    Also sets each row's largest logit and its sum of exp(logit - largest), both (rows,).
    """
    classes, size = logits.shape
    one = weights.dtype.type(1.0)
    if classes == 3:  # in one pass: 1.4 to 1.6 times faster a class than those below
        z0, z1, z2 = logits[0], logits[1], logits[2]
        y0, y1, y2 = labels[0], labels[1], labels[2]
        d0, d1, d2 = delta[0], delta[1], delta[2]
        for j in range(size):
            a, b, c = z0[j], z1[j], z2[j]
            top = a if a > b else b
            top = top if top > c else c
            ea, eb, ec = exponential(a - top), exponential(b - top), exponential(c - top)
            s = ea + eb + ec
            w = weights[j]
            share = w / s
            largest[j] = top
            total[j] = s
            d0[j] = ea * share - w * y0[j]
            d1[j] = eb * share - w * y1[j]
            d2[j] = ec * share - w * y2[j]
        return
    for j in range(size):
        largest[j] = logits[0, j]
        total[j] = one - one
    for c in range(1, classes):
        row = logits[c]
        for j in range(size):
            largest[j] = row[j] if row[j] > largest[j] else largest[j]
    for c in range(classes):
        row, out = logits[c], delta[c]
        for j in range(size):
            out[j] = exponential(row[j] - largest[j])
            total[j] += out[j]
    for c in range(classes):
        label, out = labels[c], delta[c]
        for j in range(size):
            out[j] = weights[j] * (out[j] * (one / total[j]) - label[j])


@njit(cache=True, **IN_ORDER)
def cross_entropy(logits: Any, labels: Any, largest: Any, total: Any, out: Any) -> None:
    """Set out (rows,) to -log softmax of each row's label.

    The label's logit is compared with the largest first: a small loss is their difference, and
    must not drown in the rounding of large logits. Logits of other classes may be -inf.
    """
    zero = out.dtype.type(0.0)
    for j in range(out.size):
        out[j] = logarithm(total[j]) + (total[j] - total[j])  # which is 0, or nan if that is nan
    for c in range(labels.shape[0]):
        row, label = logits[c], labels[c]
        for j in range(out.size):
            out[j] -= row[j] - largest[j] if label[j] > zero else zero


@njit(**_options)
def weighted_sum(weights: Any, values: Any) -> float:
    """Return the sum of weight * value, in which a weight of zero stands for no value."""
    total = weights.dtype.type(0.0)
    zero = total
    for j in range(weights.size):
        total += zero if weights[j] == zero else weights[j] * values[j]
    return float(total)


@njit(**_options)
def forward(sizes: Any, starts: Any, activation: int, parameters: Any, activations: Any) -> None:
    """Fill `activations` (layers + 1, widest, rows), logits last, from the inputs at its start.

    `sizes` holds the width of every layer, input and output included; `parameters` stand in
    torch's order: for each layer, from `starts` on, the weights (out, in), then the biases (out,).
    """
    layers = sizes.size - 1
    for layer in range(layers):
        fan_in, fan_out = sizes[layer], sizes[layer + 1]
        start = starts[layer]
        below, out = activations[layer, :fan_in], activations[layer + 1, :fan_out]
        affine(parameters, start, parameters, start + fan_in * fan_out, below, out)
        if layer + 1 < layers:
            activate(activation, out)


@njit(**_options)
def backward(
    sizes: Any,
    starts: Any,
    activation: int,
    parameters: Any,
    activations: Any,
    deltas: Any,
    turned: Any,
    zeros: Any,
    gradient: Any,
) -> None:
    """Set the gradient of the loss, given its derivative in the last of `deltas`.

    `deltas` has the shape of `activations`; `turned` (params,) is scratch, and `zeros`
    (widest,) stands where no biases are.
    """
    for layer in range(sizes.size - 2, -1, -1):
        fan_in, fan_out = sizes[layer], sizes[layer + 1]
        start = starts[layer]
        below, delta = activations[layer, :fan_in], deltas[layer + 1, :fan_out]
        outer_sum(delta, below, gradient, start)
        row_sums(delta, gradient, start + fan_in * fan_out)
        if layer > 0:
            upstream = deltas[layer, :fan_in]
            transpose(parameters, start, fan_out, fan_in, turned)
            affine(turned, starts[0], zeros, starts[0], delta, upstream)
            activation_backward(activation, upstream, below)
