"""The architecture is checked on the source: imports point down, and what is banned stays out."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ptft_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up; a module may import from its own layer and from those before it.
LAYERS = (
    "errors",
    "data",
    "models",
    "objectives",
    "convert",
    "training",
    "demo",
    "runs",
    "commands",
)
# These belong to the top layer without being in its folder.
TOP_FILES = ("cli", "__main__")
MAX_LINES = 450


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


def layer_of(module: str) -> int | None:
    """The layer of a dotted module name, None for the package itself and for other packages."""
    package, _, rest = module.partition(".")
    part = rest.split(".")[0]
    part = "commands" if part in TOP_FILES else part
    return LAYERS.index(part) if package == "ptft_jax" and part in LAYERS else None


def imports_of(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported in a module, relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            # `from ptft_jax import training` names the module only in its alias.
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def imports_in(path: Path) -> list[tuple[int, str]]:
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    return list(imports_of(parse(path), package))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def test_every_module_has_a_layer():
    """A new top-level module must be given its place before it is imported from somewhere."""
    known = {*LAYERS, *TOP_FILES, "__init__"}
    unknown = {module_of(path).split(".")[1] for path in FILES} - known
    assert not unknown


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    """An upward import would tie a lower layer to every user of it."""
    own = layer_of(module_of(path))
    for line, imported in imports_in(path):
        layer = layer_of(imported)
        if layer is None or own is None:
            continue
        assert layer <= own, f"{name_of(path)}:{line} imports {imported} from a higher layer"


def test_an_upward_import_is_noticed():
    """The check itself sees every form of import, nested ones too."""
    source = (
        "from ptft_jax import training\n"
        "import ptft_jax.commands.use.demo\n"
        "def f():\n    from ..models.build import build_model\n    from . import tasks\n"
    )
    found = [name for _, name in imports_of(ast.parse(source), "ptft_jax.data")]
    assert found == [
        "ptft_jax.training",
        "ptft_jax.commands.use.demo",
        "ptft_jax.models.build.build_model",
        "ptft_jax.data.tasks",
    ]
    assert [layer_of(name) for name in found] == [5, 8, 2, 1]


def test_data_imports_no_jax():
    """Data runs in processes without an accelerator; importing JAX there may claim one."""
    banned = {"jax", "jaxlib", "flax", "optax", "orbax", "torch", "tensorflow"}
    for path in (PACKAGE / "data").rglob("*.py"):
        for line, imported in imports_in(path):
            assert imported.split(".")[0] not in banned, f"{name_of(path)}:{line}: {imported}"


def test_torch_and_tensorflow_are_not_run_time_imports():
    """torch may be used where it happens to be there (inside a function), TensorFlow nowhere."""
    for path in FILES:
        for line, imported in imports_in(path):
            assert imported.split(".")[0] != "tensorflow", f"{name_of(path)}:{line}"
        for node in parse(path).body:
            for line, imported in imports_of(node, "") if not_a_function(node) else ():
                assert imported.split(".")[0] != "torch", f"{name_of(path)}:{line}"


def test_runs_can_be_used_without_a_command_line():
    """A notebook gets values and errors from `runs`; flags and the screen are the commands'."""
    for path in (PACKAGE / "runs").rglob("*.py"):
        for line, imported in imports_in(path):
            assert imported.split(".")[0] not in {"absl", "rich"}, f"{name_of(path)}:{line}"
        names = {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)}
        assert "print" not in names, name_of(path)


def test_slow_imports_are_inside_functions():
    """TFDS and matplotlib take a second to import; commands that don't need them don't wait."""
    for path in FILES:
        for node in filter(not_a_function, parse(path).body):
            for line, imported in imports_of(node, ""):
                package = imported.split(".")[0]
                assert package not in {"tensorflow_datasets", "matplotlib"}, (
                    f"{name_of(path)}:{line}"
                )


def not_a_function(node: ast.stmt) -> bool:
    return not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_retired_is_used(path):
    """None of JAX's retired ways; what could run code is looked for in test_safety.py."""
    banned = {"pmap", "pjit"}
    for node in ast.walk(parse(path)):
        names = []
        if isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [part for alias in node.names for part in alias.name.split(".")]
        found = banned.intersection(names)
        assert not found, f"{name_of(path)}:{getattr(node, 'lineno', '?')}: {found}"


def test_files_are_small_and_named_for_their_content():
    """A file past the limit is two things; a drawer called utils is none."""
    for path in FILES:
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines, more than {MAX_LINES}"
        assert not re.fullmatch(r"(utils?|helpers?|misc|common)", path.stem), name_of(path)
