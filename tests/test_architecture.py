"""How the package is built: imports go one way, heavy ones wait, everything public is described."""

import ast
import functools
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ifcheck
from ifcheck.registry import Registry

ROOT = Path(ifcheck.__file__).parent

# A module imports from its own layer and from those above it in this list.
LAYERS = [
    "errors",
    "config",
    "registry",
    "provenance",
    "memory",
    "artifacts",
    "datasets",
    "models",
    "objective",
    "params",
    "engines",
    "variants",
    "curvature",
    "solvers",
    "scores",
    "removal",
    "spectrum",
    "agreement",
    "figures",
    "report",
    "stages",
    "cli",
    "__main__",
]
TERMINAL = {"typer", "rich", "click"}  # for cli alone
LIGHT = {"errors", "config", "registry"}  # free of numbers
NUMBERS = {
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "statsmodels",
    "matplotlib",
    "pyhessian",
    "safetensors",
}
FILE_LINES, FUNCTION_LINES = 350, 60

FILES = {
    ".".join(["ifcheck", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}
MODULES = sorted(FILES)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def layer_of(module: str) -> int:
    """The place of a module in the list; the package itself, a version number, stands above."""
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 else -1


def imports_in(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, at any depth; submodules are told from names."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield node.lineno, submodule if submodule in FILES else source


def upward_imports(tree: ast.AST, module: str) -> list[str]:
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports_in(tree, module)
        if name.split(".")[0] == "ifcheck" and layer_of(name) > layer_of(module)
    ]


# --- one way -------------------------------------------------------------------------------


def test_every_module_has_its_layer():
    assert {module.split(".")[1] for module in MODULES if module != "ifcheck"} == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    assert upward_imports(tree_of(module), module) == []


@pytest.mark.parametrize(
    "text",
    [
        "from ifcheck.stages.run import load_run",
        "from ifcheck import stages",
        "import ifcheck.stages.run as run",
        "from ..stages import run",
        "def late():\n    from ifcheck.stages.run import load_run",
        "if TYPE_CHECKING:\n    from ifcheck.stages.run import Run",
    ],
)
def test_upward_import_of_any_form_is_found(text):
    found = upward_imports(ast.parse(text), "ifcheck.engines.batched")
    assert len(found) == 1
    assert "imports ifcheck.stages" in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "from ifcheck import provenance",
        "from ifcheck.engines.base import Task",
        "from . import kernels",
        "from .kernels import Kernel",
        "import torch",
        "import ifcheck",
    ],
)
def test_import_from_above_or_beside_is_let_through(text):
    assert upward_imports(ast.parse(text), "ifcheck.engines.batched") == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_behind_the_walk(module):
    called = [ast.unparse(n.func) for n in ast.walk(tree_of(module)) if isinstance(n, ast.Call)]
    assert not [name for name in called if name.endswith(("import_module", "__import__"))]


# --- who may import what -------------------------------------------------------------------


def foreign_imports(module: str) -> set[str]:
    return {name.split(".")[0] for _, name in imports_in(tree_of(module), module)}


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("ifcheck.cli")])
def test_terminal_libraries_are_for_the_command_line_alone(module):
    assert foreign_imports(module) & TERMINAL == set()


def test_command_line_does_import_them():
    used = set().union(*(foreign_imports(m) for m in MODULES if m.startswith("ifcheck.cli")))
    assert {"typer", "rich"} <= used


@pytest.mark.parametrize("layer", sorted(LIGHT))
def test_light_modules_import_no_numbers(layer):
    assert foreign_imports(f"ifcheck.{layer}") & NUMBERS == set()


def loaded_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after running `code`."""
    tail = "\nimport sys\nprint('\\n' + '\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()}


def test_light_modules_load_no_numbers():
    loaded = loaded_after("import ifcheck.config, ifcheck.errors, ifcheck.registry")
    assert "ifcheck" in loaded
    assert loaded & (NUMBERS | TERMINAL) == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["fragility", "--help"]], ids=" ".join
)
def test_help_and_version_load_no_numbers(arguments):
    code = (
        f"import sys; sys.argv = ['ifcheck', *{arguments!r}]\n"
        "from ifcheck.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    loaded = loaded_after(code)
    assert {"ifcheck", "typer"} <= loaded
    assert loaded & NUMBERS == set()


# --- size ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_file_is_short(module):
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= FILE_LINES


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    functions = [node for node in ast.walk(tree_of(module)) if isinstance(node, Function)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lengths.items() if n > FUNCTION_LINES} == {}


@pytest.mark.parametrize("module", MODULES)
def test_input_is_not_checked_by_assert(module):
    lines = [node.lineno for node in ast.walk(tree_of(module)) if isinstance(node, ast.Assert)]
    assert lines == []


# --- descriptions --------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_module_says_in_one_line_what_it_is_for(module):
    first, *rest = (ast.get_docstring(tree_of(module), clean=False) or "").split("\n")
    assert first.strip()
    assert first.endswith((".", "?"))
    assert not rest or not rest[0].strip()


@functools.cache
def imported() -> dict[str, ModuleType]:
    return {module: importlib.import_module(module) for module in MODULES}


@functools.cache
def protocols() -> tuple[type, ...]:
    """Every interface of the package that is declared as a Protocol."""
    classes = {c for m in imported().values() for c in vars(m).values() if inspect.isclass(c)}
    own = [c for c in classes if c.__module__.startswith("ifcheck")]
    return tuple(c for c in own if getattr(c, "_is_protocol", False))


def methods(owner: type) -> dict[str, object]:
    """The public functions and properties that a class defines itself."""
    kinds = (property, classmethod, staticmethod, functools.cached_property)
    return {
        name: value
        for name, value in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
    }


def is_described_elsewhere(owner: type, name: str) -> bool:
    """Whether a base class defines the method, or a Protocol that the whole class fulfils."""
    fulfilled = [p for p in protocols() if all(hasattr(owner, member) for member in methods(p))]
    return any(name in vars(base) for base in [*owner.__mro__[1:], *fulfilled] if base is not owner)


def undescribed(module: str) -> list[str]:
    """Public functions, classes and methods without a docstring, overriding ones left out.

    A dataclass writes itself a docstring: the source tells.
    """
    missing = []
    for node in tree_of(module).body:
        if not isinstance(node, (Function, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            missing.append(node.name)
        if isinstance(node, ast.ClassDef):
            owner = getattr(imported()[module], node.name)
            missing += [
                f"{node.name}.{part.name}"
                for part in node.body
                if isinstance(part, Function)
                and not part.name.startswith("_")
                and ast.get_docstring(part) is None
                and not is_described_elsewhere(owner, part.name)
            ]
    return missing


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("ifcheck.cli.commands")])
def test_everything_public_has_a_docstring(module):
    assert undescribed(module) == []


def test_interfaces_are_found():
    names = {protocol.__name__ for protocol in protocols()}
    assert {"Dataset", "Engine", "Solver", "TruthMethod", "Variant", "Reporter"} <= names


# --- registries ----------------------------------------------------------------------------


@functools.cache
def registries() -> dict[str, Registry]:
    return {
        name: value
        for module in imported().values()
        for name, value in vars(module).items()
        if isinstance(value, Registry)
    }


ENTRIES = {
    "DATASETS": {"iris"},
    "NETWORKS": {"mlp"},
    "VARIANTS": {"none", "swa", "l2", "l2-swa"},
    "ENGINES": {"torch", "vmap"},
    "ESTIMATORS": {"objective", "paper", "authors"},
    "SOLVERS": {"exact"},
    "STEPS": {"first-order", "newton"},
    "CURVATURES": {"hessian", "ggn", "empirical-fisher"},
    "TRUTHS": {"warm", "newton", "scratch", "pbrf"},
    "SPECTRA": {"power", "dense"},
}


def test_every_registry_is_known_to_this_test():
    assert registries().keys() == ENTRIES.keys()


@pytest.mark.parametrize("registry", ENTRIES)
def test_what_scripts_name_is_registered(registry):
    assert set(registries()[registry]) >= ENTRIES[registry]


def registered_classes() -> list[tuple[str, str, ast.ClassDef]]:
    """(registry, name, class) of every `@REGISTRY.register("name")` in the sources."""
    return [
        (decorator.func.value.id, decorator.args[0].value, node)
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr == "register"
    ]


def test_every_entry_is_registered_by_its_decorator():
    found = {(registry, name) for registry, name, _ in registered_classes()}
    assert found >= {(registry, name) for registry, names in ENTRIES.items() for name in names}
    assert {registry for registry, _ in found} == registries().keys()


@pytest.mark.parametrize(
    ("registry", "name", "node"), registered_classes(), ids=lambda value: str(value)[:12]
)
def test_every_entry_has_help_of_its_own(registry, name, node):
    written = ast.get_docstring(node)
    assert written
    help_text = registries()[registry].help(name)
    assert help_text == written.split("\n")[0]
    assert help_text.endswith(".")
    assert len(help_text) <= 100
