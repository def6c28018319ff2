"""Faults to seed: which modules, which places, which changes."""

from __future__ import annotations

import ast
import difflib
import random
import tomllib
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
DANGEROUS = ("cluster.local_cluster",)
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


def sample(count: int, seed: int, only: str = "") -> list[Fault]:
    """Return ``count`` faults of the pure modules, each place with the same chance, and one change for a place.

    Args:
        count: Size of the sample.
        seed: Seed of the sample.
        only: Return those of the sample whose module's dotted name starts with this.
    """
    generator = random.Random(seed)
    places = [(module, place) for module in modules() for place in _places(module)]
    generator.shuffle(places)
    faults: list[Fault] = []
    for module, choices in places:
        if len(faults) == count:
            break
        fault = _fault(module, *generator.choice(choices))
        if fault is not None and module not in DANGEROUS:
            faults.append(fault)
    return [fault for fault in faults if fault.module.startswith(only)]


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


def _places(module: str) -> Iterator[list[tuple[str, int]]]:
    """For each place of the module, the changes that can be made there: operator and its occurrence."""
    source = path_of(module).read_text()
    never_run, places = _annotations(source), {}
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        if not name.rpartition("/")[2].startswith(KINDS):
            continue
        operator = get_operator(name)()
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            if not any(first <= start < last for first, last in never_run):
                places.setdefault(start, []).append((name, occurrence))
    yield from (places[start] for start in sorted(places))


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans of type annotations: none is evaluated, so no test can notice a change in one."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        spans += [
            ((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in notes if isinstance(n, ast.expr)
        ]
    return spans


def _fault(module: str, operator: str, occurrence: int) -> Fault | None:
    source = path_of(module).read_text()
    changed = mutate_code(source, get_operator(operator)(), occurrence)
    if changed is None or not _is_change(source, changed):
        return None
    before, after = source.splitlines(), changed.splitlines()
    for tag, i, _, j, _ in difflib.SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if tag == "replace":
            return Fault(module, i + 1, before[i].strip(), after[j].strip(), changed)
    return None


def _is_change(source: str, changed: str) -> bool:
    """Whether the changed source is valid Python that does something else."""
    try:
        return ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    except SyntaxError:
        # cosmic-ray negates an assignment expression without parentheses.
        return False
