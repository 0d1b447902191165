"""exp and log against long double; denormal numbers flushed inside, and back afterwards."""

import numpy as np
import pytest
import torch

from ifcheck.engines import NumbaEngine, Recipe
from tests.engines.conftest import mlp_task

pytest.importorskip("numba")
from numba import njit

from ifcheck.engines.compiled.functions import (
    FAST,
    X86,
    exponential,
    flush_denormals,
    logarithm,
    restore_denormals,
)

TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
X86_ONLY = pytest.mark.skipif(not X86, reason="other processors are left as they are")
# Units of eps, relative. The approximations are good to half a unit; what is left is rounding
# of their last two operations, and of k ln 2 for the logarithm: 0.94 and 1.87 were measured,
# with fused operations and without.
EXP_ERROR, LOG_ERROR = 1.0, 2.0
EVERY = 1021  # of float32's numbers, a prime
RANGE = {np.float32: (-87.0, 80.0), np.float64: (-708.0, 700.0)}  # of exp before it saturates


@njit(fastmath=FAST, error_model="numpy")
def exponentials(x, out):
    """As the layers call it: in a loop over contiguous memory, with their options."""
    for j in range(x.size):
        out[j] = exponential(x[j])


@njit(fastmath=FAST, error_model="numpy")
def logarithms(x, out):
    for j in range(x.size):
        out[j] = logarithm(x[j])


def exp(x) -> np.ndarray:
    out = np.empty_like(x)
    exponentials(x, out)
    return out


def log(x) -> np.ndarray:
    out = np.empty_like(x)
    logarithms(x, out)
    return out


def relative_error(values, exact) -> float:
    """Largest relative error in units of eps, against long doubles that are not zero."""
    return float(np.abs((values - exact) / exact).max() / np.finfo(values.dtype).eps)


def positive_normals(dtype) -> np.ndarray:
    """Numbers of every exponent: every 1021st float32, or a million random float64."""
    info = np.finfo(dtype)
    if dtype == np.float32:
        first, last = np.array([info.tiny, info.max]).view(np.int32)
        return np.arange(first, last, EVERY, dtype=np.int32).view(dtype)
    exponents = np.random.default_rng(0).uniform(np.log2(info.tiny), np.log2(info.max), 1_000_000)
    return np.concatenate([[info.tiny, info.max], 2.0**exponents])


def halves_of_ln2(dtype) -> np.ndarray:
    """Where the reduced argument of exp is largest and changes its sign, and their neighbours."""
    lowest, highest = RANGE[dtype]
    at = (np.arange(np.ceil(lowest / np.log(2)), highest // np.log(2)) + 0.5) * np.log(2)
    at = at.astype(dtype)
    return np.concatenate([at, np.nextafter(at, dtype(-np.inf)), np.nextafter(at, dtype(np.inf))])


# --- exp -------------------------------------------------------------------------------------


@TYPES
def test_exp_is_right_to_rounding_over_its_whole_range(dtype):
    lowest, highest = RANGE[dtype]
    x = positive_normals(dtype)
    evenly = np.linspace(lowest, highest, 500_000, dtype=dtype)
    x = np.concatenate([x[x <= highest], -x[x <= -lowest], evenly, halves_of_ln2(dtype)])
    assert relative_error(exp(x), np.exp(x.astype(np.longdouble))) <= EXP_ERROR


@TYPES
def test_exp_of_zero_and_of_the_smallest_numbers_is_one(dtype):
    info = np.finfo(dtype)
    smallest = np.array([0.0, -0.0, info.smallest_subnormal, -info.tiny, info.tiny], dtype)
    assert (exp(smallest) == 1).all()


@TYPES
def test_exp_saturates_at_a_normal_number_that_can_be_summed(dtype):
    lowest, highest = RANGE[dtype]
    ends = exp(np.array([lowest, highest], dtype))
    below = np.array([np.nextafter(dtype(lowest), dtype(-np.inf)), 2 * lowest, -3e38, -np.inf])
    above = np.array([np.nextafter(dtype(highest), dtype(np.inf)), 2 * highest, 3e38, np.inf])
    assert (exp(below.astype(dtype)) == ends[0]).all()
    assert (exp(above.astype(dtype)) == ends[1]).all()
    assert ends[0] >= np.finfo(dtype).tiny
    assert np.isfinite(1000 * ends[1])


@TYPES
def test_exp_of_nan_is_nan_and_spoils_no_neighbour(dtype):
    x = np.linspace(-5, 5, 67).astype(dtype)
    clean = exp(x)
    bad = np.arange(67) % 5 == 0
    x[bad] = np.nan
    assert np.isnan(exp(x)[bad]).all()
    assert (exp(x)[~bad] == clean[~bad]).all()


# --- log -------------------------------------------------------------------------------------


@TYPES
def test_log_is_right_to_rounding_over_all_normal_numbers(dtype):
    """Near 1 too, where the logarithm goes through zero, and at every power of two."""
    info = np.finfo(dtype)
    steps = np.random.default_rng(1).uniform(np.log10(info.eps), 0, 200_000)
    near = np.concatenate([1 + 10**steps, 1 - 10**steps / 2, np.linspace(0.5, 2, 500_000)])
    powers = 2.0 ** np.arange(info.minexp, info.maxexp)
    cuts = powers[1:-1, None] * np.sqrt(0.5) * np.array([1 - info.eps, 1, 1 + info.eps])
    x = np.concatenate([near, powers, cuts.ravel()]).astype(dtype)
    x = np.concatenate([x[x != 1], positive_normals(dtype)])
    assert relative_error(log(x), np.log(x.astype(np.longdouble))) <= LOG_ERROR


@TYPES
def test_log_of_one_is_zero_and_of_a_power_of_two_is_its_exponent(dtype):
    info = np.finfo(dtype)
    exponents = np.arange(info.minexp, info.maxexp)
    result = log((2.0**exponents).astype(dtype))
    assert result[exponents == 0] == 0
    assert (result == exponents.astype(dtype) * dtype(np.log(2))).all()


# --- the loops -------------------------------------------------------------------------------


@pytest.mark.skipif(not X86, reason="reads x86's assembly")
@pytest.mark.parametrize("loop", [exponentials, logarithms])
@TYPES
def test_the_loop_is_vectorised(loop, dtype):
    loop(np.ones(1, dtype), np.ones(1, dtype))
    (assembly,) = [
        text
        for signature, text in loop.inspect_asm().items()
        if signature[0].dtype.name == np.dtype(dtype).name
    ]
    packed = {np.float32: "mulps", np.float64: "mulpd"}[dtype]
    assert packed in assembly


@pytest.mark.parametrize("function", [exp, log])
@TYPES
def test_a_value_does_not_depend_on_its_place_in_the_loop(function, dtype):
    """Alone it is computed in the scalar loop of what vectors leave over."""
    x = np.random.default_rng(2).uniform(0.01, 80, 131).astype(dtype)
    alone = np.concatenate([function(x[j : j + 1]) for j in range(x.size)])
    assert (function(x) == alone).all()


# --- denormal numbers ------------------------------------------------------------------------

STATUS = 0x3F  # bits of MXCSR that only say what has happened
FLUSH = 0x8040  # its bits FTZ and DAZ
# Made while the thread is as usual. Arrays, so that nobody computes a product beforehand.
SMALLEST = [np.full(8, np.finfo(t).tiny) for t in (np.float32, np.float64)]
DENORMAL = [np.full(8, np.finfo(t).smallest_subnormal) for t in (np.float32, np.float64)]


def survivors() -> list[bool]:
    """Whether denormal numbers are written and read, by numpy and torch, in both types.

    Half the smallest normal number is one, and a denormal times 2^60 is none. Decided by bits:
    where denormals count as zero, they also equal it.
    """
    found = []
    for smallest, denormal in zip(SMALLEST, DENORMAL, strict=True):
        for values, factor in ((smallest, 0.5), (denormal, 2.0**60)):
            factors = np.full_like(values, factor)
            product = torch.from_numpy(values) * torch.from_numpy(factors)
            found += [(values * factors).view(np.uint8), product.view(torch.uint8)]
    return [bool(bits.any()) for bits in found]


ALL, NONE = [True] * 8, [False] * 8


@pytest.fixture
def usual_state():
    """The thread as it was, whatever a test does to it."""
    assert survivors() == ALL
    yield
    torch.set_flush_denormal(False)


@X86_ONLY
@pytest.mark.usefixtures("usual_state")
def test_a_denormal_is_zero_from_flush_to_restore():
    former = flush_denormals()
    inside = survivors()
    restore_denormals(former)
    assert inside == NONE
    assert survivors() == ALL


@njit
def products(x, one, out):
    """x times one before, inside and after."""
    out[0] = x[0] * one[0]
    former = flush_denormals()
    out[1] = x[0] * one[0]
    restore_denormals(former)
    out[2] = x[0] * one[0]


@X86_ONLY
@pytest.mark.usefixtures("usual_state")
@TYPES
def test_a_denormal_is_zero_inside_compiled_code_too(dtype):
    x = np.full(1, np.finfo(dtype).smallest_subnormal)
    out = np.ones(3, dtype)
    products(x, np.ones(1, dtype), out)
    assert [bool(value.view(np.uint8).any()) for value in out[:, None]] == [True, False, True]


@X86_ONLY
@pytest.mark.usefixtures("usual_state")
def test_what_an_outer_user_had_set_is_still_set():
    assert torch.set_flush_denormal(True)
    former = flush_denormals()
    restore_denormals(former)
    flushed = survivors()
    torch.set_flush_denormal(False)
    assert flushed == NONE
    assert survivors() == ALL


@X86_ONLY
@pytest.mark.usefixtures("usual_state")
def test_flushing_nests_and_leaves_the_register_s_other_bits():
    outer = flush_denormals()
    inner = flush_denormals()
    restore_denormals(inner)
    still = survivors()
    restore_denormals(outer)
    again = flush_denormals()
    restore_denormals(again)
    assert still == NONE
    assert inner & ~STATUS == (outer | FLUSH) & ~STATUS
    assert again & ~STATUS == outer & ~STATUS
    assert not outer & FLUSH


@pytest.mark.skipif(X86, reason="x86 has denormals to flush")
def test_elsewhere_nothing_is_flushed():
    former = flush_denormals()
    inside = survivors()
    restore_denormals(former)
    assert inside == ALL


@pytest.mark.usefixtures("usual_state")
@pytest.mark.parametrize("flushing", [False, True], ids=["as usual", "flushing before"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fit_leaves_the_thread_as_it_was(threads, flushing):
    """Also between its blocks of epochs, where the user's own progress is called."""
    task = mlp_task(5, rows=20)
    torch.set_num_threads(threads)  # conftest's fixture sets them back
    if flushing and not torch.set_flush_denormal(True):
        pytest.skip("torch cannot flush denormals here")
    seen = [survivors()]
    NumbaEngine().fit(task, Recipe(100), progress=lambda _: seen.append(survivors()))
    seen.append(survivors())
    torch.set_flush_denormal(False)
    assert len(seen) > 2
    assert seen == [NONE if flushing else ALL] * len(seen)
