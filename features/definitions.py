"""Definitions of features: entities, views, request-time features, feature sets. Values only.

A feature set is data: it serializes to JSON, is hashed by content, is part of a model version, and is executed from
that JSON in training and in serving. Serving never needs the user's code.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, Self

import polars as pl
from pydantic import model_validator

from cluster.errors import DataError, ProjectError
from cluster.fingerprint import json_fingerprint
from cluster.values import Frozen
from features.row_expressions import RowExpression, parse_expression, require_kind
from features.types import AS_OF, POLARS_TYPES

Kind = Literal["number", "category", "timestamp", "tensor"]
Operation = Literal["count", "sum", "mean", "std", "min", "max", "distinct"]
PersonalDataRule = Literal["hash", "drop"]

SEMANTICS_VERSION = 2
"""Increase it when equal definitions get another meaning. Part of every content hash."""

_MICROSECOND = timedelta(microseconds=1)
_CATEGORY_OPERATIONS = ("count", "distinct")
_UNHASHED_FIELDS = {"name", "owner", "description"}


class Column(Frozen):
    """A named column of a request or of a feature frame."""

    name: str
    kind: Kind
    """number: float64 or int64, null for missing; category: string, null for missing; timestamp: microseconds since
    the epoch, UTC; tensor: fixed-size list of float32."""
    shape: tuple[int, ...] = ()
    """Shape of a tensor, without the row."""
    personal: PersonalDataRule | None = None
    """What happens to personal data before anything is stored or logged (features/sources/pseudonyms.py)."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "tensor") != bool(self.shape):
            raise ProjectError("project.column_shape", column=self.name, kind=self.kind)
        if self.personal == "hash" and self.kind != "category":
            raise ProjectError("project.hashed_column_kind", column=self.name, kind=self.kind)
        return self


class Entity(Frozen):
    """What features are keyed by: one or several columns, the same in source and request. Keys are compared as text."""

    name: str
    keys: tuple[str, ...]

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if not self.keys or duplicates(self.keys):
            raise ProjectError("project.entity_keys", entity=self.name, keys=self.keys)
        return self


class Aggregate(Frozen):
    """A windowed aggregate over the values that became known in (t - window, t].

    Null, NaN and infinite values are missing: aggregates skip them. -0.0 is 0.0.

    count, distinct     number of values, of different values; 0 without values; also over categories (``kind``)
    sum, mean           without values, sum is 0 and mean is null
    std                 sample standard deviation (divisor n - 1); null below two values
    min, max            null without values
    """

    column: str
    """Column of the source, or a derived one."""
    op: Operation
    window: timedelta
    """At least a microsecond."""
    name: str
    resolution: float = 2.0**-16
    """Step to which values are rounded (half to even) before sum, mean and std add them up. Sums are exact integer
    multiples of it, so that the order of addition, offline or online, does not change a bit."""
    kind: Literal["number", "category"] = "number"

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        if self.window < _MICROSECOND:
            raise ProjectError("project.aggregate_window", aggregate=self.name, window=self.window)
        if not (math.isfinite(self.resolution) and self.resolution > 0):
            raise ProjectError("project.aggregate_resolution", aggregate=self.name, resolution=self.resolution)
        if self.kind == "category" and self.op not in _CATEGORY_OPERATIONS:
            raise ProjectError(
                "project.aggregate_kind",
                aggregate=self.name,
                column=self.column,
                op=self.op,
                operations=" or ".join(_CATEGORY_OPERATIONS),
            )
        return self

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return self.window // _MICROSECOND


class Latest(Frozen):
    """The newest known value of a source column; NaN is null, -0.0 is 0.0.

    With the view's event time as its column, it is the time of the newest event, from which a derived feature computes
    its age. Times are exact to the microsecond until the year 2255, and rounded down to 64 of them beyond.
    """

    column: str
    name: str
    kind: Literal["number", "category", "timestamp"] = "number"


class Derived(RowExpression):
    """A computed column."""

    kind: Kind

    @cached_property
    def expr(self) -> pl.Expr:
        """The expression, with the column's name. Once it is cached, definitions can no longer be compared."""
        return parse_expression(self.expression).alias(self.name)


class FeatureView(Frozen):
    """Features of one entity from one source.

    A row of the source counts at time t when its event time and its known-at time are both <= t. ``latest`` takes,
    among the rows that count, the one with the newest event time; among equal ones, the one known last; then the one
    with the largest ``ties``; then the last one in the source.
    """

    name: str
    entity: Entity
    source: str
    """Name of the source."""
    event_time: str
    """Column with the time at which the event happened."""
    known_at: str = ""
    """Column with the time from which the system could know the row; without it, event time plus ``delay``."""
    delay: timedelta = timedelta(0)
    """From the event to the time at which it is known, when there is no ``known_at``."""
    derived: tuple[Derived, ...] = ()
    """Columns computed from the source's own, row by row; ``aggregates``, ``latest`` and ``ties`` may name them."""
    aggregates: tuple[Aggregate, ...] = ()
    latest: tuple[Latest, ...] = ()
    ttl: timedelta | None = None
    """``latest`` is null when the newest row is this old or older: event time <= t - ttl (< with ``strict``)."""
    strict: bool = False
    """Count rows whose times are < t, not <= t. This keeps a row that is itself an event out of its own features;
    windows are then [t - window, t)."""
    ties: str = ""
    """Number or timestamp column that decides between rows of equal times; missing is smallest."""
    owner: str = ""
    """For people; not part of the content hash."""
    description: str = ""
    """For people; not part of the content hash."""

    @model_validator(mode="after")
    def _check_declaration(self) -> Self:
        if not self.aggregates and not self.latest:
            raise ProjectError("project.view_without_features", view=self.name)
        require_unique((d.name for d in self.derived), f"feature view {self.name!r}", view=self.name)
        if self.known_at and self.delay:
            raise ProjectError("project.view_known_at_and_delay", view=self.name)
        if self.delay < timedelta(0) or (self.ttl is not None and self.ttl < _MICROSECOND):
            raise ProjectError("project.view_times", view=self.name, delay=self.delay, ttl=self.ttl)
        return self

    @model_validator(mode="after")
    def _check_resolutions(self) -> Self:
        for column in {a.column for a in self.aggregates}:
            uses = {(a.resolution, a.kind) for a in self.aggregates if a.column == column}
            if len(uses) > 1:
                raise ProjectError("project.view_resolutions", view=self.name, column=column, uses=sorted(uses))
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features of this view, in order: aggregates, then latest."""
        aggregates = tuple(Column(name=a.name, kind="number") for a in self.aggregates)
        return aggregates + tuple(Column(name=f.name, kind=f.kind) for f in self.latest)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Columns of the source that this view reads, each once."""
        derived = {d.name for d in self.derived}
        used = [*(a.column for a in self.aggregates), *(f.column for f in self.latest), self.ties]
        names = [*self.entity.keys, self.event_time, self.known_at]
        names += [name for name in used if name not in derived]
        names += [name for d in self.derived for name in d.input_columns]
        return tuple(name for name in dict.fromkeys(names) if name)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the definition. The online store keeps state by this hash, so that versions never mix."""
        return _content_hash(self, _UNHASHED_FIELDS)

    @property
    def max_window_us(self) -> int:
        """The longest window in microseconds; 0 without aggregates."""
        return max((a.window_us for a in self.aggregates), default=0)

    @property
    def delay_us(self) -> int:
        """The delay in microseconds."""
        return self.delay // _MICROSECOND

    @property
    def ttl_us(self) -> int | None:
        """The time to live in microseconds."""
        return None if self.ttl is None else self.ttl // _MICROSECOND


class OutcomeView(FeatureView):
    """What happens to an entity in a window after a row: for labels, not for features.

    A window goes by event time: looked up at t + window, it has the events of (t, t + window] that are known ``settle``
    later.
    """

    settle: timedelta = timedelta(0)
    """How long after the window its events may become known and still count."""

    @property
    def settle_us(self) -> int:
        """The time to settle in microseconds."""
        return self.settle // _MICROSECOND


class FeatureSet(Frozen):
    """The ordered features that one model uses, and the request columns that they need."""

    name: str
    request: tuple[Column, ...]
    """Columns that a request must have."""
    derived: tuple[Derived, ...] = ()
    """Features computed from request columns, features of the views, ``as_of``, and derived features before them. A
    number that is computed from more than request columns is null where it would be NaN or infinite."""
    views: tuple[FeatureView, ...] = ()
    as_of: Derived | None = None
    """Time at which features are looked up, computed from the request. Without it, that is the server's clock in
    serving, and ``event_time`` of the example in training."""
    features: tuple[str, ...] = ()
    """The model's inputs in order; empty means every number, category and tensor of the request, then derived, then
    view columns."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [c.name for c in self.available_columns]
        computed = [AS_OF, *names[len(self.request) :]]
        for unique in (names, computed, self.features, [f"view {view.name}" for view in self.views]):
            require_unique(unique, f"feature set {self.name!r}", feature_set=self.name)
        unknown = [name for name in self.features if name not in names]
        if unknown:
            raise ProjectError("project.unknown_feature", feature_set=self.name, features=unknown)
        return self

    @model_validator(mode="after")
    def _check_derived(self) -> Self:
        schema = {c.name: POLARS_TYPES[c.kind] for c in (*self.request, *(c for v in self.views for c in v.columns))}
        schema[AS_OF] = POLARS_TYPES["timestamp"]
        joined = {derived.name for derived in self.joined_derived}
        for derived in self.derived:
            if unknown := sorted({*derived.input_columns} - schema.keys()):
                raise ProjectError(
                    "project.unknown_derived_input",
                    feature=derived.name,
                    feature_set=self.name,
                    columns=unknown,
                    present=list(schema),
                )
            if derived.name in joined:
                require_kind(derived.name, derived.kind, parse_expression(derived.expression), schema)
            schema[derived.name] = POLARS_TYPES[derived.kind]
        return self

    @model_validator(mode="after")
    def _check_as_of(self) -> Self:
        if self.as_of is None:
            return self
        self._require_request(self.as_of.input_columns, f"derived feature {self.as_of.name!r}", feature=self.as_of.name)
        if self.as_of.kind != "timestamp":
            raise ProjectError("project.as_of_kind", feature_set=self.name, kind=self.as_of.kind)
        return self

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        kinds = {c.name: c.kind for c in self.request}
        for view in self.views:
            for key in view.entity.keys:
                self._require_request([key], f"feature view {view.name!r}", view=view.name)
                if kinds[key] != "category":
                    raise ProjectError("project.key_kind", view=view.name, column=key, kind=kinds[key])
        return self

    def _require_request(self, columns: Iterable[str], user: str, **fields: str) -> None:
        if unknown := sorted({*columns} - {c.name for c in self.request}):
            raise ProjectError(
                "project.unknown_request_column", user=user, columns=unknown, feature_set=self.name, **fields
            )

    @property
    def request_derived(self) -> tuple[Derived, ...]:
        """The derived features that use request columns only; they are computed before the views are looked up."""
        request = {c.name for c in self.request}
        return tuple(d for d in self.derived if request.issuperset(d.input_columns))

    @property
    def joined_derived(self) -> tuple[Derived, ...]:
        """The other derived features, which are computed one after another once the views are looked up."""
        before = {d.name for d in self.request_derived}
        return tuple(d for d in self.derived if d.name not in before)

    @cached_property
    def available_columns(self) -> tuple[Column, ...]:
        """Every column that a model could use: request columns, then derived, then view columns."""
        derived = tuple(Column(name=d.name, kind=d.kind) for d in self.derived)
        return self.request + derived + tuple(c for view in self.views for c in view.columns)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The model's input columns, in order."""
        by_name = {c.name: c for c in self.available_columns}
        if self.features:
            return tuple(by_name[name] for name in self.features)
        return tuple(c for c in self.available_columns if c.kind != "timestamp")

    @property
    def content_hash(self) -> str:
        """SHA-256 of the definition, without the name of the set."""
        return _content_hash(self, {"name": True, "views": {"__all__": _UNHASHED_FIELDS - {"name"}}})


def duplicates(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def require_unique(names: Iterable[str], owner: str, **fields: str) -> None:
    """Check that no name occurs twice.

    Args:
        names: The names.
        owner: What has them, for the message.
        fields: Further fields of the error.

    Raises:
        ProjectError: A name does.
    """
    if repeated := duplicates(names):
        raise ProjectError("project.duplicate_names", owner=owner, names=repeated, **fields)


def require_present(columns: Iterable[str], present: Sequence[str], table: str, **fields: str) -> None:
    """Check that a table has columns.

    Args:
        columns: The columns that it must have.
        present: The columns that it has.
        table: The table, for the message.
        fields: Further fields of the error.

    Raises:
        DataError: A column is missing.
    """
    if missing := [name for name in columns if name not in present]:
        raise DataError("data.missing_columns", table=table, columns=missing, present=list(present), **fields)


def _content_hash(definition: Frozen, exclude: Any) -> str:
    return json_fingerprint({"semantics": SEMANTICS_VERSION, **definition.model_dump(mode="json", exclude=exclude)})
