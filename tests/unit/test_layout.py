"""Rules of the code base that no linter checks: sizes of folders, names, error codes, imports between tests."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from cluster import errors
from cluster.errors import RayloopError
from tests.unit.golden.golden import golden

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "features", "trainers", "deployments", "monitoring", "rayloop", "examples")
MAX_MODULES = 20
PASS_CODE_THROUGH = {"deployments/auth/credentials.py"}
"""Modules with a helper that passes its caller's code on."""
GENERATED = "_pb2.py"
AREAS = {
    name: kind.area for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RayloopError)
}


@cache
def product() -> dict[Path, ast.Module]:
    """Return the syntax tree of each product module, by its path below the root."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths if not path.name.endswith(GENERATED)}


def error_calls() -> Iterator[tuple[str, str, ast.expr | None]]:
    """Yield the place, class name and ``code`` argument of each RayloopError that the product creates."""
    for path, tree in product().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in AREAS:
                code = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
                yield f"{path}:{node.lineno}", node.func.id, code


def literal_codes() -> set[str]:
    """Return every literal ``code="area.name"`` argument in the product."""
    areas = set(AREAS.values())
    values = (
        keyword.value.value
        for tree in product().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    )
    return {value for value in values if isinstance(value, str) and value.partition(".")[0] in areas}


def test_folder_of_product_code_has_at_most_twenty_modules() -> None:
    sizes = Counter(path.parent for path in product() if path.name != "__init__.py")
    assert {str(folder): size for folder, size in sizes.items() if size > MAX_MODULES} == {}


def test_class_name_occurs_once_in_the_product() -> None:
    names = Counter(node.name for tree in product().values() for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_error_has_a_literal_code_with_the_prefix_of_its_class() -> None:
    problems = []
    passed_through = set()
    for place, kind, code in error_calls():
        if isinstance(code, ast.Constant):
            if not str(code.value).startswith(f"{AREAS[kind]}."):
                problems.append(f"{place}: {kind} has code {code.value!r}")
        elif isinstance(code, ast.Name):
            passed_through.add(place.rpartition(":")[0])
        else:
            problems.append(f"{place}: {kind} has no code")
    assert problems == []
    assert passed_through == PASS_CODE_THROUGH


def test_error_codes_are_those_on_record() -> None:
    # Scripts rely on codes. After an addition: UPDATE_GOLDEN=1, as tests/unit/golden/golden.py explains.
    golden("error_codes", sorted(literal_codes()))


def test_test_module_imports_no_other_test_module() -> None:
    imports = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            parts = {part for module in modules if module.startswith("tests.") for part in module.split(".")[1:]}
            if any(part.startswith("test_") or part == "conftest" for part in parts):
                imports.append(f"{path.relative_to(ROOT)}:{node.lineno}: {', '.join(modules)}")
    assert imports == []
