"""Rows of flights from the whole year: features pushed in time order and read as of each row equal the join's."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from examples.flights.data import flights_frame, weather_frame
from examples.flights.features import features
from features.definitions import Aggregate, Entity, FeatureSet, FeatureView, Latest, Operation
from features.derived_columns import request_features
from features.events.event_history import KNOWN_AT, build_history
from features.offline import point_in_time
from features.online.feature_reader import FeatureReader
from features.online.materialize import materialize_history
from features.types import AS_OF, arrow_type
from tests.factories.features.stores import MemoryStore

DAY_US = 24 * 3600 * 1_000_000
STEP_US = 5 * DAY_US // 6
OPS: tuple[Operation, ...] = ("count", "sum", "mean", "std", "min", "max", "distinct")


def everything(name: str, keys: tuple[str, ...], when: str, column: str, **rest) -> FeatureView:
    """All that a view can give."""
    return FeatureView(
        name=name,
        entity=Entity(name=name, keys=keys),
        source="flights",
        event_time=when,
        aggregates=(
            *(Aggregate(column=column, op=op, window=timedelta(hours=26), name=f"{name}_{op}") for op in OPS),
            Aggregate(column="dest", op="distinct", window=timedelta(hours=9), name=f"{name}_dests", kind="category"),
        ),
        latest=(Latest(column=column, name=f"{name}_last"), Latest(column="dest", name=f"{name}_to", kind="category")),
        **rest,
    )


MORE = (
    everything("by_tail", ("tailnum",), "departed_at", "dep_delay", ttl=timedelta(days=3), strict=True),
    everything("by_carrier", ("carrier", "origin"), "scheduled_at", "arr_delay", known_at="landed_at"),
)


@pytest.fixture(scope="module")
def sources() -> dict[str, pl.DataFrame]:
    return {"flights": flights_frame(), "weather": weather_frame()}


def online(
    feature_set: FeatureSet, sources: dict[str, pl.DataFrame], request: pl.DataFrame, times: pl.Series
) -> pl.DataFrame:
    """Steps of time: first the events known by a step's end are pushed, then its rows are read, each as of its time."""
    store = MemoryStore()
    known = {
        view.name: build_history(view, sources[view.source]).sort(KNOWN_AT, maintain_order=True)
        for view in feature_set.views
    }
    reader = FeatureReader(feature_set, store)
    order = times.arg_sort()
    instants = times.gather(order).to_numpy()
    parts = []
    for start in range(int(instants[0]), int(instants[-1]) + 1, STEP_US):
        low, high = np.searchsorted(instants, [start, start + STEP_US])
        for view in feature_set.views:
            events, until = known[view.name], start + STEP_US - 1
            upto = int(events.get_column(KNOWN_AT).search_sorted(until, side="right"))
            materialize_history(store, view, events.head(upto), until)
            known[view.name] = events.slice(upto)
        if high > low:
            parts.append(reader.read(request[order.slice(low, high - low)].to_arrow().cast(schema(feature_set)), 0))
    return pl.DataFrame(pa.concat_tables(parts)).with_columns(order.alias("place")).sort("place")


def schema(feature_set: FeatureSet) -> pa.Schema:
    return pa.schema([(column.name, arrow_type(column)) for column in feature_set.request])


@pytest.mark.long
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_online_features_of_flights_equal_the_join(sources: dict[str, pl.DataFrame], every: int) -> None:
    sources = sources | {"flights": sources["flights"].gather_every(every)}
    feature_set = features.model_copy(update={"views": (*features.views, *MORE)})
    feature_set = FeatureSet.model_validate(
        feature_set.model_dump(include={"name", "request", "derived", "as_of", "views"})
    )
    request = sources["flights"].select(c.name for c in feature_set.request)
    rows = request_features(feature_set, request)
    actual = online(feature_set, sources, request, rows.get_column(AS_OF).to_physical())
    assert actual.height == sources["flights"].height
    for view in feature_set.views:
        expected = point_in_time.join(view, sources[view.source], rows)
        for name in expected.columns:
            one, other = actual.get_column(name), expected.get_column(name)
            differing = one.ne_missing(other).sum()
            assert not differing, f"{view.name}.{name}: {differing} rows"
            if one.dtype == pl.Float64:
                assert one.reinterpret(signed=False).equals(other.reinterpret(signed=False), null_equal=True), name


CUTS = (0.1, 0.8)


@pytest.mark.long
@pytest.mark.parametrize("share", CUTS)
def test_join_of_flights_ignores_later_events(sources: dict[str, pl.DataFrame], share: float) -> None:
    """All that is known after a moment is exchanged among its rows: nothing changes for the rows before it."""
    rows = request_features(features, sources["flights"].select(c.name for c in features.request))
    cut = int(rows.get_column(AS_OF).to_physical().quantile(share, "nearest"))
    early_rows = rows.filter(pl.col(AS_OF).to_physical() <= cut)
    for view in (*features.views, *MORE):
        events = sources[view.source].with_row_index("place")
        late = pl.max_horizontal(view.event_time, view.known_at or view.event_time).to_physical() > cut
        later = events.filter(late)
        fixed = {"place", view.event_time, view.known_at or view.event_time}
        exchanged = later.with_columns(pl.exclude(fixed).shuffle(seed=1))
        other = pl.concat([events.filter(~late.fill_null(False)), exchanged]).sort("place").drop("place")
        assert not exchanged.equals(later)
        assert point_in_time.join(view, other, early_rows).equals(
            point_in_time.join(view, events, early_rows), null_equal=True
        ), view.name
