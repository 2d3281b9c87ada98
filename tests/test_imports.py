"""Imports go one way: a layer knows those before it, never one after it or beside it, and no circle exists."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ramses_d2"
LAYERS = [
    {"errors"}, {"files", "config", "masks"}, {"draw"}, {"modeling"}, {"data"}, {"checkpoint"},
    {"evaluation", "analysis"}, {"engine"}, {"project"},
]  # fmt: skip
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(name: str) -> set[str]:
    """Modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & set(MODULES)) - {"ramses_d2", name}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"ramses_d2"}))
def test_imports_go_one_way(name: str) -> None:
    level = {part: index for index, layer in enumerate(LAYERS) for part in layer}
    own = name.split(".")[1]
    for other in imports(name):
        part = other.split(".")[1]
        assert part == own or level[part] < level[own], f"{name} imports {other}"


def test_no_circle() -> None:
    TopologicalSorter({name: imports(name) - {name.rpartition(".")[0]} for name in MODULES}).prepare()
