"""One registry class for data sets, networks, variants, engines, estimators, solvers and truths."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from ifcheck.errors import UnknownName, UnusableInput

Entry = TypeVar("Entry", bound=type)
T = TypeVar("T")


class Registry(Generic[T]):
    """Named frozen dataclasses of one kind.

    The name comes from the decorator, options and their defaults from the dataclass fields,
    and help from the first line of the docstring: one registration is the whole addition.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that files a dataclass under `name`; a taken name is refused."""

        def file(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.what} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return file

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """Build the entry called `name` with `options` over the defaults of its fields.

        Raises: UnknownName for a name or an option that does not exist, UnusableInput for a
        value that the entry itself rejects.
        """
        entry = self._find(name)
        options = dict(options or {})
        for option in options:
            if option not in self.options(name):
                raise UnknownName(f"option of {self.what} {name!r}:", option, self.options(name))
        try:
            return entry(**options)
        except (TypeError, ValueError) as error:
            raise UnusableInput(
                f"{self.what} {name!r} rejects {options}: {error}.",
                remedy=f"Its options are: {', '.join(self.options(name)) or 'none'}.",
            ) from error

    def options(self, name: str) -> dict[str, Any]:
        """Return the options of an entry with their defaults."""
        fields = dataclasses.fields(self._find(name))  # type: ignore[arg-type]
        return {field.name: field.default for field in fields}

    def help(self, name: str) -> str:
        """Return the first line of the entry's docstring."""
        return (inspect.getdoc(self._find(name)) or "").split("\n")[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def _find(self, name: str) -> Callable[..., T]:
        if name not in self._entries:
            raise UnknownName(self.what, name, self._entries)
        return self._entries[name]
