"""The structure of docs/design.md: what lies loose in ser/, no import circle, no private names of others."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text("utf-8"))
    for file in sorted((ROOT / "ser").rglob("*.py"))
}
LOOSE = {
    "training",
    "module",
    "losses",
    "schedules",
    "callbacks",
    "metrics",
    "io",
    "errors",
    "emotions",
    "console",
    "cpu",
}


def imported(name):
    """The modules of this package that a module imports, at its start or inside functions."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ser"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
    return found - {name}


def private_names(name):
    """Names with one underscore in front that a module imports from other packages or reads from their modules."""
    others = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("ser"):
            yield from (part for part in (node.module or "").split(".") if part.startswith("_") and "__" not in part)
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
            others |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            others |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = ast.unparse(node.value).partition(".")[0]
            if root in others and ast.unparse(node) != "os._exit":  # documented, whatever its name
                yield ast.unparse(node)


def test_only_the_named_files_lie_loose():
    assert {file.stem for file in (ROOT / "ser").glob("*.py")} == LOOSE | {"__init__"}


def test_imports_form_no_circle():
    order = list(graphlib.TopologicalSorter({name: imported(name) for name in MODULES}).static_order())
    assert order.index("ser.errors") < order.index("ser.io") < order.index("ser.training")


def test_each_room_stands_above_all_that_it_imports():
    """A room is a folder of ser/ or a module that lies loose in it; no two import each other, however far round."""

    def room(name):
        return name.split(".")[1] if "." in name else name

    below = {}
    for name in MODULES:
        below.setdefault(room(name), set()).update({room(other) for other in imported(name)} - {room(name)})
    order = list(graphlib.TopologicalSorter(below).static_order())
    assert order.index("data") < order.index("encoders") < order.index("evaluation") < order.index("cli")


def named_in(tree):
    """Every name that a module defines or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def test_every_import_of_this_package_exists():
    """Also of those inside functions, which only fail when they run, and of the benchmarks."""
    benchmarks = {str(file): ast.parse(file.read_text("utf-8")) for file in (ROOT / "benchmarks").glob("*.py")}
    defined = {name: set(named_in(tree)) for name, tree in MODULES.items()}
    for place, tree in (MODULES | benchmarks).items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] != "ser":
                continue
            assert node.module in MODULES, f"{place}: {node.module}"
            for alias in node.names:
                known = alias.name in defined[node.module] or f"{node.module}.{alias.name}" in MODULES
                assert known, f"{place}: {node.module} has no {alias.name}"


def test_no_private_name_of_another_package_is_used():
    assert {name: found for name in MODULES if (found := list(private_names(name)))} == {}
