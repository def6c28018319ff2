"""Sources: what a table of the outside world must look like to be landed, and which of its rows are examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import polars as pl

from cluster.errors import ProjectError
from features.definitions import Column, FeatureSet, FeatureView, Kind, duplicates
from features.sources.pseudonyms import stored_columns
from features.sources.readers import SourceReader
from features.types import INSTANT

if TYPE_CHECKING:
    import ray.data

POLARS_TYPES: dict[str, pl.DataType] = {
    "number": pl.Float64(),
    "category": pl.String(),
    "timestamp": INSTANT,
    "tensor": pl.List(pl.Float32()),
}
"""In which checks on landing see a column of each kind."""


@dataclass(frozen=True)
class Source:
    """A table of the outside world. ``read`` gives it as a Ray Dataset; ``key`` names each row.

    Rows that break a rule are quarantined with every reason. Always: cells of the declared kind, key, event and known-at
    time present, known-at not before event time, one row a key (the first known). Beyond that:

    required        columns that may not be null
    ranges          inclusive bounds of number columns
    categories      the values that a category may have
    patterns        regular expressions that a category must match from its beginning
    rules           a sentence that says what is wrong, and a Polars expression that is true where it is not; null passes
    fresh_within    how old the newest known row may be; beyond it landing warns, or is refused, as ``stale`` says
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    event_time: str
    known_at: str
    read: SourceReader | Callable[[], ray.data.Dataset]
    required: tuple[str, ...] = ()
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)
    rules: dict[str, pl.Expr] = field(default_factory=dict)
    fresh_within: timedelta | None = None
    stale: Literal["warn", "refuse"] = "warn"

    def __post_init__(self) -> None:
        kinds = {c.name: c.kind for c in self.columns}
        ruled = [name for rule in self.rules.values() for name in rule.meta.root_names()]
        for name in (*self.key, self.event_time, self.known_at, *self.required, *ruled):
            self._declares(name, kinds)
        for name in (self.event_time, self.known_at):
            self._is_of(name, "timestamp", kinds)
        for name in self.ranges:
            self._is_of(name, "number", kinds)
        for name in (*self.categories, *self.patterns):
            self._is_of(name, "category", kinds)
        self._gives_rows_with_names()
        self._can_be_judged()
        gone = [
            n for n in (*self.key, self.event_time, self.known_at) if n not in {c.name for c in self.stored_columns}
        ]
        if gone:
            raise ProjectError(f"source {self.name!r} drops {', '.join(gone)}, by which its rows are known", "hash it")

    def _gives_rows_with_names(self) -> None:
        if not (isinstance(self.read, SourceReader) or callable(self.read)):
            raise ProjectError(
                f"source {self.name!r}: read is {self.read!r}", "give rl.parquet(...), rl.csv(...), or a function"
            )
        if repeated := duplicates(self.column_names):
            raise ProjectError(f"source {self.name!r} declares column {', '.join(repeated)} twice")
        if not self.key:
            raise ProjectError(f"source {self.name!r} has no key", "name the columns that tell one row from another")

    def _can_be_judged(self) -> None:
        """Refuse a rule that would fail, or refuse every row, once rows have been read."""
        for name, (low, high) in self.ranges.items():
            if not low <= high:
                raise ProjectError(
                    f"source {self.name!r}: the range of {name!r} has nothing in it, {low:g} to {high:g}"
                )
        for name, values in self.categories.items():
            if isinstance(values, str):
                raise ProjectError(f"source {self.name!r}: categories of {name!r} are one text", f"write ({values!r},)")
        for name, pattern in self.patterns.items():
            if fault := _fault_of(pattern):
                raise ProjectError(f"source {self.name!r}: the pattern of {name!r} cannot be read: {fault}")
        nothing = pl.DataFrame(schema={column.name: POLARS_TYPES[column.kind] for column in self.columns})
        for reason, rule in self.rules.items():
            try:
                kept = nothing.select(rule).to_series()
            except pl.exceptions.PolarsError as error:
                raise ProjectError(f"source {self.name!r}: the rule {reason!r} fails: {_first_line(error)}") from error
            if kept.dtype != pl.Boolean or kept.len():
                raise ProjectError(f"source {self.name!r}: the rule {reason!r} is not true or false of one row")
        if self.stale not in ("warn", "refuse"):
            raise ProjectError(f"source {self.name!r}: stale is 'warn' or 'refuse', not {self.stale!r}")

    @property
    def column_names(self) -> list[str]:
        return [c.name for c in self.columns]

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns that are landed: those that are not dropped as personal data."""
        return stored_columns(self.columns)

    def open(self) -> ray.data.Dataset:
        """The table, read now. Raises DataError when it cannot be."""
        read = self.read
        form = read if isinstance(read, SourceReader) else SourceReader(f"source {self.name!r}", lambda columns: read())
        return form.open(self.columns)

    def _declares(self, name: str, kinds: Mapping[str, Kind]) -> None:
        if name not in kinds:
            raise ProjectError(f"source {self.name!r} refers to column {name!r}, which it does not declare")

    def _is_of(self, name: str, kind: Kind, kinds: Mapping[str, Kind]) -> None:
        self._declares(name, kinds)
        if kinds[name] != kind:
            raise ProjectError(f"source {self.name!r}: column {name!r} must be a {kind}, not a {kinds[name]}")


def _fault_of(pattern: str) -> str:
    """Why a pattern cannot be used; empty when it can. Python reads it where it is declared, Polars where rows are."""
    try:
        re.compile(pattern)
        pl.Series([""]).str.contains(pattern)
    except (re.error, pl.exceptions.PolarsError) as error:
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())


@dataclass(frozen=True)
class Examples:
    """Which rows of which source become training rows, and what is to be predicted.

    ``label`` is a Polars expression giving contracts.Task's label (null: no example); a multiclass
    label may be a class name. ``label_known_at`` is the column that says when the label was known;
    ``event_time`` the one that dates an example when the feature set declares no ``as_of``.
    """

    source: str
    id: str
    label: pl.Expr
    label_known_at: str
    event_time: str = ""


def require_columns(features: FeatureSet, examples: Examples, sources: tuple[Source, ...]) -> None:
    """Raise ProjectError when views or examples name a source or column that nothing declares, or that is dropped.

    A request column that is hashed where it comes from must be hashed in the request as well, or keys would not match.
    """
    declared = {source.name: {c.name: c.personal for c in source.stored_columns} for source in sources}
    wanted = {f"feature view {v.name!r}": (v.source, v.source_columns) for v in features.views}
    request = tuple(c.name for c in features.request)
    dated = (examples.event_time,) if examples.event_time else ()
    needed = (examples.id, examples.label_known_at, *dated, *request, *examples.label.meta.root_names())
    wanted["examples"] = (examples.source, needed)
    for who, (source, columns) in wanted.items():
        if source not in declared:
            raise ProjectError(f"{who}: no source is called {source!r}", f"declared are {', '.join(sorted(declared))}")
        absent = [c for c in columns if c not in declared[source]]
        if absent:
            raise ProjectError(f"{who}: source {source!r} declares no column {', '.join(absent)}, or drops it")
    _require_equal_handling(features, examples, declared)
    kinds = {source.name: {c.name: c.kind for c in source.stored_columns} for source in sources}
    for view in features.views:
        _require_kinds(view, kinds[view.source])
    _require_example_kinds(features, examples, kinds[examples.source])


def _require_equal_handling(
    features: FeatureSet, examples: Examples, declared: dict[str, dict[str, Literal["hash", "drop"] | None]]
) -> None:
    asked = {column.name: column.personal for column in features.request}
    met = [(name, examples.source) for name in asked]
    met += [(key, view.source) for view in features.views for key in view.entity.keys]
    for name, source in met:
        if asked[name] != declared[source][name]:
            hashed, clear = (f"source {source!r}", "the request") if declared[source][name] else ("the request", source)
            raise ProjectError(
                f"column {name!r} is hashed in {hashed} and not in {clear}: keys would never match",
                "declare it hashed(...) in both",
            )


def _require_kinds(view: FeatureView, kinds: Mapping[str, Kind]) -> None:
    """That a view takes its source's columns for what they are declared; of what it derives itself the values tell."""
    made = {d.name for d in view.derived}
    wanted: list[tuple[str, tuple[Kind, ...]]] = [(key, ("category",)) for key in view.entity.keys]
    wanted += [(name, ("timestamp",)) for name in (view.event_time, view.known_at) if name]
    wanted += [(a.column, ("number",)) for a in view.aggregates if a.kind == "number"]
    wanted += [(f.column, ("number",)) for f in view.latest if f.kind == "number"]
    wanted += [(view.ties, ("number", "timestamp"))] if view.ties else []
    for name, allowed in wanted:
        if name not in made and kinds[name] not in allowed:
            raise ProjectError(
                f"feature view {view.name!r} takes {name!r} for a {' or '.join(allowed)}, and source {view.source!r}"
                f" declares it a {kinds[name]}",
                "declare it so, or take another column",
            )


def _require_example_kinds(features: FeatureSet, examples: Examples, kinds: Mapping[str, Kind]) -> None:
    """A request's column is, in training, the source's: of another kind, the same value would be written otherwise."""
    for name in (examples.label_known_at, examples.event_time):
        if name and kinds[name] != "timestamp":
            raise ProjectError(
                f"examples: {name!r} is a {kinds[name]} of source {examples.source!r}, and should be a time"
            )
    for column in features.request:
        if column.kind != kinds[column.name]:
            raise ProjectError(
                f"column {column.name!r} is a {column.kind} in the request and a {kinds[column.name]} in source"
                f" {examples.source!r}: training and serving would not see the same values",
                "declare it the same in both",
            )
    if features.views and features.as_of is None and not examples.event_time:
        raise ProjectError(
            "nothing dates the examples: the feature set has no as_of, and Examples no event_time",
            "name the column that says when the question would have been asked",
        )
