"""Types of single settings: what is read, what is refused, and how it is said."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")


def _no_truth_value(value: Any) -> Any:
    """Refuse yes and no, which pydantic would read as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


_NUMBER = BeforeValidator(_no_truth_value)
Positive = Annotated[int, Field(ge=1), _NUMBER]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMBER]
NonNegative = Annotated[int, Field(ge=0), _NUMBER]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMBER]
Share = Annotated[float, Field(gt=0, lt=1), _NUMBER]
Correlation = Annotated[float, Field(ge=-1, le=1), _NUMBER]
Normalisation = Literal["n", "n-1"]
Precision = Literal["float32", "float64"]
Curvature = Literal["objective", "data"]


def parse_integers(text: Any) -> tuple[int, ...]:
    """Read a list such as `5`, `5,8,14`, `1..8` or `1..3,7`; ranges include both ends.

    Raises: ValueError with the accepted forms.
    """
    if isinstance(text, (list, tuple)):
        if not all(type(part) is int for part in text):
            raise ValueError(f"{list(text)!r} is not a list of integers")
        return tuple(text)
    numbers: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?:\.\.\s*(-?\d+)\s*)?", part)
        if match is None:
            raise ValueError(f"{text!r} is not a list of integers such as 5, 5,8,14 or 1..8")
        first = int(match[1])
        numbers.extend(range(first, int(match[2] or first) + 1))
    return tuple(numbers)


def _parse_seeds(value: Any) -> tuple[int, ...]:
    """Read `N` as the seeds 0..N-1 and anything else as a list."""
    text = str(value)
    seeds = tuple(range(int(text))) if text.lstrip("-").isdigit() else parse_integers(value)
    if not seeds:
        raise ValueError(f"{value!r} names no seed; give a count of at least 1 or a list")
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"{value!r} must name different seeds, none of them negative")
    return seeds


def _parse_names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, str) for p in parts):
        raise ValueError(f"{value!r} is not a list of names such as a,b")
    names = tuple(part.strip() for part in parts)
    if not names or not all(names):
        raise ValueError(f"{value!r} names nothing; give at least one name")
    return names


def _read_damping(value: Any) -> float | str:
    if value in ("path", "auto"):
        return str(value)
    number = math.nan if isinstance(value, bool) else _as_number(value)
    if not 0 <= number < math.inf:
        raise ValueError("expected a number of at least 0, path or auto")
    return number


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _parse_dampings(value: Any) -> Any:
    """Refuse a path without dampings, or on which one stands twice."""
    if isinstance(value, (list, tuple)) and len(set(map(_as_number, value))) < max(1, len(value)):
        raise ValueError("expected different dampings, at least one")
    return value


@dataclass(frozen=True, config=STRICT)
class Choice:
    """An entry of a registry with the options that depart from the entry's own defaults."""

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def _choice_from(default: str) -> Callable[[Any], Any]:
    """Return a reader of `name`, or of `name` (may be left out) with options beside it."""

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping):
            options = {str(key): option for key, option in value.items() if key != "name"}
            return {"name": value.get("name", default), "options": options}
        return value

    return read


def _write_choice(choice: Choice) -> dict[str, Any]:
    return {"name": choice.name, **choice.options}


Seeds = Annotated[tuple[int, ...], BeforeValidator(_parse_seeds)]
Damping = Annotated[float | str, BeforeValidator(_read_damping)]
Dampings = Annotated[tuple[NonNegativeFloat, ...], BeforeValidator(_parse_dampings)]
Names = Annotated[tuple[str, ...], BeforeValidator(_parse_names)]
DEFAULT_NETWORK = "mlp"
DEFAULT_VARIANT = "l2"
Network = Annotated[
    Choice, BeforeValidator(_choice_from(DEFAULT_NETWORK)), PlainSerializer(_write_choice)
]
Variant = Annotated[
    Choice, BeforeValidator(_choice_from(DEFAULT_VARIANT)), PlainSerializer(_write_choice)
]
