"""From request columns to the feature frame a model eats: request, derived and looked-up features."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from features.definitions import Column, FeatureSet, FeatureView
from features.materialize import state_key, state_prefix
from features.online import OnlineStore
from features.pit import AS_OF, INSTANT
from features.state import Layout

_POLARS_TYPE: dict[str, pl.DataType] = {"number": pl.Float64(), "category": pl.String(), "timestamp": INSTANT}
_ARROW_TYPE: dict[str, pa.DataType] = {
    "number": pa.float64(),
    "category": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_type(column: Column) -> pa.DataType:
    """Type of a request or feature column on the wire and in tables."""
    return pa.list_(pa.float32()) if column.kind == "tensor" else _ARROW_TYPE[column.kind]


def request_features(features: FeatureSet, request: pl.DataFrame, now_us: int | None = None) -> pl.DataFrame:
    """Request columns in their declared types, derived features, and ``as_of``.

    The one place where a request-time feature is computed, in training as in serving. Without an ``as_of``
    of the feature set, a request column of that name dates the rows, or else ``now_us``.
    """
    return request.select(_request_expressions(features, AS_OF in request.columns, now_us))


def _request_expressions(features: FeatureSet, dated: bool, now_us: int | None) -> list[pl.Expr]:
    columns, computed = [_cast(column) for column in features.request], _computed(features)
    if features.as_of is None:
        computed.append((pl.col(AS_OF) if dated else pl.lit(now_us)).cast(INSTANT).alias(AS_OF))
    return columns + computed


def _computed(features: FeatureSet) -> list[pl.Expr]:
    """What is computed from request columns: derived features, and ``as_of`` where it is declared."""
    derived = [d.expr.cast(_POLARS_TYPE[d.kind]) for d in features.derived]
    return derived if features.as_of is None else [*derived, features.as_of.expr.cast(INSTANT).alias(AS_OF)]


def _cast(column: Column) -> pl.Expr:
    if column.kind == "tensor":
        return pl.col(column.name)
    return pl.col(column.name).cast(_POLARS_TYPE[column.kind])


class FeatureReader:
    """Looks up point-in-time features online, with one multi-get a request."""

    def __init__(self, features: FeatureSet, store: OnlineStore) -> None:
        self._features = features
        self._store = store
        self._views = [_View(view) for view in features.views]
        # Building expressions costs more than running them on one row.
        self._computed = _computed(features)
        self._read = sorted({name for expr in self._computed for name in expr.meta.root_names()})
        clock = Column(name=AS_OF, kind="timestamp")
        self._types = {c.name: arrow_type(c) for c in (*features.available, clock)}
        self._schema = pa.schema(list(self._types.items()))

    def frame(self, request: pa.Table, now_us: int) -> pa.Table:
        """Every column of ``features.available`` and ``as_of``, one row for each row of ``request``.

        ``now_us`` is the server's clock, microseconds since the epoch; it stands in for a feature
        set's ``as_of`` when that declares none.
        """
        columns = {c.name: self._typed(c.name, request.column(c.name)) for c in self._features.request}
        if self._computed:
            made = pl.DataFrame(request.select(self._read)).select(self._computed)
            columns |= {name: self._typed(name, made.get_column(name).to_arrow()) for name in made.columns}
        if AS_OF not in columns:
            columns[AS_OF] = pa.array([now_us] * request.num_rows, self._types[AS_OF])
        columns |= self._look_up(columns)
        return pa.Table.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)

    def _typed(self, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        kind = self._types[name]
        return values if values.type == kind else values.cast(kind)

    def _look_up(self, rows: dict[str, pa.Array | pa.ChunkedArray]) -> dict[str, pa.Array]:
        if not self._views:
            return {}
        as_of = rows[AS_OF].cast(pa.int64()).to_pylist()
        cells = {name: rows[name].to_pylist() for name in {k for v in self._views for k in v.entity_keys}}
        wanted = [view.keys(cells) for view in self._views]
        states = iter(self._store.get_many([key for keys in wanted for key in keys if key is not None]))
        columns: dict[str, pa.Array] = {}
        for view, keys in zip(self._views, wanted, strict=True):
            found = [next(states) if key is not None else None for key in keys]
            columns |= view.columns(keys, found, as_of)
        return columns


class _View:
    """One view, with what a look-up needs worked out beforehand."""

    def __init__(self, view: FeatureView) -> None:
        self.entity_keys = view.entity.keys
        self._columns = [(c.name, _ARROW_TYPE[c.kind]) for c in view.columns]
        self._prefix = state_prefix(view)
        self._layout = Layout(view)

    def keys(self, cells: dict[str, list[str | None]]) -> list[bytes | None]:
        rows = zip(*(cells[key] for key in self.entity_keys), strict=True)
        return [None if None in values else state_key(self._prefix, values) for values in rows]

    def columns(
        self, keys: list[bytes | None], found: list[bytes | None], as_of: list[int | None]
    ) -> dict[str, pa.Array]:
        values = [self._row(key, data, at) for key, data, at in zip(keys, found, as_of, strict=True)]
        by_column = zip(*values, strict=True) if values else [[] for _ in self._columns]
        return {name: pa.array(list(cells), kind) for (name, kind), cells in zip(self._columns, by_column, strict=True)}

    def _row(self, key: bytes | None, data: bytes | None, at: int | None) -> list[float | str | None]:
        if key is None or at is None:
            return [None] * len(self._columns)
        return self._layout.read(self._layout.unpack(data) if data else None, at)
