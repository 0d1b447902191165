"""Solvers of (H + damping I) x = g by name; importing this package registers them."""

from ifcheck.solvers import conjugate_gradient as _conjugate_gradient  # noqa: F401
from ifcheck.solvers import ekfac as _ekfac  # noqa: F401
from ifcheck.solvers import exact as _exact  # noqa: F401 (registers itself)
from ifcheck.solvers import low_rank as _low_rank  # noqa: F401
from ifcheck.solvers import minimal_residual as _minimal_residual  # noqa: F401
from ifcheck.solvers import neumann as _neumann  # noqa: F401
from ifcheck.solvers.base import SOLVERS, Prepared, Solution, Solver, Spectrum

__all__ = ["SOLVERS", "Prepared", "Solution", "Solver", "Spectrum"]
