"""Products of small matrices against numpy, for every shape, and nothing written beside them.

Small whole numbers make every sum exact in both types whatever its order, so that the oracle is
integer arithmetic and the comparison exact. What is read stands in a frame of NaN, and what is
written in a frame of canaries.
"""

import numpy as np
import pytest

pytest.importorskip("numba")
from ifcheck.engines.compiled.blocks import affine, outer_sum, row_sums, transpose

TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
FANS = [*range(1, 12), 50]  # every remainder of blocks of 5, 4, 3, 2 and 1, and many blocks
ROWS = [1, 7, 32, 160]
OUTPUTS = pytest.mark.parametrize("fan_out", FANS)
CANARY = 12345.0
BEFORE, AFTER = 3, 6  # of a frame; odd, so that nothing is aligned by luck


def whole(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Whole numbers from -8 to 8: 160 products and their sum stay below 2^14."""
    return generator.integers(-8, 9, shape)


def framed(values: np.ndarray, dtype, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """A buffer with `edge` before and after along its first axis, and the values within it."""
    buffer = np.full((BEFORE + len(values) + AFTER, *values.shape[1:]), edge, dtype)
    inner = buffer[BEFORE : BEFORE + len(values)]
    inner[...] = values
    return buffer, inner


def check_frame(buffer: np.ndarray) -> None:
    """Nothing but the inner part was written."""
    assert (buffer[:BEFORE] == CANARY).all()
    assert (buffer[-AFTER:] == CANARY).all()


def shapes(fan_out: int):
    """Every number of inputs and rows, with a generator."""
    for fan_in in FANS:
        for rows in ROWS:
            yield fan_in, rows, np.random.default_rng([fan_out, fan_in, rows])


@TYPES
@OUTPUTS
def test_affine_is_biases_plus_weights_times_rows(fan_out, dtype):
    for fan_in, count, generator in shapes(fan_out):
        W, b = whole(generator, fan_out, fan_in), whole(generator, fan_out)
        x = whole(generator, fan_in, count)
        flat, _ = framed(W.ravel(), dtype, np.nan)
        biases, _ = framed(b, dtype, np.nan)
        _, rows = framed(x, dtype, np.nan)
        buffer, out = framed(np.full((fan_out, count), np.nan), dtype, CANARY)
        affine(flat, BEFORE, biases, BEFORE, rows, out)
        np.testing.assert_array_equal(out, W @ x + b[:, None])
        check_frame(buffer)
        np.testing.assert_array_equal(flat[BEFORE:-AFTER], W.ravel())
        np.testing.assert_array_equal(biases[BEFORE:-AFTER], b)
        np.testing.assert_array_equal(rows, x)


@TYPES
@OUTPUTS
def test_affine_takes_weights_and_biases_from_one_vector(fan_out, dtype):
    """As a layer's parameters stand: weights, then biases, after other layers' parameters."""
    for fan_in, count, generator in shapes(fan_out):
        W, b = whole(generator, fan_out, fan_in), whole(generator, fan_out)
        x = whole(generator, fan_in, count)
        flat, _ = framed(np.concatenate([W.ravel(), b]), dtype, np.nan)
        out = np.full((fan_out, count), np.nan, dtype)
        affine(flat, BEFORE, flat, BEFORE + W.size, x.astype(dtype), out)
        np.testing.assert_array_equal(out, W @ x + b[:, None])


@TYPES
@OUTPUTS
def test_outer_sum_is_deltas_times_rows_summed_over_examples(fan_out, dtype):
    for fan_in, count, generator in shapes(fan_out):
        d, x = whole(generator, fan_out, count), whole(generator, fan_in, count)
        _, delta = framed(d, dtype, np.nan)
        _, rows = framed(x, dtype, np.nan)
        buffer, gradient = framed(np.full(fan_out * fan_in, np.nan), dtype, CANARY)
        outer_sum(delta, rows, buffer, BEFORE)
        np.testing.assert_array_equal(gradient, (d @ x.T).ravel())
        check_frame(buffer)
        np.testing.assert_array_equal(delta, d)
        np.testing.assert_array_equal(rows, x)


@TYPES
@OUTPUTS
def test_row_sums_are_sums_over_examples(fan_out, dtype):
    for count in ROWS:
        d = whole(np.random.default_rng([fan_out, count]), fan_out, count)
        _, delta = framed(d, dtype, np.nan)
        buffer, sums = framed(np.full(fan_out, np.nan), dtype, CANARY)
        row_sums(delta, buffer, BEFORE)
        np.testing.assert_array_equal(sums, d.sum(1))
        check_frame(buffer)
        np.testing.assert_array_equal(delta, d)


@TYPES
@OUTPUTS
def test_transpose_turns_a_matrix_within_a_vector(fan_out, dtype):
    for fan_in in FANS:
        W = np.arange(fan_out * fan_in).reshape(fan_out, fan_in)
        flat, _ = framed(W.ravel(), dtype, np.nan)
        out = np.full(W.size + AFTER, CANARY, dtype)
        transpose(flat, BEFORE, fan_out, fan_in, out)
        np.testing.assert_array_equal(out[: W.size], W.T.ravel())
        assert (out[W.size :] == CANARY).all()
        np.testing.assert_array_equal(flat[BEFORE:-AFTER], W.ravel())


# --- rounding --------------------------------------------------------------------------------
# A sum of n products, in any order and fused or not, is off by at most n u times the sum of
# their sizes (Higham 2002, section 3.1); u is half an eps. Its next term, (n u)^2, is below
# a thousandth of that here, and the oracle's own rounding below a thousandth in long double.

SLACK = 1.002


def check_rounding(values, terms: int, exact, sizes, dtype) -> None:
    unit = np.finfo(dtype).eps / 2
    assert (np.abs(values - exact) <= SLACK * terms * unit * sizes).all()


@TYPES
@pytest.mark.parametrize(("fan_out", "fan_in"), [(1, 1), (3, 5), (11, 7), (50, 50)])
def test_no_more_is_lost_than_rounding_of_each_term(fan_out, fan_in, dtype):
    generator = np.random.default_rng(0)
    W, b, x, d = (
        generator.standard_normal(shape).astype(dtype)
        for shape in ((fan_out, fan_in), (fan_out,), (fan_in, 160), (fan_out, 160))
    )
    out, gradient, sums = np.empty_like(d), np.empty(W.size, dtype), np.empty_like(b)
    affine(W.ravel(), 0, b, 0, x, out)
    outer_sum(d, x, gradient, 0)
    row_sums(d, sums, 0)
    W, b, x, d = (values.astype(np.longdouble) for values in (W, b, x, d))
    largest = np.abs(W) @ np.abs(x) + np.abs(b)[:, None]
    check_rounding(out, fan_in + 1, W @ x + b[:, None], largest, dtype)
    largest = np.abs(d) @ np.abs(x).T
    check_rounding(gradient.reshape(W.shape), 160, d @ x.T, largest, dtype)
    check_rounding(sums, 160, d.sum(1), np.abs(d).sum(1), dtype)


# --- what is not finite ----------------------------------------------------------------------


@TYPES
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_spoiled_example_spoils_no_other(bad, dtype):
    generator = np.random.default_rng(0)
    W, b = whole(generator, 7, 9).astype(dtype), whole(generator, 7).astype(dtype)
    rows = whole(generator, 9, 32).astype(dtype)
    clean, spoiled = np.empty((7, 32), dtype), np.empty((7, 32), dtype)
    W[0, 4] = 0.0  # zero times what is not finite is NaN
    affine(W.ravel(), 0, b, 0, rows, clean)
    rows[4, 13] = bad
    affine(W.ravel(), 0, b, 0, rows, spoiled)
    others = np.arange(32) != 13
    np.testing.assert_array_equal(spoiled[:, others], clean[:, others])
    with np.errstate(invalid="ignore"):  # zero times infinity is what is asked for
        np.testing.assert_array_equal(spoiled[:, 13], W[:, 4] * dtype(bad))


@TYPES
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_sums_over_examples_show_a_spoiled_one(bad, dtype):
    generator = np.random.default_rng(0)
    delta, rows = np.ones((4, 32), dtype), whole(generator, 9, 32).astype(dtype)
    rows[:, 5] = 1.0
    delta[2, 5] = bad
    gradient, sums = np.empty(36, dtype), np.empty(4, dtype)
    outer_sum(delta, rows, gradient, 0)
    row_sums(delta, sums, 0)
    spoiled = np.arange(4) == 2
    np.testing.assert_array_equal(gradient.reshape(4, 9)[2], bad)
    np.testing.assert_array_equal(sums[2], bad)
    np.testing.assert_array_equal(gradient.reshape(4, 9)[~spoiled], rows.sum(1) * np.ones((3, 1)))
    np.testing.assert_array_equal(sums[~spoiled], 32)
