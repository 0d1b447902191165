"""Numbers as a report shows them: formatted here alone, undefined ones with their reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

UNDEFINED = "–"
NO_REASON = "not computed"


@dataclass(frozen=True)
class Number:
    """A number to show; `value` is what tables sort by, None where it is undefined."""

    kind: ClassVar[str] = "number"

    value: float | None
    text: str
    reason: str = ""  # why it is undefined


def number(value: float | None, reason: str = "", digits: int = 3) -> Number:
    """Return a number with some significant digits."""
    if value is None or math.isnan(value):
        return _undefined(reason)
    return Number(float(value), _rounded(value, digits))


def share(value: float | None, reason: str = "") -> Number:
    """Return a share as a percentage; it sorts by the share."""
    if value is None or math.isnan(value):
        return _undefined(reason)
    return Number(float(value), f"{round(value, 2) + 0.0:.0%}")  # no sign of a zero


def interval(mean: float | None, half_width: float | None, reason: str = "") -> Number:
    """Return mean ± half-width, or the mean alone where there is no interval; sorts by the mean."""
    if mean is None or math.isnan(mean):
        return _undefined(reason)
    if math.isinf(mean):
        return number(mean)
    wide = half_width is not None and not math.isnan(half_width)
    return Number(float(mean), f"{mean:.2f} ± {half_width:.2f}" if wide else f"{mean:.2f}")


def between(low: float | None, high: float | None, reason: str = "") -> Number:
    """Return both ends of an interval; it sorts by the lower one."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return _undefined(reason)
    return Number(float(low), f"{_rounded(low, 2)} to {_rounded(high, 2)}")


def _undefined(reason: str) -> Number:
    return Number(None, UNDEFINED, reason or NO_REASON)


def _rounded(value: float, digits: int) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{digits}g}"
