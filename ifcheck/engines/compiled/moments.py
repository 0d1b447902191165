"""One epoch of one Bayesian multilayer perceptron, compiled: moments forward, loss, backward.

The formulas stand in `ifcheck.engines.variational_kernel`. Rows stand last, as in `layers`. Means
and rho of the weights stand apart, each laid out as the weights of a plain network. Below a layer
of `width` units stand its means (width, rows), and its second moments and variances one under
the other (2 width, rows): the variances S and squares W^2 that multiply them are paired in one
matrix (outputs, 2 inputs), so that one product serves both.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from ifcheck.engines.compiled.blocks import affine, outer_sum, row_sums, transpose
from ifcheck.engines.compiled.functions import (
    FAST,
    IN_ORDER,
    exponential,
    logarithm,
    logarithm_of_one_more,
)
from ifcheck.engines.compiled.layers import SELU, SELU_SCALE_ALPHA, TANH, activate
from ifcheck.models.moments import SELU_SCALE
from ifcheck.objective.variational import SMALLEST_VARIANCE

_options: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "cache": True}


@njit(cache=True, **IN_ORDER)
def spread(rho: Any, variances: Any, slopes: Any) -> None:
    """Set variances = softplus(rho) and their slopes in rho."""
    of = rho.dtype.type
    zero, one, smallest = of(0.0), of(1.0), of(SMALLEST_VARIANCE)
    for k in range(rho.size):
        r = rho[k]
        small = exponential(-r if r > zero else r)  # e^-|r|
        variance = (r if r > zero else zero) + logarithm_of_one_more(small)
        variances[k] = smallest if variance < smallest else variance
        slopes[k] = (small if r < zero else one) / (one + small)


@njit(**_options)
def kl_divergence(means: Any, variances: Any) -> float:
    """Return KL(q || N(0, 1)) in nats."""
    of = means.dtype.type
    total, one = of(0.0), of(1.0)
    for k in range(means.size):
        total += means[k] * means[k] + (variances[k] - one) - logarithm(variances[k])
    return 0.5 * float(total)


@njit(**_options)
def pair(
    means: Any, variances: Any, start: int, fan_in: int, fan_out: int, certain: bool, out: Any
) -> None:
    """Set `out` to the matrix (outputs, 2 inputs) of S and W^2; to S where inputs are certain."""
    width = fan_in if certain else 2 * fan_in
    for o in range(fan_out):
        for k in range(fan_in):
            out[o * width + k] = variances[start + o * fan_in + k]
        if not certain:
            for k in range(fan_in):
                w = means[start + o * fan_in + k]
                out[o * width + fan_in + k] = w * w


@njit(**_options)
def activate_moments(kind: int, values: Any, spreads: Any) -> None:
    """Replace means z by f(z), and fill second moments and variances (2 width, rows).

    The variances before the activation stand where those after it are written.
    """
    of = values.dtype.type
    zero, one, width = of(0.0), of(1.0), values.shape[0]
    scale, scale_alpha = of(SELU_SCALE), of(SELU_SCALE_ALPHA)
    activate(kind, values)
    for u in range(width):
        for j in range(values.shape[1]):
            a = values[u, j]
            if kind == SELU:
                d = scale if a > zero else a + scale_alpha
            elif kind == TANH:
                d = one - a * a
            else:
                d = one if a > zero else zero
            s = spreads[width + u, j] * d * d
            spreads[width + u, j] = s
            spreads[u, j] = a * a + s


@njit(**_options)
def activation_moments_backward(
    kind: int, of_means: Any, of_spreads: Any, values: Any, spreads: Any
) -> None:
    """Turn derivatives in (a, q, s) into those in (z, t), in place.

    `of_means` holds W^T dz and becomes dz; `of_spreads` holds S^T dt and W^2^T dt, (2 width,
    rows), and its first half becomes dt.
    """
    of = values.dtype.type
    zero, one, two, four, width = of(0.0), of(1.0), of(2.0), of(4.0), values.shape[0]
    scale, scale_alpha = of(SELU_SCALE), of(SELU_SCALE_ALPHA)
    for u in range(width):
        for j in range(values.shape[1]):
            a, s, of_square = values[u, j], spreads[width + u, j], of_spreads[u, j]
            of_value = of_means[u, j] + two * a * of_square
            of_variance = of_square + of_spreads[width + u, j]
            if kind == SELU:
                d = scale if a > zero else a + scale_alpha
                bend = zero if a > zero else two * s
            elif kind == TANH:
                d = one - a * a
                bend = -four * a * s
            else:
                d = one if a > zero else zero
                bend = zero
            of_means[u, j] = of_value * d + of_variance * bend
            of_spreads[u, j] = of_variance * d * d


@njit(**_options)
def likelihood_backward(
    means: Any,
    variances: Any,
    labels: Any,
    weights: Any,
    noise: float,
    of_means: Any,
    of_variances: Any,
    noisy: Any,
    residual: Any,
    total: Any,
) -> None:
    """Set the derivatives of weight * loss in mean and variance of the logits, (classes, rows).

    Also sets the softmax's variance with noise, and its mean less the label, (classes, rows);
    `total` (rows,) is scratch.
    """
    of = weights.dtype.type
    classes, size = means.shape
    zero, half, one, two, extra = of(0.0), of(0.5), of(1.0), of(2.0), of(noise)
    for j in range(size):
        total[j] = means[0, j]
    for c in range(1, classes):
        for j in range(size):
            total[j] = means[c, j] if means[c, j] > total[j] else total[j]
    for c in range(classes):
        for j in range(size):
            of_means[c, j] = exponential(means[c, j] - total[j])
    for j in range(size):
        total[j] = zero
    for c in range(classes):
        for j in range(size):
            total[j] += of_means[c, j]
    for j in range(size):
        total[j] = one / total[j]
    for c in range(classes):
        for j in range(size):
            p = of_means[c, j] * total[j]
            slope = p * (one - p)
            square = slope * slope
            r, v = p - labels[c, j], square * variances[c, j] + extra
            inverse = one / v
            ratio = r * inverse
            of_spread = half * (inverse - ratio * ratio)
            residual[c, j] = r
            noisy[c, j] = v
            of_variances[c, j] = weights[j] * of_spread * square
            of_means[c, j] = p
            # held here until the sum over classes is known
            variances[c, j] = ratio + two * of_spread * slope * (one - two * p) * variances[c, j]
    for j in range(size):
        total[j] = zero
    for c in range(classes):
        for j in range(size):
            total[j] += of_means[c, j] * variances[c, j]
    for c in range(classes):
        for j in range(size):
            of_means[c, j] *= (variances[c, j] - total[j]) * weights[j]


@njit(cache=True, **IN_ORDER)
def likelihood(noisy: Any, residual: Any, noise: float, out: Any) -> None:
    """Set out (rows,) to each row's loss."""
    of = out.dtype.type
    half, share = of(0.5), of(1.0 / noise)
    for j in range(out.size):
        out[j] = of(0.0)
    for c in range(noisy.shape[0]):
        for j in range(out.size):
            r, v = residual[c, j], noisy[c, j]
            out[j] += half * (logarithm(v * share) + r * r / v)


@njit(**_options)
def forward_moments(
    sizes: Any,
    starts: Any,
    activation: int,
    certain: bool,
    means: Any,
    variances: Any,
    values: Any,
    spreads: Any,
    paired: Any,
) -> None:
    """Fill `values` (layers + 1, widest, rows) and `spreads` (layers + 1, 2 widest, rows).

    The inputs stand at their start; of the logits, the variances stand in the second half of
    the last spreads, (2 classes, rows). `paired` (2 params,) is scratch.
    """
    layers = sizes.size - 1
    for layer in range(layers):
        fan_in, fan_out, start = sizes[layer], sizes[layer + 1], starts[layer]
        biases = start + fan_in * fan_out
        known = certain and layer == 0
        below = spreads[layer, : fan_in if known else 2 * fan_in]
        out, out_spreads = values[layer + 1, :fan_out], spreads[layer + 1, : 2 * fan_out]
        affine(means, start, means, biases, values[layer, :fan_in], out)
        pair(means, variances, start, fan_in, fan_out, known, paired)
        affine(paired, starts[0], variances, biases, below, out_spreads[fan_out:])
        if layer + 1 < layers:
            activate_moments(activation, out, out_spreads)


@njit(**_options)
def backward_moments(
    sizes: Any,
    starts: Any,
    activation: int,
    certain: bool,
    means: Any,
    variances: Any,
    values: Any,
    spreads: Any,
    of_values: Any,
    of_spreads: Any,
    paired: Any,
    turned: Any,
    zeros: Any,
    of_means: Any,
    of_variances: Any,
) -> None:
    """Set the gradient in means and variances (params,), given that in the logits' moments.

    Layers take turns in `of_values` (2, widest, rows) and `of_spreads` (2, 2 widest, rows): that
    of the logits stands at the number of layers modulo 2, in the first half of the spreads.
    `paired` and `turned` (2 params,) are scratch, `zeros` (2 widest,) stands where no biases are.
    """
    first, two = starts[0], means.dtype.type(2.0)
    for layer in range(sizes.size - 2, -1, -1):
        fan_in, fan_out, start = sizes[layer], sizes[layer + 1], starts[layer]
        biases = start + fan_in * fan_out
        known = certain and layer == 0
        width = fan_in if known else 2 * fan_in
        below, below_spreads = values[layer, :fan_in], spreads[layer, :width]
        above, here = (layer + 1) % 2, layer % 2
        delta, spread_delta = of_values[above, :fan_out], of_spreads[above, :fan_out]
        outer_sum(delta, below, of_means, start)
        row_sums(delta, of_means, biases)
        outer_sum(spread_delta, below_spreads, paired, first)
        row_sums(spread_delta, of_variances, biases)
        for o in range(fan_out):
            for k in range(fan_in):
                of_variances[start + o * fan_in + k] = paired[o * width + k]
            if not known:
                for k in range(fan_in):
                    place = start + o * fan_in + k
                    of_means[place] += two * means[place] * paired[o * width + fan_in + k]
        if layer > 0:
            transpose(means, start, fan_out, fan_in, turned)
            affine(turned, first, zeros, first, delta, of_values[here, :fan_in])
            pair(means, variances, start, fan_in, fan_out, False, paired)
            transpose(paired, first, fan_out, width, turned)
            affine(turned, first, zeros, first, spread_delta, of_spreads[here, :width])
            activation_moments_backward(
                activation,
                of_values[here, :fan_in],
                of_spreads[here, :width],
                below,
                below_spreads,
            )
