"""Each private name of another library is used in one place, and listed with what needs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmprobe

PRIVATE_NAMES = {
    "_experts_implementation": (
        "models/private.py",
        "mixtures of experts look as if they were not causal, and run without a prefix tree",
    ),
    "_hf_hook": (
        "models/private.py",
        "layers of eight bits of a model on several GPUs find their input on another one",
    ),
    "_python_dispatch": (
        "models/private.py",
        "the self-check of a model in bfloat16 does not know how much a text alone rounds",
    ),
    "_is_avx512_bf16_supported": (
        "models/private.py",
        "dtype: auto is float32 with older versions of torch, also where bfloat16 is faster",
    ),
    "_is_amx_tile_supported": (
        "models/private.py",
        "dtype: auto is float32 with older versions of torch on processors with AMX",
    ),
}
"""Private names of other libraries: the file that may use each, and what breaks without it."""


def used(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that code takes from objects and from modules of other libraries."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names = [node.attr]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            names = [part.value for part in node.args[1:2] if isinstance(part, ast.Constant)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            if not module.startswith("llmprobe"):
                names = ".".join([module, *(alias.name for alias in node.names)]).split(".")
        yield from (name for name in names if name.startswith("_") and not name.endswith("__"))


def defined(tree: ast.AST) -> Iterator[str]:
    """Yield what code gives a name, also as the attribute of an object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def private_names(code: dict[str, str]) -> list[tuple[str, str]]:
    """Return each private name that files use and none of them defines, with the file."""
    trees = {file: ast.parse(text) for file, text in code.items()}
    own = {name for tree in trees.values() for name in defined(tree)}
    return sorted((name, file) for file, tree in trees.items() for name in {*used(tree)} - own)


def test_each_private_name_of_another_library_is_used_in_one_place_and_listed() -> None:
    package = Path(llmprobe.__file__).parent
    code = {p.relative_to(package).as_posix(): p.read_text() for p in package.rglob("*.py")}
    expected = sorted((name, file) for name, (file, _) in PRIVATE_NAMES.items())
    assert private_names(code) == expected


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import torch\ntorch.nn._reduction", {"_reduction"}),
        ("from sklearn._loss import loss", {"_loss"}),
        ("from scipy import _lib", {"_lib"}),
        ("import numpy._core as core", {"_core"}),
        ("getattr(model, '_tied', None)", {"_tied"}),
        ("class A:\n    def _own(self): return self._own()\n", set()),
        ("from llmprobe.probing.search import _Path", set()),
        ("class A:\n    def __init__(self): self._x = 1\na = A()._x.__class__", set()),
    ],
)
def test_a_private_name_is_seen(code: str, names: set[str]) -> None:
    assert {name for name, _ in private_names({"a.py": code})} == names
