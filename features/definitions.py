"""What features are: entities, views, request-time features, feature sets. Values only.

A feature set is data: it serialises to JSON, is hashed by content, travels inside a model version,
and is executed from that JSON in training and in serving. A user's code is never needed to serve.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, Self

import polars as pl
from pydantic import field_validator, model_validator

from cluster.errors import ProjectError
from cluster.values import Frozen

Kind = Literal["number", "category", "timestamp", "tensor"]
Operation = Literal["count", "sum", "mean", "std", "min", "max", "distinct"]
PersonalDataRule = Literal["hash", "drop"]

SEMANTICS_VERSION = 2
"""Raised when equal definitions begin to mean something else; part of every content hash."""

_MICROSECOND = timedelta(microseconds=1)
_OF_ANY_KIND = ("count", "distinct")
_NOT_HASHED = {"name", "owner", "description"}


class Column(Frozen):
    """A named column of a request or of a feature frame.

    number: float64 or int64, null for missing; category: string, null for missing; timestamp:
    microseconds since the epoch, UTC; tensor: fixed-size list of float32, ``shape`` without the row.

    ``personal`` says what becomes of personal data before anything is stored or logged (features/sources/pseudonyms.py).
    """

    name: str
    kind: Kind
    shape: tuple[int, ...] = ()
    personal: PersonalDataRule | None = None

    @model_validator(mode="after")
    def _shape_goes_with_tensor(self) -> Self:
        if (self.kind == "tensor") != bool(self.shape):
            raise ProjectError(f"column {self.name!r}: a shape goes with kind 'tensor', and only with it")
        return self

    @model_validator(mode="after")
    def _what_is_hashed_is_text(self) -> Self:
        if self.personal == "hash" and self.kind != "category":
            raise ProjectError(
                f"column {self.name!r}: a hash stands for a category, not for a {self.kind}",
                "declare it a category, or drop it",
            )
        return self


class Entity(Frozen):
    """What features are keyed by: one or several columns, the same in source and request. Keys compare as text."""

    name: str
    keys: tuple[str, ...]

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise ProjectError(f"entity {self.name!r} needs one or several different keys", f"it has {self.keys}")
        return self


class Aggregate(Frozen):
    """A windowed aggregate over the values that became known in (t - window, t].

    Null, NaN and infinite values are missing: no aggregate sees them. -0.0 is 0.0.

    count, distinct     number of values, of different values; 0 of none; over categories too (``kind``)
    sum, mean           sum 0 of none, mean null
    std                 sample standard deviation (divisor n - 1); null below two values
    min, max            null of none

    ``resolution`` is the step to which values are rounded (round half to even) before sum, mean and std add them up.
    Sums are exact integer multiples of it, so that no order of addition, offline or online, changes a bit.
    """

    column: str
    op: Operation
    window: timedelta
    name: str
    resolution: float = 2.0**-16
    kind: Literal["number", "category"] = "number"

    @model_validator(mode="after")
    def _can_be_computed(self) -> Self:
        if self.window < _MICROSECOND:
            raise ProjectError(f"aggregate {self.name!r}: its window must be longer than nothing, not {self.window}")
        if not (math.isfinite(self.resolution) and self.resolution > 0):
            raise ProjectError(f"aggregate {self.name!r}: resolution must be a positive number, not {self.resolution}")
        if self.kind == "category" and self.op not in _OF_ANY_KIND:
            raise ProjectError(
                f"aggregate {self.name!r}: {self.op} is of numbers, and {self.column!r} is declared a category",
                f"categories have {' and '.join(_OF_ANY_KIND)}",
            )
        return self

    @property
    def window_us(self) -> int:
        return self.window // _MICROSECOND


class Latest(Frozen):
    """The newest known value of a column of the source; NaN is null, -0.0 is 0.0."""

    column: str
    name: str
    kind: Literal["number", "category"] = "number"


class Derived(Frozen):
    """A computed column: a Polars expression over columns of the same row, kept as JSON.

    Only built-in expressions are accepted; one that calls back into Python would have to be
    unpickled to be served.
    """

    name: str
    kind: Kind
    expression: str

    @field_validator("expression")
    @classmethod
    def _no_python_inside(cls, expression: str) -> str:
        if _calls_python(json.loads(expression)):
            raise ProjectError(
                "a derived feature calls a Python function",
                "use Polars expressions only (no map_elements, map_batches)",
            )
        return expression

    @cached_property
    def expr(self) -> pl.Expr:
        return _parsed(self.expression).alias(self.name)

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns that the expression reads."""
        # Not of ``expr``: definitions that keep one cannot be compared any more.
        return tuple(_parsed(self.expression).meta.root_names())


class FeatureView(Frozen):
    """Features of one entity from one source.

    A row of the source counts at time t when its event time and its known-at time are both <= t; with ``strict`` both
    are < t, which keeps a row that is an event itself out of its own features: windows are then [t - window, t).
    Known-at is the column ``known_at``, or, without one, the event time plus ``delay``.

    ``latest`` takes the row with the newest event time among those that count; of equals the one known last, of these
    the one with the largest ``ties`` (a number or timestamp column; missing is smallest), of these the one that stands
    last in the source. When that row is older than ``ttl``, event time <= t - ttl (< with ``strict``), there is none.

    ``derived`` are columns computed from the source's own, row by row; ``aggregates``, ``latest`` and ``ties`` may name
    them. ``owner`` and ``description`` are for people, and no part of the content hash.
    """

    name: str
    entity: Entity
    source: str
    event_time: str
    known_at: str = ""
    delay: timedelta = timedelta(0)
    derived: tuple[Derived, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    latest: tuple[Latest, ...] = ()
    ttl: timedelta | None = None
    strict: bool = False
    ties: str = ""
    owner: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _has_features(self) -> Self:
        if not self.aggregates and not self.latest:
            raise ProjectError(f"feature view {self.name!r} declares no aggregates and no latest columns")
        return self

    @model_validator(mode="after")
    def _derives_a_name_once(self) -> Self:
        if repeated := duplicates(d.name for d in self.derived):
            raise ProjectError(f"feature view {self.name!r} derives {', '.join(repeated)} more than once")
        return self

    @model_validator(mode="after")
    def _times_make_sense(self) -> Self:
        if self.known_at and self.delay:
            raise ProjectError(
                f"feature view {self.name!r} declares both a known-at column and a delay",
                "a delay stands in for the column: leave one of them out",
            )
        if self.delay < timedelta(0) or (self.ttl is not None and self.ttl < _MICROSECOND):
            raise ProjectError(f"feature view {self.name!r}: delay must not be negative, nor ttl nothing or less")
        return self

    @model_validator(mode="after")
    def _one_reading_of_a_column(self) -> Self:
        for column in {a.column for a in self.aggregates}:
            readings = {(a.resolution, a.kind) for a in self.aggregates if a.column == column}
            if len(readings) > 1:
                raise ProjectError(
                    f"feature view {self.name!r} reads {column!r} in several resolutions or kinds: {sorted(readings)}",
                    "give all aggregates of a column the same, or put them into views of their own",
                )
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features this view gives, in order."""
        aggregates = tuple(Column(name=a.name, kind="number") for a in self.aggregates)
        return aggregates + tuple(Column(name=f.name, kind=f.kind) for f in self.latest)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Columns of the source that this view reads, without repeats."""
        made = {d.name for d in self.derived}
        used = [*(a.column for a in self.aggregates), *(f.column for f in self.latest), self.ties]
        wanted = [*self.entity.keys, self.event_time, self.known_at]
        wanted += [name for name in used if name not in made] + [name for d in self.derived for name in d.input_columns]
        return tuple(name for name in dict.fromkeys(wanted) if name)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the definition; the online store keeps state under it, so versions never mix."""
        return _digest(self, _NOT_HASHED)

    @property
    def max_window_us(self) -> int:
        return max((a.window_us for a in self.aggregates), default=0)

    @property
    def delay_us(self) -> int:
        return self.delay // _MICROSECOND

    @property
    def ttl_us(self) -> int | None:
        return None if self.ttl is None else self.ttl // _MICROSECOND


class FeatureSet(Frozen):
    """The ordered features one model uses, and the request columns they need.

    ``as_of`` computes from the request the time at which features are looked up; without it, that
    is the server's clock (serving) and ``event_time`` of the example (training).
    ``features`` orders the model's inputs; empty means every number, category and tensor of the
    request, then derived, then view columns.
    """

    name: str
    request: tuple[Column, ...]
    derived: tuple[Derived, ...] = ()
    views: tuple[FeatureView, ...] = ()
    as_of: Derived | None = None
    features: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_resolve(self) -> Self:
        names = [c.name for c in self.available_columns]
        views = [f"view {view.name}" for view in self.views]
        if repeated := duplicates(names) or duplicates(self.features) or duplicates(views):
            raise ProjectError(f"feature set {self.name!r} names {', '.join(repeated)} more than once")
        unknown = [name for name in self.features if name not in names]
        if unknown:
            raise ProjectError(f"feature set {self.name!r} lists {', '.join(unknown)}, which nothing declares")
        return self

    @model_validator(mode="after")
    def _what_is_derived_is_asked_for(self) -> Self:
        given = {c.name for c in self.request}
        for derived in (*self.derived, *([self.as_of] if self.as_of else [])):
            if unknown := sorted({*derived.input_columns} - given):
                raise ProjectError(
                    f"derived feature {derived.name!r} reads {', '.join(unknown)}, which is no request column",
                    f"add it to the request columns of feature set {self.name!r}, or write it out in the expression",
                )
        if self.as_of and self.as_of.kind != "timestamp":
            raise ProjectError(f"as_of of feature set {self.name!r} is a {self.as_of.kind}, and should be a timestamp")
        return self

    @model_validator(mode="after")
    def _keys_are_asked_for(self) -> Self:
        kinds = {c.name: c.kind for c in self.request}
        for view in self.views:
            for key in view.entity.keys:
                if key not in kinds:
                    raise ProjectError(
                        f"feature view {view.name!r} is keyed by {key}, which is no request column",
                        f"add it to the request columns of feature set {self.name!r}",
                    )
                if kinds[key] != "category":
                    raise ProjectError(
                        f"feature view {view.name!r} is keyed by {key}, which is declared a {kinds[key]}",
                        "declare it a category: keys compare as text",
                    )
        return self

    @cached_property
    def available_columns(self) -> tuple[Column, ...]:
        """Every column a model could use, request columns first."""
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
        """SHA-256 of the definition: equal features, equal hash, whatever they are called together."""
        return _digest(self, {"name": True, "views": {"__all__": _NOT_HASHED - {"name"}}})


def _parsed(expression: str) -> pl.Expr:
    return pl.Expr.deserialize(io.StringIO(expression), format="json")


def duplicates(names: Iterable[str]) -> list[str]:
    """Names that come more than once."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def _digest(definition: Frozen, left_out: Any) -> str:
    body = {"semantics": SEMANTICS_VERSION, **definition.model_dump(mode="json", exclude=left_out)}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _calls_python(node: object) -> bool:
    if isinstance(node, dict):
        return any("Anonymous" in key or "Python" in key or _calls_python(child) for key, child in node.items())
    return isinstance(node, list) and any(_calls_python(child) for child in node)
