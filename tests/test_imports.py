"""All imports of the package are declared dependencies, and there are no import cycles."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distribution(requirement: str) -> str:
    """The normalised name in a requirement, or of an installed distribution."""
    return re.sub(r"[-_.]+", "-", re.split(r"[ <>=!~;\[]", requirement, maxsplit=1)[0]).lower()


DEPENDENCIES = {distribution(line) for line in PROJECT["dependencies"]}
EXTRAS = {
    distribution(line)
    for extra, lines in PROJECT["optional-dependencies"].items()
    for line in lines
    if extra != "dev"
}


def foreign_imports(file: Path) -> Iterator[tuple[str, bool]]:
    """The packages that a module imports, and whether it does so when it is itself imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        else:
            continue
        for name in names:
            package = name.partition(".")[0]
            if package != "llmprobe" and package not in sys.stdlib_module_names:
                yield package, id(node) not in inner


def test_a_run_starts_without_what_few_parts_of_it_need() -> None:
    code = (
        "import sys, llmprobe.api, llmprobe.runs.pipeline\n"
        "print([m for m in ('matplotlib', 'sklearn', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    owners = packages_distributions()
    at_once: set[str] = set()
    later: set[str] = set()
    for file in (ROOT / "llmprobe").rglob("*.py"):
        for package, is_at_once in foreign_imports(file):
            (at_once if is_at_once else later).add(distribution(owners.get(package, [package])[0]))
    assert at_once - DEPENDENCIES == set()
    assert later - DEPENDENCIES - EXTRAS == set()
    # transformers reads GGUF files with it.
    assert DEPENDENCIES - at_once - later == {"gguf"}


def test_no_two_modules_need_each_other() -> None:
    graph = grimp.build_graph("llmprobe", exclude_type_checking_imports=True, cache_dir=None)
    # The package itself offers names of its modules, which are looked up when they are used.
    modules = sorted(graph.modules - {"llmprobe"})
    number = {module: i for i, module in enumerate(modules)}
    edges = [
        (number[module], number[imported])
        for module in modules
        for imported in graph.find_modules_directly_imported_by(module)
        if imported in number
    ]
    importers, imported = zip(*edges, strict=True)
    matrix = coo_array(([1] * len(edges), (importers, imported)), shape=(len(modules),) * 2)
    _, knots = connected_components(matrix.tocsr(), directed=True, connection="strong")
    members: dict[int, list[str]] = {}
    for module, knot in zip(modules, knots, strict=True):
        members.setdefault(knot, []).append(module)
    assert [knot for knot in members.values() if len(knot) > 1] == []
