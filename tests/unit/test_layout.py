"""Rules of the code base that no linter checks: sizes of folders, names, error codes, imports between tests."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Formatter

from cluster import errors
from cluster.errors import RayloopError, messages
from tests.factories.golden.files import golden

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "features", "trainers", "deployments", "monitoring", "rayloop", "examples")
MAX_MODULES = 20
MAX_COLUMNS = 120
PASS_CODE_THROUGH = {"deployments/auth/credentials.py"}
"""Modules with functions that pass their caller's code on: BUILDERS."""
BUILDERS = {"invalid_credential": "request", "_forbidden": "request"}
GENERATED = "_pb2.py"
AREAS = {
    "RayloopError": "rayloop",
    "ProjectError": "project",
    "SettingsError": "settings",
    "DataError": "data",
    "SnapshotNotFound": "data",
    "OutOfMemory": "memory",
    "ClusterUnavailable": "cluster",
    "PortInUse": "cluster",
    "CallTimeout": "cluster",
    "WriterReplaced": "cluster",
    "ClaimOutdated": "cluster",
    "RegistryUnavailable": "registry",
    "VersionNotFound": "registry",
    "StoreUnavailable": "store",
    "BackupError": "backup",
    "GateFailed": "gate",
    "RolloutError": "rollout",
    "RequestError": "request",
}
"""First part of the codes of each class of error."""


@cache
def product() -> dict[Path, ast.Module]:
    """Return the syntax tree of each product module, by its path below the root."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths if not path.name.endswith(GENERATED)}


def error_calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield the place, area and call of each RayloopError that the product creates."""
    areas = AREAS | BUILDERS
    for path, tree in product().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in areas:
                yield f"{path}:{node.lineno}", areas[node.func.id], node


def literal_code(call: ast.Call) -> str:
    """Return the code that a call passes as a literal; empty when it passes none."""
    return str(call.args[0].value) if call.args and isinstance(call.args[0], ast.Constant) else ""


def message_fields(code: str) -> set[str]:
    """Return the names of the fields that the message of ``code`` mentions."""
    message = messages()[code]
    parts = [*Formatter().parse(message["what"]), *Formatter().parse(message.get("todo", ""))]
    return {name for _, name, _, _ in parts if name is not None}


def is_private(name: str) -> bool:
    """Return whether a name starts with an underscore; ``__version__`` and its like are public."""
    return name.startswith("_") and not name.startswith("__")


def product_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the full name of each import from the product, and the name that it has in the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in (*PACKAGES, "benchmarks"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", alias.asname or alias.name


def accessed_names(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield owner and attribute of ``owner.attribute`` and of ``monkeypatch.setattr(owner, "attribute", value)``."""
    match node:
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            yield owner, name
        case ast.Call(
            func=ast.Attribute(attr="setattr" | "delattr"), args=[ast.Name(id=owner), ast.Constant(value=str(name)), *_]
        ):
            yield owner, name


def long_lines(text: str) -> list[int]:
    """Return the numbers of the lines that are too long, except rows of tables and lines with nothing but a link."""
    lines = enumerate(text.splitlines(), 1)
    return [n for n, line in lines if len(line) > MAX_COLUMNS and not re.match(r"\||\W*https?:\S+$", line)]


def blank_lines(block: re.Match[str]) -> str:
    """Return as many empty lines as a block has."""
    return "\n" * block[0].count("\n")


def test_folder_of_product_code_has_at_most_twenty_modules() -> None:
    sizes = Counter(path.parent for path in product() if path.name != "__init__.py")
    assert {str(folder): size for folder, size in sizes.items() if size > MAX_MODULES} == {}


def test_prose_ends_at_120_columns() -> None:
    """In pages, outside tables and code; in the messages of errors. Ruff checks the code."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "kubernetes").rglob("*.md")]
    assert len(pages) > 60
    long = [f"cluster/errors.toml:{line}" for line in long_lines((ROOT / "cluster" / "errors.toml").read_text())]
    for path in pages:
        text = re.sub(r"^ *```.*?^ *```$", blank_lines, path.read_text(), flags=re.DOTALL | re.MULTILINE)
        long += [f"{path.relative_to(ROOT)}:{number}" for number in long_lines(text)]
    assert long == []


def test_class_name_occurs_once_in_the_product() -> None:
    names = Counter(node.name for tree in product().values() for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_error_has_a_literal_code_with_the_prefix_of_its_class() -> None:
    classes = inspect.getmembers(errors, inspect.isclass)
    assert set(AREAS) == {name for name, kind in classes if issubclass(kind, RayloopError)}
    problems = []
    passed_through = set()
    for place, area, call in error_calls():
        if code := literal_code(call):
            if not code.startswith(f"{area}."):
                problems.append(f"{place}: an error of area {area!r} has code {code!r}")
        else:
            passed_through.add(place.rpartition(":")[0])
    assert problems == []
    assert passed_through == PASS_CODE_THROUGH


def test_error_passes_the_fields_of_its_message() -> None:
    problems = []
    for place, _, call in error_calls():
        if code := literal_code(call):
            missing = message_fields(code) - {keyword.arg for keyword in call.keywords}
            problems += [f"{place}: {code} lacks {', '.join(sorted(missing))}"] if missing else []
    assert problems == []


def test_messages_of_errors_are_those_of_raised_codes_in_order() -> None:
    assert list(messages()) == sorted({code for _, _, call in error_calls() if (code := literal_code(call))})


def test_message_of_an_error_has_no_other_parts() -> None:
    assert {part for message in messages().values() for part in message} == {"what", "todo", "status"}


def test_error_codes_are_those_on_record() -> None:
    # Scripts rely on codes. After an addition: UPDATE_GOLDEN=1, as tests/factories/golden/files.py explains.
    golden("error_codes", sorted(messages()))


def test_append_to_a_table_has_a_key() -> None:
    """Without one, an append that is repeated after an unclear answer counts twice."""
    without = []
    for path, tree in product().items():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=owner, attr="append" | "write" as method)) if (
                    ast.unparse(owner).endswith("tables")
                    and len(node.args) < {"append": 3, "write": 4}[method]
                    and "key" not in {keyword.arg for keyword in node.keywords}
                ):
                    without.append(f"{path}:{node.lineno}")
    # The model card's list of HTML tables is no table of the catalog.
    assert [place for place in without if not place.startswith("trainers/card/")] == []


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


def test_test_module_uses_no_private_name_of_the_product() -> None:
    uses = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text())
        imported = {alias: name for name, alias in product_imports(tree)}
        uses += [f"{path.relative_to(ROOT)}: {name}" for name in imported.values() if is_private(name.split(".")[-1])]
        for node in ast.walk(tree):
            for owner, name in accessed_names(node):
                if is_private(name) and owner in imported:
                    uses.append(f"{path.relative_to(ROOT)}:{node.lineno}: {imported[owner]}.{name}")
    assert uses == []
