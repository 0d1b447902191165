"""Flat parameters: order, views, selection by name, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

from ifcheck.errors import UnknownName, UnusableInput
from ifcheck.models import MLP
from ifcheck.params import Layout, load_flat, stack_modules


class Odd(nn.Module):
    """Parameters of no, one, two and three axes, in an order that is not alphabetical."""

    def __init__(self) -> None:
        super().__init__()
        self.zeta = nn.Parameter(torch.tensor(7.0))
        self.alpha = nn.Parameter(torch.arange(6.0).reshape(1, 2, 3))
        self.inner = nn.Linear(2, 3)


MODULES = {
    "mlp": MLP(4, 5, 2, 3),
    "head": nn.Linear(5, 3),
    "scalar and three axes": Odd(),
}
EACH_MODULE = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)


def named(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


# --- flatten and unflatten -------------------------------------------------------------------


@EACH_MODULE
def test_the_flat_order_is_torch_s(module):
    layout = Layout.of(module)
    expected = nn.utils.parameters_to_vector(module.parameters()).detach()
    assert torch.equal(layout.flatten(named(module)), expected)
    assert layout.size == len(expected) == sum(layout.sizes)
    assert list(layout.names) == [name for name, _ in module.named_parameters()]


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=["one model", "models", "groups"])
@EACH_MODULE
def test_unflatten_and_flatten_undo_each_other(module, leading):
    layout = Layout.of(module)
    flat = torch.randn(*leading, layout.size, generator=torch.Generator().manual_seed(0))
    tensors = layout.unflatten(flat)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {name: (*leading, *p.shape) for name, p in module.named_parameters()}
    assert torch.equal(layout.flatten(tensors), flat)


@EACH_MODULE
def test_unflatten_gives_views(module):
    layout = Layout.of(module)
    flat = torch.zeros(2, layout.size)
    for index, tensor in enumerate(layout.unflatten(flat).values()):
        tensor.fill_(index + 1)
    assert flat[0].tolist() == [
        float(index + 1) for index, size in enumerate(layout.sizes) for _ in range(size)
    ]


def test_flatten_does_not_care_about_the_order_of_the_mapping():
    module = MODULES["mlp"]
    layout, tensors = Layout.of(module), named(module)
    backwards = dict(reversed(tensors.items()))
    assert torch.equal(layout.flatten(backwards), layout.flatten(tensors))


def test_stacked_modules_are_one_row_each():
    modules = [MLP(4, 5, 1, 3) for _ in range(3)]
    stacked = stack_modules(modules)
    assert stacked.shape == (3, 43)  # 4 * 5 + 5 + 5 * 3 + 3
    assert not stacked.requires_grad
    for row, module in zip(stacked, modules, strict=True):
        assert torch.equal(row, nn.utils.parameters_to_vector(module.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_load_flat_writes_values_and_takes_over_their_type(dtype):
    module = MLP(4, 5, 2, 3)
    flat = torch.randn(Layout.of(module).size, dtype=torch.float64).to(dtype)
    load_flat(module, flat)
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(nn.utils.parameters_to_vector(module.parameters()), flat)
    flat.zero_()  # the module holds a copy
    assert module.head.weight.abs().min() > 0


# --- selection -------------------------------------------------------------------------------

LAYOUT = Layout.of(MLP(4, 5, 2, 3))
# body.0.weight 0-19, body.0.bias 20-24, body.2.weight 25-49, body.2.bias 50-54,
# head.weight 55-69, head.bias 70-72
BODY_0, BODY_2, HEAD = [*range(25)], [*range(25, 55)], [*range(55, 73)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("all", [*range(73)]),
        ("head", HEAD),
        ("layer:head", HEAD),
        ("layer:head.weight", HEAD[:15]),
        ("layer:head.bias", HEAD[15:]),
        ("layer:body.0", BODY_0),
        ("layer:body.2", BODY_2),
        ("layer:body", BODY_0 + BODY_2),
        ("layer:head,body.0", BODY_0 + HEAD),  # in the order of the flat vector
        ("layer:body.0.bias,body.0", BODY_0),  # named twice, counted once
    ],
)
def test_positions_of_a_selection(selection, expected):
    assert LAYOUT.positions(selection).tolist() == expected


def test_a_layer_s_name_is_whole_and_no_prefix():
    """`body.1` is not `body.10`."""
    layout = Layout(("body.1.weight", "body.10.weight"), ((2,), (3,)))
    assert layout.positions("layer:body.1").tolist() == [0, 1]
    assert layout.positions("layer:body.10").tolist() == [2, 3, 4]


def test_positions_of_a_scalar_parameter():
    layout = Layout.of(Odd())
    assert layout.positions("layer:zeta").tolist() == [0]
    assert layout.positions("layer:alpha").tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("selection", ["", "body", "layer", "layer:", "layers:head", "Head"])
def test_a_selection_of_another_form_is_refused(selection):
    with pytest.raises(UnusableInput, match="expected head, head-mean, all or layer:NAME") as error:
        LAYOUT.positions(selection)
    assert f"got {selection!r}" in error.value.message
    assert error.value.remedy == "For example: --params layer:head.weight"


@pytest.mark.parametrize(
    ("selection", "unknown", "near"),
    [
        ("layer:haed", "haed", "head"),
        ("layer:head.wieght", "head.wieght", "head.weight"),
        ("layer:head,body.3", "body.3", "body.2"),
        ("layer:head, body.0", " body.0", "body.0"),
    ],
)
def test_an_unknown_layer_suggests_a_near_one(selection, unknown, near):
    with pytest.raises(UnknownName) as error:
        LAYOUT.positions(selection)
    assert error.value.message.startswith(f"unknown layer {unknown!r}; expected one of: ")
    assert f"Did you mean {near!r}?" in error.value.remedy


def test_the_choices_of_an_unknown_layer_all_work():
    with pytest.raises(UnknownName) as error:
        LAYOUT.positions("layer:xyz")
    listed = error.value.message.partition("expected one of: ")[2].rstrip(".").split(", ")
    body = [f"body.{layer}{end}" for layer in (0, 2) for end in ("", ".bias", ".weight")]
    assert listed == [*body, "head", "head.bias", "head.weight"]
    assert all(len(LAYOUT.positions(f"layer:{name}")) for name in listed)


def test_the_choices_of_a_module_without_layers_have_no_empty_name():
    with pytest.raises(UnknownName) as error:
        Layout.of(nn.Linear(5, 3)).positions("layer:wieght")
    assert "expected one of: bias, weight." in error.value.message


def test_a_network_without_a_head_has_no_head_to_select():
    with pytest.raises(UnknownName, match="unknown layer 'head'"):
        Layout.of(nn.Linear(5, 3)).positions("head")
