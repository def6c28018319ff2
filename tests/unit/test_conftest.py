"""How a run of tests starts: a file of pure tests loads neither Ray nor MLflow, and torch only where it needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"ray", "torch", "mlflow"}
CODE = """
import sys, pytest
pytest.main(["-p", "no:cacheprovider", "tests/unit/cluster/test_fingerprint.py"])
print("imported:", *{"ray", "torch", "mlflow", "hypothesis"} & set(sys.modules))
"""


def test_file_of_pure_tests_starts_without_heavy_libraries() -> None:
    process = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert " passed" in process.stdout
    assert process.stdout.splitlines()[-1] == "imported:"


def test_factories_add_no_heavy_library_to_a_test_of_a_pure_module() -> None:
    added = {}
    tests = dict(pure_tests())
    for test, module in tests.items():
        own = {name for name in imports_at_start(test) if not name.startswith("tests.factories")}
        if libraries := heavy({test}) - heavy({module, *own}):
            added[test] = libraries
    assert len(tests) > 100
    assert added == {}


def pure_tests() -> Iterator[tuple[str, str]]:
    """Yield each unit test that mirrors a module outside the edge of import-linter's contract, and that module."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    edge = next(contract["edge"] for contract in contracts if contract["type"] == "pure")
    for path in sorted((ROOT / "tests" / "unit").rglob("test_*.py")):
        test = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        module = test.removeprefix("tests.unit.").replace("test_", "", 1)
        if source(module) and not any(f"{module}.".startswith(f"{name}.") for name in edge):
            yield test, module


def heavy(modules: Iterable[str]) -> set[str]:
    """Return the heavy libraries that importing ``modules`` imports, directly or through modules of the repository."""
    seen, todo = set[str](), list(modules)
    while todo:
        if (module := todo.pop()) not in seen:
            seen.add(module)
            todo += imports_at_start(module)
    return seen & HEAVY


@cache
def imports_at_start(module: str) -> frozenset[str]:
    """Return the heavy libraries, and the modules and packages of the repository, that importing ``module`` runs."""
    path = source(module)
    if path is None:
        return frozenset()
    names = set[str]()
    for node in statements(ast.parse(path.read_text()).body):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    packages = {".".join(parts[:i]) for name in names for parts in [name.split(".")] for i in range(1, len(parts) + 1)}
    return frozenset(name for name in packages if name in HEAVY or source(name))


def statements(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports among statements that run at once: not those of functions or of TYPE_CHECKING."""
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield node
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from statements(node.orelse)
            case _:
                for field in ("body", "orelse", "finalbody", "handlers"):
                    yield from statements(getattr(node, field, []))


@cache
def source(module: str) -> Path | None:
    """Return the file of a module of the repository, None of any other."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
