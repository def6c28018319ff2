"""Sources: what a table of the outside world must look like to be landed, and which of its rows are examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import polars as pl

from cluster.errors import ProjectError
from features.definitions import Column, FeatureSet, Kind
from features.personal import stored
from features.reads import Read

if TYPE_CHECKING:
    import ray.data


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
    read: Read | Callable[[], ray.data.Dataset]
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
        gone = [n for n in (*self.key, self.event_time, self.known_at) if n not in {c.name for c in self.stored}]
        if gone:
            raise ProjectError(f"source {self.name!r} drops {', '.join(gone)}, by which its rows are known", "hash it")

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.columns]

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns that are landed: those that are not dropped as personal data."""
        return stored(self.columns)

    def rows(self) -> ray.data.Dataset:
        """The table, read now. Raises DataError when it cannot be."""
        return self.read.open(self.columns) if isinstance(self.read, Read) else self.read()

    def _declares(self, name: str, kinds: Mapping[str, Kind]) -> None:
        if name not in kinds:
            raise ProjectError(f"source {self.name!r} refers to column {name!r}, which it does not declare")

    def _is_of(self, name: str, kind: Kind, kinds: Mapping[str, Kind]) -> None:
        self._declares(name, kinds)
        if kinds[name] != kind:
            raise ProjectError(f"source {self.name!r}: column {name!r} must be a {kind}, not a {kinds[name]}")


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
    declared = {source.name: {c.name: c.personal for c in source.stored} for source in sources}
    wanted = {f"feature view {v.name!r}": (v.source, v.source_columns) for v in features.views}
    request = tuple(c.name for c in features.request)
    needed = (examples.id, examples.label_known_at, *request, *examples.label.meta.root_names())
    wanted["examples"] = (examples.source, needed)
    for who, (source, columns) in wanted.items():
        if source not in declared:
            raise ProjectError(f"{who}: no source is called {source!r}", f"declared are {', '.join(sorted(declared))}")
        absent = [c for c in columns if c not in declared[source]]
        if absent:
            raise ProjectError(f"{who}: source {source!r} declares no column {', '.join(absent)}, or drops it")
    _require_equal_handling(features, examples, declared)


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
