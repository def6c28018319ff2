"""Sources: external tables, the rules that their rows must keep to be ingested, and which rows are examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import polars as pl

from cluster.errors import ProjectError
from features.definitions import Column, FeatureSet, FeatureView, Kind, require_present, require_unique
from features.labeling.labeling_functions import WeakLabels
from features.outcomes import LabelWithin
from features.sources.pseudonyms import stored_columns
from features.sources.readers import SourceReader
from features.types import KNOWN_FROM, KNOWN_UNTIL, POLARS_TYPES

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class Source:
    """An external table, and the rules that its rows must keep.

    Rows that break a rule are quarantined with every reason. These rules always hold: each cell is of the declared
    kind; key, event time and known-at time are present; known-at is not before event time; a key occurs again only with
    other values and a later known-at time, as a correction. The other rules are optional.

    Raises:
        ProjectError: The declaration contradicts itself.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """Columns that together identify a row."""
    event_time: str
    """Column with the time at which the event happened."""
    known_at: str
    """Column with the time from which the system could know the row."""
    read: SourceReader | Callable[[], ray.data.Dataset]
    """Where the rows come from: a reader such as ``rl.csv(...)``, or a function that returns a Ray Dataset."""
    required: tuple[str, ...] = ()
    """Further columns that must not be null."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Inclusive bounds of number columns."""
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Allowed values of category columns."""
    patterns: dict[str, str] = field(default_factory=dict)
    """Regular expressions that category columns must match from the beginning."""
    rules: dict[str, pl.Expr] = field(default_factory=dict)
    """By the sentence that describes a violation, a Polars expression that is true for valid rows; null is valid."""
    fresh_within: timedelta | None = None
    """Maximum age of the newest known row; None means no limit."""
    stale: Literal["warn", "refuse"] = "warn"
    """What ingestion does when the source is older than ``fresh_within``."""

    def __post_init__(self) -> None:
        kinds = {c.name: c.kind for c in self.columns}
        rule_columns = [name for rule in self.rules.values() for name in rule.meta.root_names()]
        for name in (*self.key, self.event_time, self.known_at, *self.required, *rule_columns):
            self._require_declared(name, kinds)
        self._require_kind((self.event_time, self.known_at), "timestamp", kinds)
        self._require_kind(self.ranges, "number", kinds)
        self._require_kind((*self.categories, *self.patterns), "category", kinds)
        self._check_reader_and_key()
        self._check_rules()
        stored = {c.name for c in self.stored_columns}
        if dropped := [name for name in (*self.key, self.event_time, self.known_at) if name not in stored]:
            raise ProjectError("project.source_drops_key", source=self.name, columns=dropped)

    def _check_reader_and_key(self) -> None:
        if not (isinstance(self.read, SourceReader) or callable(self.read)):
            raise ProjectError("project.source_read_not_callable", source=self.name, read=repr(self.read))
        require_unique([*self.column_names, KNOWN_FROM, KNOWN_UNTIL], f"source {self.name!r}", source=self.name)
        if not self.key:
            raise ProjectError("project.source_without_key", source=self.name)

    def _check_rules(self) -> None:
        """Refuse a rule that would fail, or refuse every row, once rows are read."""
        for name, (low, high) in self.ranges.items():
            if not low <= high:
                raise self._rule_error(name, f"its range is empty: {low:g} to {high:g}")
        for name, values in self.categories.items():
            if isinstance(values, str):
                raise self._rule_error(name, f"its categories are one string; write ({values!r},)")
        for name, pattern in self.patterns.items():
            if fault := _pattern_error(pattern):
                raise self._rule_error(name, f"its pattern is invalid: {fault}")
        no_rows = pl.DataFrame(schema={column.name: POLARS_TYPES[column.kind] for column in self.columns})
        for reason, rule in self.rules.items():
            try:
                result = no_rows.select(rule).to_series()
            except pl.exceptions.PolarsError as error:
                raise self._rule_error(reason, f"its expression fails: {_first_line(error)}") from error
            if result.dtype != pl.Boolean or result.len():
                raise self._rule_error(reason, "it is not a Boolean for each row; use an expression over single rows")
        if self.stale not in ("warn", "refuse"):
            raise ProjectError("project.source_stale_action", source=self.name, value=self.stale)

    def _rule_error(self, rule: str, reason: str) -> ProjectError:
        return ProjectError("project.source_rule_invalid", source=self.name, rule=rule, reason=reason)

    @property
    def column_names(self) -> list[str]:
        """Names of the declared columns, in order."""
        return [c.name for c in self.columns]

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns that are ingested: those that are not dropped as personal data."""
        return stored_columns(self.columns)

    @property
    def reader(self) -> SourceReader:
        """What reads the rows; a function is wrapped."""
        read = self.read
        return read if isinstance(read, SourceReader) else SourceReader(f"source {self.name!r}", lambda _: read())

    def require_columns(self, names: Sequence[str]) -> None:
        """Raise DataError when a declared column is not among ``names``."""
        require_present(self.column_names, names, f"source {self.name!r}", source=self.name)

    def _require_declared(self, name: str, kinds: Mapping[str, Kind]) -> None:
        if name not in kinds:
            raise ProjectError("project.unknown_column", user=f"source {self.name!r}", source=self.name, columns=[name])

    def _require_kind(self, names: Iterable[str], kind: Kind, kinds: Mapping[str, Kind]) -> None:
        for name in names:
            self._require_declared(name, kinds)
            if kinds[name] != kind:
                raise _kind_error(f"source {self.name!r}", self.name, name, kinds[name], kind)


def _pattern_error(pattern: str) -> str:
    """Why a pattern is invalid; empty when it is valid. Both Python (here) and Polars (on rows) must accept it."""
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
    """Which rows of a source are training examples, and what is predicted."""

    source: str
    """Name of the source."""
    id: str
    """Column that identifies an example."""
    label: pl.Expr | LabelWithin
    """The label of the task (cluster.values.Task): an expression over columns of the row, null for no example; or
    events that follow the row, ``rl.label_within``. A multiclass label may be a class name."""
    label_known_at: str = ""
    """Column with the time at which the label became known; none for ``rl.label_within``, which says so itself."""
    event_time: str = ""
    """Column that dates an example; needed without ``as_of`` in the feature set when that has views, or when the label
    is one of later rows."""
    weak: WeakLabels | None = None
    """Labeling functions for the training rows that have no label; None: such rows are left out."""

    def __post_init__(self) -> None:
        if bool(self.label_known_at) == isinstance(self.label, LabelWithin):
            raise ProjectError("project.label_known_at", source=self.source, column=self.label_known_at)
        if self.weak is not None and isinstance(self.label, LabelWithin):
            raise ProjectError("project.weak_labels_of_outcomes", source=self.source)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the source that it uses."""
        label = self.label
        of_label = label.entity_keys if isinstance(label, LabelWithin) else tuple(label.meta.root_names())
        return tuple(name for name in dict.fromkeys([self.id, self.label_known_at, self.event_time, *of_label]) if name)

    @property
    def time_column(self) -> str:
        """Column that dates an example without ``as_of`` in the feature set."""
        return self.event_time or self.label_known_at


def require_columns(
    features: FeatureSet, examples: Examples, sources: tuple[Source, ...], group: Sequence[str] = ()
) -> None:
    """Check that the sources declare every column that views and examples use, with the same kind and protection.

    ``group`` are the columns by which the examples are split.

    A column that is hashed in its source must also be hashed in the request, or keys would not match.

    Raises:
        ProjectError: A source or column is unknown, dropped, of another kind, or hashed on one side only.
    """
    declared = {source.name: {c.name: c.personal for c in source.stored_columns} for source in sources}
    used = {f"feature view {v.name!r}": (v.source, v.source_columns) for v in features.views}
    request = tuple(c.name for c in features.request)
    used["examples"] = (examples.source, (*examples.columns, *request, *group))
    outcomes = (examples.label.view,) if isinstance(examples.label, LabelWithin) else ()
    used |= {view.name: (view.source, view.source_columns) for view in outcomes}
    for user, (source, columns) in used.items():
        if source not in declared:
            raise ProjectError("project.unknown_source", user=user, source=source, declared=sorted(declared))
        if missing := [c for c in columns if c not in declared[source]]:
            raise ProjectError("project.unknown_column", user=user, source=source, columns=missing)
    _require_equal_protection(features, examples, declared)
    kinds = {source.name: {c.name: c.kind for c in source.stored_columns} for source in sources}
    for view in (*features.views, *outcomes):
        _require_kinds(view, kinds[view.source])
    _require_example_kinds(features, examples, kinds[examples.source])
    for name in group:
        if kinds[examples.source][name] == "tensor":
            user, expected = f"the split of source {examples.source!r}", "category, number or timestamp"
            raise _kind_error(user, examples.source, name, "tensor", expected)


def _require_equal_protection(
    features: FeatureSet, examples: Examples, declared: dict[str, dict[str, Literal["hash", "drop"] | None]]
) -> None:
    request = {column.name: column.personal for column in features.request}
    shared = [(name, examples.source, request[name], "the request") for name in request]
    shared += [(key, view.source, request[key], "the request") for view in features.views for key in view.entity.keys]
    if isinstance(examples.label, LabelWithin):
        rows, of_label = examples.source, examples.label
        shared += [(k, of_label.view.source, declared[rows][k], f"source {rows!r}") for k in of_label.entity_keys]
    for name, source, expected, other in shared:
        if expected != declared[source][name]:
            sides = [f"source {source!r}", other]
            hashed, clear = sides if declared[source][name] else sides[::-1]
            raise ProjectError("project.column_hashed_once", column=name, source=source, hashed=hashed, clear=clear)


def _require_kinds(view: FeatureView, kinds: Mapping[str, Kind]) -> None:
    """A view must use its source's columns as declared; columns that it derives are checked by their values."""
    derived = {d.name for d in view.derived}
    used: list[tuple[str, tuple[Kind, ...]]] = [(key, ("category",)) for key in view.entity.keys]
    used += [(name, ("timestamp",)) for name in (view.event_time, view.known_at) if name]
    used += [(a.column, ("number",)) for a in view.aggregates if a.kind == "number"]
    used += [(f.column, (f.kind,)) for f in view.latest if f.kind != "category"]
    used += [(view.ties, ("number", "timestamp"))] if view.ties else []
    for name, allowed in used:
        if name not in derived and kinds[name] not in allowed:
            user = f"feature view {view.name!r} of source {view.source!r}"
            raise _kind_error(user, view.source, name, kinds[name], " or ".join(allowed), view=view.name)


def _require_example_kinds(features: FeatureSet, examples: Examples, kinds: Mapping[str, Kind]) -> None:
    """In training, request columns come from the source: of another kind, a value would be encoded differently."""
    source = examples.source
    for name in (examples.label_known_at, examples.event_time):
        if name and kinds[name] != "timestamp":
            raise _kind_error(f"examples of source {source!r}", source, name, kinds[name], "timestamp")
    for column in features.request:
        if column.kind != kinds[column.name]:
            expected = f"{column.kind} as in the request"
            raise _kind_error(f"source {source!r}", source, column.name, kinds[column.name], expected)
    is_dated = features.as_of is not None or examples.event_time
    if (features.views or isinstance(examples.label, LabelWithin)) and not is_dated:
        raise ProjectError("project.examples_without_time", source=source)


def _kind_error(user: str, source: str, column: str, kind: Kind, expected: str, **fields: str) -> ProjectError:
    fields["source"] = source
    return ProjectError("project.column_kind", user=user, column=column, kind=kind, expected=expected, **fields)
