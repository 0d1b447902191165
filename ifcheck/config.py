"""What a user can set: one frozen section per stage, YAML over defaults, flags over YAML."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from ifcheck.errors import UnknownName, UnusableInput

_STRICT = ConfigDict(extra="forbid")


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


@dataclass(frozen=True, config=_STRICT)
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
Names = Annotated[tuple[str, ...], BeforeValidator(_parse_names)]
DEFAULT_NETWORK = "mlp"
DEFAULT_VARIANT = "l2"
Network = Annotated[
    Choice, BeforeValidator(_choice_from(DEFAULT_NETWORK)), PlainSerializer(_write_choice)
]
Variant = Annotated[
    Choice, BeforeValidator(_choice_from(DEFAULT_VARIANT)), PlainSerializer(_write_choice)
]


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """Which examples: the data set, the rows held out as test points, limits on rows."""

    dataset: str = "iris"
    test_points: str = "max-loss"
    data_dir: str | None = None
    limit_train: Positive | None = None
    limit_test: Positive | None = None


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """How the base models are trained."""

    seeds: Seeds = tuple(range(50))
    epochs: Positive = 60_000
    learning_rate: PositiveFloat = 1e-3
    patience: Positive = 100
    factor: Share = 0.1
    dtype: Precision = "float32"
    polish: Literal["none", "head"] = "none"


@dataclass(frozen=True, config=_STRICT)
class InfluenceConfig:
    """How removal is predicted; an estimator is a named set of the fields below it."""

    estimator: str = "objective"
    params: str | None = None
    hessian: Curvature | None = None
    damping: NonNegativeFloat | None = None
    solver: str | None = None
    normalisation: Normalisation | None = None


@dataclass(frozen=True, config=_STRICT)
class RetrainConfig:
    """How rows are removed and the truth is found."""

    truth: str = "warm"
    params: str = "head"
    removals: str = "top-loss:40"
    epochs: Positive = 7_500
    normalisation: Normalisation = "n-1"
    swa_restart: Literal["average", "live"] = "average"
    trajectory: bool = False
    trajectory_every: Positive = 25


@dataclass(frozen=True, config=_STRICT)
class EigenConfig:
    """How the curvature of the trained networks is measured."""

    method: str = "power"
    top: Positive = 1
    hessian: Curvature = "data"


@dataclass(frozen=True, config=_STRICT)
class EvaluateConfig:
    """How prediction and truth are compared."""

    top_k: Positive = 10
    confidence: Share = 0.95
    bootstrap_samples: NonNegative = 1_000
    min_spearman: Correlation | None = None


@dataclass(frozen=True, config=_STRICT)
class StudyConfig:
    """What `fragility` sweeps.

    `sizes` is a list of sweeps over options of the network; each is crossed within itself,
    and the union of all of them, without repetition, is studied. `variants` that are not
    given are all that are registered.
    """

    sizes: tuple[dict[str, Any], ...] = ()
    variants: Names | None = None
    estimators: Names = ("objective", "paper", "authors")
    truths: Names = ("warm", "newton")


@dataclass(frozen=True, config=_STRICT)
class RunConfig:
    """Where and with what numbers are computed."""

    device: str = "auto"
    engine: str = "auto"
    threads: Positive | None = None


@dataclass(frozen=True, config=_STRICT)
class Config:
    """Everything that a command can be told; each default stands here, once."""

    data: DataConfig = DataConfig()
    network: Network = Choice(DEFAULT_NETWORK)
    variant: Variant = Choice(DEFAULT_VARIANT)
    train: TrainConfig = TrainConfig()
    influence: InfluenceConfig = InfluenceConfig()
    retrain: RetrainConfig = RetrainConfig()
    eigen: EigenConfig = EigenConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    study: StudyConfig = StudyConfig()
    run: RunConfig = RunConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts and lists, as they are stored in artifacts."""
        plain: dict[str, Any] = TypeAdapter(Config).dump_python(self, mode="json")
        return plain


def load_config(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: tuple[str, ...] = (),
) -> Config:
    """Merge a YAML file over the defaults, and flags and `dotted.key=value` over the file.

    `flags` maps dotted keys to values; a value of None means that the flag was not given.
    Raises: UnknownName for a key that does not exist, UnusableInput for an unusable value.
    """
    merged = _read_yaml(file) if file is not None else {}
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(merged, key, value)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UnusableInput(
                f"--set got {assignment!r}; expected dotted.key=value.",
                remedy="For example: --set train.epochs=1000",
            )
        _assign(merged, key.strip(), _parse_value(assignment, text))
    return config_from_dict(merged)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Check nested values, such as a file holds, and fill in the defaults."""
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise _explain(error) from error


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf of nested values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return one line per dotted key whose value differs: `train.epochs: 100, was 60000`."""
    mine, other = dict(flatten(ours)), dict(flatten(theirs))
    keys = dict.fromkeys([*mine, *other])
    return [
        f"{key}: {mine.get(key)!r}, was {other.get(key)!r}"
        for key in keys
        if mine.get(key) != other.get(key)
    ]


def _parse_value(assignment: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UnusableInput(
            f"--set got {assignment!r}, whose value is not YAML.",
            remedy="Quote it, for example: --set 'data.test_points=\"ids:3\"'",
        ) from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableInput(
            f"cannot read the configuration {file}: {error}.", remedy="Check the path."
        ) from error
    except yaml.YAMLError as error:
        raise UnusableInput(
            f"{file} is not YAML: {error}.", remedy="See configs/iris.yaml for the form."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UnusableInput(
            f"{file} holds a {type(values).__name__}; expected sections with keys.",
            remedy="See configs/iris.yaml for the form.",
        )
    return values


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one dotted key; a bare name on the way (`network: mlp`) keeps its meaning."""
    *parents, last = dotted.split(".")
    for parent in parents:
        child = values.get(parent)
        if not isinstance(child, dict):
            child = {} if child is None else {"name": child}
        values[parent] = child
        values = child
    if isinstance(values.get(last), dict) and not isinstance(value, dict):
        values[last] = {"name": value}
    else:
        values[last] = value


def _explain(error: ValidationError) -> UnusableInput:
    """Turn the first complaint into what was got, what was expected, and the nearest key."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(path)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return UnknownName("configuration key", key, _known_keys(path[:-1]))
    message = problem["msg"].removeprefix("Value error, ")
    return UnusableInput(
        f"{key} is {problem['input']!r}: {message[0].lower()}{message[1:]}.",
        remedy=f"Give {key} another value.",
    )


def _known_keys(parents: list[str]) -> list[str]:
    section: Any = Config()
    for parent in parents:
        section = getattr(section, parent, section)
    return [".".join([*parents, field.name]) for field in dataclasses.fields(section)]
