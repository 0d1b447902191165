"""YAML over defaults, flags over YAML, and what is wrong with either."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ifcheck.config.sections import Config
from ifcheck.config.studies import completed
from ifcheck.errors import UnknownName, UnusableInput


def merge_settings(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return what the user gave: flags and `dotted.key=value` over a YAML file, nested.

    `flags` maps dotted keys to values; a value of None means that the flag was not given.
    Raises: UnusableInput.
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
    return merged


def load_config(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: tuple[str, ...] = (),
    network: str | None = None,
) -> Config:
    """Merge what the user gave over the defaults of the network's study, and these over all others.

    `network` says which where the user does not. Raises: UnknownName for a key that does not
    exist, UnusableInput for an unusable value.
    """
    return config_from_dict(completed(merge_settings(file, flags, assignments), network))


def given_values(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return, under dotted keys, the checked values of what the user gave."""
    checked = dict(flatten(config.to_dict()))
    given = (key if key in checked else f"{key}.name" for key, _ in flatten(settings))
    return {key: checked[key] for key in given if key in checked}


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Check nested values, such as a file holds, and fill in the defaults."""
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise _explain(error) from error


def replace_section(config: Config, section: str, **values: Any) -> Config:
    """Return the configuration with some values of one section replaced."""
    replaced = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: replaced})


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


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-8 for a text, as it has no point; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_value(assignment: str, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UnusableInput(
            f"--set got {assignment!r}, whose value is not YAML.",
            remedy="Quote it, for example: --set 'data.test_points=\"ids:3\"'",
        ) from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
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
