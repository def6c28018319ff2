"""The public API: its names load lazily, and each is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rayloop

STUB = Path(rayloop.__file__).with_suffix(".pyi").read_text()


def test_every_exported_name_loads() -> None:
    for name in rayloop.__all__:
        assert getattr(rayloop, name).__name__.rpartition(".")[2]


def test_exported_names_equal_those_for_type_checkers() -> None:
    imports = [
        (n.module, a.name, a.asname) for n in ast.parse(STUB).body if isinstance(n, ast.ImportFrom) for a in n.names
    ]
    assert sorted(name for _, name, _ in imports) == rayloop.__all__
    # Type checkers take only ``import Name as Name`` for a public name of a typed package.
    assert all(name == public for _, name, public in imports)
    assert all(getattr(rayloop, name).__module__ == module for module, name, _ in imports)


def test_every_exported_name_is_documented_once() -> None:
    documented = re.findall(r"^    (\w+): \S", rayloop.__doc__ or "", flags=re.MULTILINE)
    assert sorted(documented) == rayloop.__all__


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(rayloop, "Projekt")


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("rayloop, rayloop.cli.app", {"torch", "scipy", "polars", "mlflow"}),
        # Every command and worker that loads a project's declarations pays for this one.
        ("rayloop.project", {"torch", "pandas", "scipy.stats", "scipy.optimize", "ray", "mlflow"}),
    ],
)
def test_import_loads_no_heavy_library(modules: str, heavy: set[str]) -> None:
    code = f"import sys, {modules}; print(*{heavy} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == []
