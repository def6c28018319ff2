"""Faults to seed: which modules, which places, which changes."""

from __future__ import annotations

import ast
import random
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
# What they make is looked at by people: a width or a color has no right value.
PRESENTATION = (
    "cluster.web",
    "monitoring.report",
    "monitoring.export.grafana",
    "trainers.card",
    "trainers.tuning.report",
    "trainers.tuning.report_plots",
)
GENERATED = "_pb2"
# A fault in what selects processes to end could end others of the user.
DANGEROUS = ("cluster.node.session",)
KINDS = (
    "Binary",
    "Comparison",
    "Number",
    "Unary",
    "AddNot",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceTrue",
    "ReplaceFalse",
)


@dataclass(frozen=True)
class Fault:
    """One changed line of one module; ``source`` is the module with the fault."""

    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What names this fault while lines around it move."""
        return self.module, self.before, self.after

    def __str__(self) -> str:
        return f"{self.module}:{self.line}\n    - {self.before}\n    + {self.after}"


def draw(seed: int) -> Iterator[Fault]:
    """Yield faults of the pure modules at random, each place with the same chance, and one change for a place."""
    generator = random.Random(seed)
    places = [(module, place) for module in modules() for place in _places(module).values()]
    generator.shuffle(places)
    for module, choices in places:
        fault = _fault(module, *generator.choice(choices))
        if fault is not None and module not in DANGEROUS:
            yield fault


def find(module: str, lines: Counter[tuple[str, str]]) -> Iterator[Fault]:
    """Yield the faults of a module that change ``lines``, pairs of a line before and after, each with its count."""
    source, missing = path_of(module).read_text().splitlines(), lines.copy()
    befores = {before for before, _ in lines}
    for (row, _), choices in _places(module).items():
        if source[row - 1].strip() not in befores:
            continue
        for choice in choices:
            fault = _fault(module, *choice)
            if fault is not None and missing[fault.before, fault.after] > 0:
                missing[fault.before, fault.after] -= 1
                yield fault


def modules() -> list[str]:
    """Modules that the import contract calls pure, but for presentation and generated code."""
    (contract,) = (each for each in _importlinter()["contracts"] if each["type"] == "pure")
    apart = (*contract["edge"], *PRESENTATION)
    return [
        name
        for name in modules_of_product()
        if not name.endswith(GENERATED) and not any(name == each or name.startswith(f"{each}.") for each in apart)
    ]


@cache
def modules_of_product() -> tuple[str, ...]:
    """Return all modules of the product, by dotted name."""
    return tuple(
        sorted(
            ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for package in _importlinter()["root_packages"]
            for path in (ROOT / package).rglob("*.py")
            if path.name != "__init__.py"
        )
    )


def _importlinter() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def _places(module: str) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """By place of the module, line and column, the changes that can be made there: operator and its occurrence."""
    source = path_of(module).read_text()
    spans = _unobservable(source)
    places: dict[tuple[int, int], list[tuple[str, int]]] = {}
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        if not name.rpartition("/")[2].startswith(KINDS):
            continue
        operator = get_operator(name)()
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            if not any(first <= start < last for first, last in spans):
                places.setdefault(start, []).append((name, occurrence))
    return dict(sorted(places.items()))


def _unobservable(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans where no test can notice a change, since they only annotate or forbid.

    Type annotations are never evaluated; ``strict`` of ``zip`` and the options of a dataclass refuse what correct code
    does not do.
    """
    spans: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(source)):
        spans += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.ClassDef):
            spans += node.decorator_list
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            spans += [keyword.value for keyword in node.keywords]
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in spans if isinstance(n, ast.expr)]


def _fault(module: str, operator: str, occurrence: int) -> Fault | None:
    source = path_of(module).read_text()
    changed = mutate_code(source, get_operator(operator)(), occurrence)
    if changed is None or not _is_change(source, changed):
        return None
    before, after = source.splitlines(), changed.splitlines()
    if len(before) != len(after):
        # Lines were joined, and none of them names the fault.
        return None
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            return Fault(module, i + 1, old.strip(), new.strip(), changed)
    return None


def _is_change(source: str, changed: str) -> bool:
    """Whether the changed source is valid Python that does something else."""
    try:
        return ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    except SyntaxError:
        # cosmic-ray negates an assignment expression without parentheses.
        return False
