"""Products of small matrices, compiled: a few rows and columns at a time in registers.

LLVM makes a fast loop over a layer's rows (examples) if the units that it combines are written
out: so many inputs and outputs at a time as 32 vector registers hold. The blocks are therefore
made from text, one function for every shape; what is left over goes to smaller blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from ifcheck.engines.compiled.functions import FAST

# Measured fastest: 3 x 5 weights, 5 inputs and 3 sums are 23 registers; 5 outputs are 3 and 2.
OUTPUTS = (3, 2, 1)
INPUTS = (5, 4, 1)
_options: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy"}


def _made(lines: list[str], inline: str, **known: Any) -> Any:
    """Return the function `made` that the lines define, compiled on its first call.

    A block that is inlined before compilation is compiled once, and runs faster.
    """
    namespace: dict[str, Any] = dict(known)
    exec("\n".join(lines), namespace)
    return njit(inline=inline, **_options)(namespace["made"])


def _affine_block(outputs: int, inputs: int) -> Any:
    """Return a function that combines `inputs` rows into `outputs` rows of `out`.

    The first inputs set out = bias + weights * rows, later ones add to it.
    """
    outs, ins = range(outputs), range(inputs)
    terms = {o: " + ".join(f"w{o}_{k} * r{k}" for k in ins) for o in outs}
    rows = [f"            r{k} = rows[i + {k}, j]" for k in ins]
    return _made(
        inline="always",
        lines=[
            "def made(flat, w, stride, biases, b, rows, i, out, u):",
            *(f"    b{o} = biases[b + {o}]" for o in outs),
            *(f"    w{o}_{k} = flat[w + {o} * stride + {k}]" for o in outs for k in ins),
            "    if i == 0:",
            "        for j in range(out.shape[1]):",
            *rows,
            *(f"            out[u + {o}, j] = b{o} + {terms[o]}" for o in outs),
            "    else:",
            "        for j in range(out.shape[1]):",
            *rows,
            *(f"            out[u + {o}, j] += {terms[o]}" for o in outs),
        ],
    )


def _outer_block(outputs: int, inputs: int) -> Any:
    """Return a function that sums `outputs` times `inputs` products over the columns."""
    outs, ins = range(outputs), range(inputs)
    pairs = [(o, k) for o in outs for k in ins]
    return _made(
        inline="always",
        lines=[
            "def made(delta, u, rows, i, gradient, w, stride):",
            "    zero = gradient.dtype.type(0.0)",
            *(f"    s{o}_{k} = zero" for o, k in pairs),
            "    for j in range(delta.shape[1]):",
            *(f"        d{o} = delta[u + {o}, j]" for o in outs),
            *(f"        r{k} = rows[i + {k}, j]" for k in ins),
            *(f"        s{o}_{k} += d{o} * r{k}" for o, k in pairs),
            *(f"    gradient[w + {o} * stride + {k}] = s{o}_{k}" for o, k in pairs),
        ],
    )


def _in_blocks(
    make: Callable[[int, int], Any], head: str, outputs: str, inputs: str, call: str
) -> Any:
    """Return a function that covers all outputs and inputs with the largest blocks that fit."""
    blocks = {f"block_{o}_{k}": make(o, k) for o in OUTPUTS for k in INPUTS}
    lines = [f"def made({head}):", f"    outputs, inputs, u = {outputs}, {inputs}, 0"]
    for o in OUTPUTS:
        lines += [f"    while outputs - u >= {o}:", "        i = 0"]
        for k in INPUTS:
            lines += [
                f"        while inputs - i >= {k}:",
                f"            block_{o}_{k}({call})",
                f"            i += {k}",
            ]
        lines.append(f"        u += {o}")
    return _made(lines, inline="never", **blocks)


# affine(flat, start, biases, b, rows, out) sets, for the matrix (outputs, inputs) at `start`,
#     out[o, j] = biases[b + o] + sum_k flat[start + o * inputs + k] * rows[k, j].
affine = _in_blocks(
    _affine_block,
    head="flat, start, biases, b, rows, out",
    outputs="out.shape[0]",
    inputs="rows.shape[0]",
    call="flat, start + u * inputs + i, inputs, biases, b + u, rows, i, out, u",
)

# outer_sum(delta, rows, gradient, start) sets, for the matrix (outputs, inputs) at `start`,
#     gradient[start + o * inputs + k] = sum_j delta[o, j] * rows[k, j].
outer_sum = _in_blocks(
    _outer_block,
    head="delta, rows, gradient, start",
    outputs="delta.shape[0]",
    inputs="rows.shape[0]",
    call="delta, u, rows, i, gradient, start + u * inputs + i, inputs",
)


@njit(**_options)
def row_sums(rows: Any, out: Any, start: int) -> None:
    """Set out[start + i] to the sum of row i."""
    for i in range(rows.shape[0]):
        total = out.dtype.type(0.0)
        for j in range(rows.shape[1]):
            total += rows[i, j]
        out[start + i] = total


@njit(**_options)
def transpose(flat: Any, start: int, rows: int, columns: int, out: Any) -> None:
    """Write the transpose of the matrix (rows, columns) at `start` to the start of `out`."""
    for row in range(rows):
        for column in range(columns):
            out[column * rows + row] = flat[start + row * columns + column]
