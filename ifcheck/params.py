"""Parameters as one flat vector per model: layout, flattening, selection by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.models.moments import RHO


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a module's parameters, in the order of `named_parameters()`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """Return the layout of a module's parameters."""
        named = list(module.named_parameters())
        return cls(tuple(n for n, _ in named), tuple(tuple(p.shape) for _, p in named))

    @property
    def sizes(self) -> list[int]:
        """Number of values of each parameter."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Number of values of all parameters."""
        return sum(self.sizes)

    @property
    def is_rho(self) -> Tensor:
        """Which values stand for a variance of a Bayesian network. Shape: (size,) bool."""
        named = zip(self.names, self.sizes, strict=True)
        return torch.cat([torch.full((size,), name.endswith(RHO)) for name, size in named])

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join named tensors with equal leading axes. Shape: (..., size)."""
        return torch.cat(
            [
                tensors[name].flatten(tensors[name].dim() - len(shape))
                if shape
                else tensors[name].unsqueeze(-1)
                for name, shape in zip(self.names, self.shapes, strict=True)
            ],
            dim=-1,
        )

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of `flat` (..., size) under the parameters' names and shapes."""
        pieces = flat.split(self.sizes, dim=-1)
        return {
            name: piece.unflatten(-1, shape) if shape else piece.squeeze(-1)
            for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)
        }

    def part(self, selection: str) -> Layout:
        """Return the layout of the selected parameters alone; see `positions`."""
        wanted = self._selected_names(selection)
        pairs = zip(self.names, self.shapes, strict=True)
        kept = [(name, shape) for name, shape in pairs if name in wanted]
        return Layout(tuple(name for name, _ in kept), tuple(shape for _, shape in kept))

    def positions(self, selection: str) -> Tensor:
        """Return the positions in the flat vector that `selection` names.

        `all`; `head` (the last layer, weight and bias); `head-mean` (of a Bayesian network's
        head the means alone); `layer:NAME,...` where NAME is a module such as `body.0` or one
        parameter such as `head.weight`.
        Raises: UnusableInput, UnknownName.
        """
        wanted = self._selected_names(selection)
        starts = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        return torch.cat(
            [
                torch.arange(start, start + size)
                for name, start, size in zip(self.names, starts, self.sizes, strict=False)
                if name in wanted
            ]
        )

    def _selected_names(self, selection: str) -> set[str]:
        if selection == "all":
            return set(self.names)
        if selection == "head-mean":
            return {n for n in self._selected_names("head") if not n.endswith(RHO)}
        kind, _, listed = selection.partition(":")
        if selection != "head" and (kind != "layer" or not listed):
            raise UnusableInput(
                f"--params got {selection!r}; expected head, head-mean, all or layer:NAME,...",
                remedy="For example: --params layer:head.weight",
            )
        wanted: set[str] = set()
        for layer in ["head"] if selection == "head" else listed.split(","):
            found = {n for n in self.names if n == layer or n.startswith(f"{layer}.")}
            if not found:
                raise UnknownName("layer", layer, self._layers())
            wanted |= found
        return wanted

    def _layers(self) -> Iterable[str]:
        modules = {name.rpartition(".")[0] for name in self.names}
        return {*self.names, *modules} - {""}


def stack_modules(modules: Sequence[nn.Module]) -> Tensor:
    """Return the flat parameters of modules of one architecture. Shape: (models, size)."""
    layout = Layout.of(modules[0])
    return torch.stack(
        [layout.flatten({n: p.detach() for n, p in m.named_parameters()}) for m in modules]
    )


def load_flat(module: nn.Module, flat: Tensor) -> None:
    """Write flat parameters (size,) into `module`, converting its type to that of `flat`."""
    module.to(flat.dtype)
    with torch.no_grad():
        for name, value in Layout.of(module).unflatten(flat).items():
            module.get_parameter(name).copy_(value)
