"""What features are: entities, views, request-time features, feature sets. Values only.

A feature set is data: it serialises to JSON, is hashed by content, travels inside a model version,
and is executed from that JSON in training and in serving. A user's code is never needed to serve.
"""

from __future__ import annotations

import hashlib
import io
import json
from datetime import timedelta
from functools import cached_property
from typing import Literal, Self

import polars as pl
from pydantic import field_validator, model_validator

from cluster.contracts import Frozen
from cluster.errors import ProjectError

Kind = Literal["number", "category", "timestamp", "tensor"]
Operation = Literal["count", "sum", "mean"]

_MICROSECOND = timedelta(microseconds=1)


class Column(Frozen):
    """A named column of a request or of a feature frame.

    number: float64 or int64, null for missing; category: string, null for missing; timestamp:
    microseconds since the epoch, UTC; tensor: fixed-size list of float32, ``shape`` without the row.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _shape_goes_with_tensor(self) -> Self:
        if (self.kind == "tensor") != bool(self.shape):
            raise ProjectError(f"column {self.name!r}: a shape goes with kind 'tensor', and only with it")
        return self


class Entity(Frozen):
    """What features are keyed by: one or several columns, the same in source and request."""

    name: str
    keys: tuple[str, ...]


class Aggregate(Frozen):
    """A windowed aggregate over what became known in (t - window, t].

    ``resolution`` is the step to which values are rounded (round half to even) before they are added up. Sums are
    exact integer multiples of it, so that no order of addition, offline or online, changes a bit.
    """

    column: str
    op: Operation
    window: timedelta
    name: str
    resolution: float = 2.0**-16

    @property
    def window_us(self) -> int:
        return self.window // _MICROSECOND


class Latest(Frozen):
    """The newest known value of a column of the source."""

    column: str
    name: str
    kind: Literal["number", "category"] = "number"


class FeatureView(Frozen):
    """Features of one entity from one source.

    A row of the source counts from ``known_at`` on. ``latest`` takes the row with the newest event
    time among those known; rows older than ``ttl`` (by event time) are missing values.
    """

    name: str
    entity: Entity
    source: str
    event_time: str
    known_at: str
    aggregates: tuple[Aggregate, ...] = ()
    latest: tuple[Latest, ...] = ()
    ttl: timedelta | None = None

    @model_validator(mode="after")
    def _has_features(self) -> Self:
        if not self.aggregates and not self.latest:
            raise ProjectError(f"feature view {self.name!r} declares no aggregates and no latest columns")
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features this view gives, in order."""
        aggregates = tuple(Column(name=a.name, kind="number") for a in self.aggregates)
        return aggregates + tuple(Column(name=f.name, kind=f.kind) for f in self.latest)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Columns of the source that this view reads, without repeats."""
        wanted = [*self.entity.keys, self.event_time, self.known_at]
        wanted += [a.column for a in self.aggregates] + [f.column for f in self.latest]
        return tuple(dict.fromkeys(wanted))

    @property
    def content_hash(self) -> str:
        """SHA-256 of the definition; the online store keeps state under it, so versions never mix."""
        return _digest(self)

    @property
    def max_window_us(self) -> int:
        return max((a.window_us for a in self.aggregates), default=0)


class Derived(Frozen):
    """A request-time feature: a Polars expression over request columns, kept as JSON.

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
        return pl.Expr.deserialize(io.StringIO(self.expression), format="json").alias(self.name)


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
        names = [c.name for c in self.available]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ProjectError(f"feature set {self.name!r} names {', '.join(repeated)} more than once")
        unknown = [name for name in self.features if name not in names]
        if unknown:
            raise ProjectError(f"feature set {self.name!r} lists {', '.join(unknown)}, which nothing declares")
        known_keys = {c.name for c in self.request}
        for view in self.views:
            missing = [key for key in view.entity.keys if key not in known_keys]
            if missing:
                raise ProjectError(
                    f"feature view {view.name!r} is keyed by {', '.join(missing)}, which is no request column",
                    f"add it to the request columns of feature set {self.name!r}",
                )
        return self

    @cached_property
    def available(self) -> tuple[Column, ...]:
        """Every column a model could use, request columns first."""
        derived = tuple(Column(name=d.name, kind=d.kind) for d in self.derived)
        return self.request + derived + tuple(c for view in self.views for c in view.columns)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The model's input columns, in order."""
        by_name = {c.name: c for c in self.available}
        if self.features:
            return tuple(by_name[name] for name in self.features)
        return tuple(c for c in self.available if c.kind != "timestamp")

    @property
    def content_hash(self) -> str:
        """SHA-256 of the definition: equal features, equal hash, whatever they are called together."""
        return _digest(self)


def _digest(definition: Frozen) -> str:
    body = definition.model_dump(mode="json", exclude={"name"})
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _calls_python(node: object) -> bool:
    if isinstance(node, dict):
        return any("Anonymous" in key or "Python" in key or _calls_python(child) for key, child in node.items())
    return isinstance(node, list) and any(_calls_python(child) for child in node)
