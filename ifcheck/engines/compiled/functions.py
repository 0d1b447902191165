"""What compiled kernels need and numba's wheels lack: vectorisable exp and log, flush to zero."""

from __future__ import annotations

import math
import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.polynomial import Chebyshev, Polynomial

# Sums may be reordered and products fused, but infinities and NaN keep their meaning: a run
# that diverges must be seen to diverge.
FAST = {"reassoc", "contract", "nsz", "arcp"}
# For element-wise work whose operations must stay in their order.
IN_ORDER: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}

X86 = platform.machine().lower() in ("x86_64", "amd64")
FLUSH_TO_ZERO = np.int32(0x8040)  # bits FTZ and DAZ of MXCSR

LOG2_E = 1 / math.log(2)
# ln 2 in two parts, of which the first has trailing zeros: n * part is exact.
LN2_HIGH_32, LN2_LOW_32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
LN2_HIGH_64, LN2_LOW_64 = 6.93145751953125e-1, 1.42860682030941723212e-6
# Adding it rounds to an integer, which then stands in the lowest bits.
ROUNDER_32, ROUNDER_64 = np.float32(1.5 * 2**23), 1.5 * 2**52
# Arguments are held within these, so that powers of two stay normal numbers and a sum of
# exponentials stays finite.
LOWEST_32, HIGHEST_32 = np.float32(-87.0), np.float32(80.0)
LOWEST_64, HIGHEST_64 = -708.0, 700.0
SQRT_HALF_32, SQRT_HALF_64 = np.int32(0x3F3504F3), np.int64(0x3FE6A09E667F3BCD)  # bits


def _remainder_of_exp(r: Any) -> Any:
    """Return (e^r - 1 - r) / r^2 by its Taylor series."""
    return sum(r**k / math.factorial(k + 2) for k in range(16))


def _coefficients(degree: int) -> tuple[float, ...]:
    """Return the polynomial that takes the place of the remainder for |r| <= ln 2 / 2."""
    half = math.log(2) / 2
    fitted = Chebyshev.interpolate(_remainder_of_exp, degree, domain=[-half, half])
    return tuple(float(c) for c in fitted.convert(kind=Polynomial).coef)


# The error of interpolation, times r^2, is below half a unit in the last place: 8e-9, 2e-17.
P0, P1, P2, P3, P4 = (np.float32(c) for c in _coefficients(4))
Q0, Q1, Q2, Q3, Q4, Q5, Q6, Q7, Q8, Q9 = _coefficients(9)


def _bitcast(source: Any, target: Any) -> Any:
    """Return an intrinsic that reads the bits of one type as another's."""

    @intrinsic
    def cast(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return cast


_float32_of_bits = _bitcast(types.int32, types.float32)
_float64_of_bits = _bitcast(types.int64, types.float64)
_bits_of_float32 = _bitcast(types.float32, types.int32)
_bits_of_float64 = _bitcast(types.float64, types.int64)


def _control_register(name: str) -> Any:
    """Return an intrinsic that calls `name` on the thread's floating-point control register."""

    @intrinsic
    def access(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            slot = cgutils.alloca_once_value(builder, arguments[0])
            pointer = ir.IntType(8).as_pointer()
            function_type = ir.FunctionType(ir.VoidType(), [pointer])
            function = cgutils.get_or_insert_function(builder.module, function_type, name)
            builder.call(function, [builder.bitcast(slot, pointer)])
            return builder.load(slot)

        return types.int32(types.int32), generate

    return access


_store_control = _control_register("llvm.x86.sse.stmxcsr")
_load_control = _control_register("llvm.x86.sse.ldmxcsr")

if X86:

    @njit(cache=True)
    def flush_denormals() -> Any:
        """Let this thread treat denormal numbers as zero; return its former state."""
        former = _store_control(np.int32(0))
        _load_control(np.int32(former | FLUSH_TO_ZERO))
        return former

    @njit(cache=True)
    def restore_denormals(former: Any) -> None:
        """Give this thread its former state back."""
        _load_control(np.int32(former))

else:

    @njit(cache=True)
    def flush_denormals() -> Any:
        """Leave the thread as it is: only x86 is slowed down by denormal numbers."""
        return np.int32(0)

    @njit(cache=True)
    def restore_denormals(former: Any) -> None:
        """Nothing was changed."""


def exponential(x: Any) -> Any:
    """Return e^x to rounding, but no more than e^80 (float64: e^700); NaN stays NaN."""
    return math.exp(x)


@overload(exponential, jit_options=IN_ORDER)
def _exponential(x: Any) -> Any:
    return _exponential_32 if x == types.float32 else _exponential_64


def _exponential_32(x: Any) -> Any:
    x = LOWEST_32 if x < LOWEST_32 else x
    x = HIGHEST_32 if x > HIGHEST_32 else x
    shifted = x * np.float32(LOG2_E) + ROUNDER_32
    n = shifted - ROUNDER_32
    r = x - n * LN2_HIGH_32
    r = r - n * LN2_LOW_32
    p = (((P4 * r + P3) * r + P2) * r + P1) * r + P0
    y = p * (r * r) + r + np.float32(1.0)
    power = np.int32(_bits_of_float32(shifted) + np.int32(127)) << np.int32(23)
    return y * _float32_of_bits(np.int32(power))


def _exponential_64(x: Any) -> Any:
    x = LOWEST_64 if x < LOWEST_64 else x
    x = HIGHEST_64 if x > HIGHEST_64 else x
    shifted = x * LOG2_E + ROUNDER_64
    n = shifted - ROUNDER_64
    r = x - n * LN2_HIGH_64
    r = r - n * LN2_LOW_64
    p = ((((Q9 * r + Q8) * r + Q7) * r + Q6) * r + Q5) * r + Q4
    p = (((p * r + Q3) * r + Q2) * r + Q1) * r + Q0
    y = p * (r * r) + r + 1.0
    return y * _float64_of_bits((_bits_of_float64(shifted) + np.int64(1023)) << np.int64(52))


def logarithm(x: Any) -> Any:
    """Return log x of a normal positive number, to rounding."""
    return math.log(x)


@overload(logarithm, jit_options=IN_ORDER)
def _logarithm(x: Any) -> Any:
    return _logarithm_32 if x == types.float32 else _logarithm_64


# x = 2^k m with m from the square root of 1/2 to that of 2, and log m = 2 artanh s with
# s = (m - 1) / (m + 1), |s| <= 0.172: the first term left out is below rounding.


def _logarithm_32(x: Any) -> Any:
    k = np.int32(np.int32(_bits_of_float32(x) - SQRT_HALF_32) >> np.int32(23))
    m = _float32_of_bits(np.int32(_bits_of_float32(x) - np.int32(k << np.int32(23))))
    s = (m - np.float32(1.0)) / (m + np.float32(1.0))
    q = s * s
    p = np.float32(1.0 / 9.0)
    p = p * q + np.float32(1.0 / 7.0)
    p = p * q + np.float32(1.0 / 5.0)
    p = p * q + np.float32(1.0 / 3.0)
    p = p * q + np.float32(1.0)
    return np.float32(2.0) * s * p + np.float32(k) * np.float32(0.6931471805599453)


def _logarithm_64(x: Any) -> Any:
    k = (_bits_of_float64(x) - SQRT_HALF_64) >> np.int64(52)
    m = _float64_of_bits(_bits_of_float64(x) - (k << np.int64(52)))
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    p = 1.0 / 21.0
    p = p * q + 1.0 / 19.0
    p = p * q + 1.0 / 17.0
    p = p * q + 1.0 / 15.0
    p = p * q + 1.0 / 13.0
    p = p * q + 1.0 / 11.0
    p = p * q + 1.0 / 9.0
    p = p * q + 1.0 / 7.0
    p = p * q + 1.0 / 5.0
    p = p * q + 1.0 / 3.0
    p = p * q + 1.0
    return 2.0 * s * p + np.float64(k) * 0.6931471805599453


def logarithm_of_one_more(x: Any) -> Any:
    """Return log(1 + x) of 0 <= x <= 1, to rounding of the result."""
    return math.log1p(x)


@overload(logarithm_of_one_more, jit_options=IN_ORDER)
def _logarithm_of_one_more(x: Any) -> Any:
    return _logarithm_of_one_more_32 if x == types.float32 else _logarithm_of_one_more_64


# What the sum 1 + x loses is made good by the factor (Kahan): both are exact where it matters.


def _logarithm_of_one_more_32(x: Any) -> Any:
    one = np.float32(1.0)
    more = one + x
    kept = more - one
    return x if kept == np.float32(0.0) else logarithm(more) * (x / kept)


def _logarithm_of_one_more_64(x: Any) -> Any:
    more = 1.0 + x
    kept = more - 1.0
    return x if kept == 0.0 else logarithm(more) * (x / kept)
