"""What every command shares: the common options, the merged configuration, the display."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ifcheck.cli import options, terminal

if TYPE_CHECKING:
    from ifcheck.config import Config

DESCRIPTION_KEYS = {
    "dataset": "data.dataset",
    "network": "network.name",
    "depth": "network.depth",
    "width": "network.width",
    "activation": "network.activation",
    "variant": "variant.name",
    "test_points": "data.test_points",
    "limit_train": "data.limit_train",
    "limit_test": "data.limit_test",
}
COMMON_KEYS = {
    "device": "run.device",
    "dtype": "train.dtype",
    "engine": "run.engine",
    "data_dir": "data.data_dir",
    "threads": "run.threads",
}


@dataclass(frozen=True)
class Session:
    """The options that every command takes."""

    config_file: Path | None
    assignments: tuple[str, ...]
    flags: dict[str, Any]  # dotted key -> value, of the common options alone
    json: bool
    print_config: bool
    dry_run: bool

    def configure(self, flags: Mapping[str, Any], sources: Sequence[Path] = ()) -> Config:
        """Merge defaults, file and flags; show the result and stop if that was asked for.

        The defaults are those of the network that `sources` hold, where that is known.
        """
        from ifcheck.config import load_config

        network = None
        if sources:
            from ifcheck.artifacts import trained_network

            network = trained_network(sources)
        given = {**self.flags, **flags}
        config = load_config(self.config_file, given, self.assignments, network)
        if self.print_config:
            self._print(config)
            raise typer.Exit
        return config

    def explicit(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return, under dotted keys, what was given by flag, file or --set."""
        from ifcheck.config import config_from_dict, given_values, merge_settings

        settings = merge_settings(self.config_file, {**self.flags, **flags}, self.assignments)
        return given_values(config_from_dict(settings), settings)

    def asked(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return, under dotted keys, what was given by flag or --set, for this command alone."""
        return replace(self, config_file=None).explicit(flags)

    def _print(self, config: Config) -> None:
        import yaml

        values = config.to_dict()
        if self.json:
            terminal.show_json(values)
        else:
            typer.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


def _common(
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.EngineName = None,
    data_dir: options.DataDir = None,
    threads: options.Threads = None,
    json: options.Json = False,
    print_config: options.PrintConfig = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> Session:
    """Build the session from the common options."""
    terminal.settings.quiet = quiet
    terminal.settings.debug = debug
    terminal.settings.json = json
    terminal.show_logged_notes()
    given: dict[str, Any] = {"device": device, "dtype": dtype, "engine": engine}
    given |= {"data_dir": data_dir, "threads": threads}
    return Session(
        config_file=config,
        assignments=tuple(assignments or ()),
        flags=dotted(given, COMMON_KEYS),
        json=json,
        print_config=print_config,
        dry_run=dry_run,
    )


def dotted(values: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the values under the dotted keys of the configuration."""
    return {key: values[name] for name, key in keys.items() if name in values}


def with_common_options(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command that takes a `session` first take the common options in its place."""
    common = inspect.signature(_common, eval_str=True).parameters
    own = dict(inspect.signature(function, eval_str=True).parameters)
    own.pop("session")

    @functools.wraps(function)
    def command(**values: Any) -> None:
        session = _common(**{name: values.pop(name) for name in common})
        function(session, **values)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (*own.values(), *common.values())
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
