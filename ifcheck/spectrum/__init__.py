"""Eigenvalues of a trained network's Hessian; importing this package registers the methods."""

from ifcheck.spectrum import dense as _dense  # noqa: F401 (registers itself)
from ifcheck.spectrum import lanczos as _lanczos  # noqa: F401 (registers itself)
from ifcheck.spectrum import power as _power  # noqa: F401 (registers itself)
from ifcheck.spectrum.base import SPECTRA, Eigenvalues, SpectrumMethod

__all__ = ["SPECTRA", "Eigenvalues", "SpectrumMethod"]
