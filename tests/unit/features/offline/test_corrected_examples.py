"""Examples among corrected rows: what was known, by a naive reference that looks at each row's versions one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.values import Task
from features.builders import category, number
from features.definitions import FeatureSet
from features.offline.example_rows import CorrectionRows, build_examples
from features.sources.source import Examples
from features.types import INSTANT, KNOWN_FROM
from tests.factories.effort import examples as effort

START = datetime(2024, 1, 1, tzinfo=UTC)
EXAMPLES = Examples(
    source="orders", id="id", label=pl.col("late"), label_known_at="delivered_at", event_time="ordered_at"
)
FEATURES = FeatureSet(name="set", request=(*category("shop"), *number("price")))
TASK = Task(kind="binary", label="late")
SCHEMA = {
    "id": pl.String, "shop": pl.String, "price": pl.Float64, "late": pl.Float64, "ordered_at": INSTANT,
    "delivered_at": INSTANT, KNOWN_FROM: INSTANT,
}  # fmt: skip

hours = st.integers(0, 12)
values = st.tuples(
    st.sampled_from(["x", "y"]), st.sampled_from([1.0, 2.0]), st.sampled_from([None, 0.0, 1.0]), hours,
    st.one_of(st.none(), hours),
)  # fmt: skip


def at(hour: int | None) -> datetime | None:
    return None if hour is None else START + timedelta(hours=hour)


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """A few rows with up to four versions each, in the order in which they landed."""
    landed = []
    for key in range(draw(st.integers(1, 4))):
        known = [None, *sorted(draw(st.sets(st.integers(1, 14), max_size=3)))]
        for since in known:
            shop, price, late, ordered, delivered = draw(values)
            landed.append((since or 0, (str(key), shop, price, late, at(ordered), at(delivered), at(since))))
    rows = [row for _, row in sorted(landed, key=lambda pair: pair[0])]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def naive(table: pl.DataFrame, until: datetime | None) -> list[tuple]:
    """Id, time, request, label and when it was known: of each row, looking at one version after the other."""
    examples = []
    for (key,), of_key in table.group_by("id", maintain_order=True):
        versions = list(of_key.iter_rows(named=True))
        request = versions[0]
        label: tuple | None = None
        for version in versions:
            since = version[KNOWN_FROM]
            is_known = since is None or until is None or since <= until
            if is_known and (since is None or since <= version["ordered_at"]):
                request = version
            is_label = version["late"] is not None and version["delivered_at"] is not None
            moments = [moment for moment in (version["delivered_at"] if is_label else None, since) if moment]
            known = max(moments) if moments else None
            if known is None or until is None or known <= until:
                label = (version["late"], known) if is_label else None
        if label:
            examples.append((key, request["ordered_at"], request["shop"], request["price"], *label))
    return examples


def engine(table: pl.DataFrame, until: datetime | None) -> list[tuple]:
    corrections = CorrectionRows(("id",), table.filter(pl.col(KNOWN_FROM).is_not_null()))
    built = build_examples(table, FEATURES, EXAMPLES, TASK, until, corrections=corrections)
    return built.select("id", "as_of", "shop", "price", "label", "label_known_at").rows()


@given(tables(), st.one_of(st.none(), hours))
@settings(max_examples=effort(1000))
def test_examples_of_versions_are_the_naive_ones(table: pl.DataFrame, hour: int | None) -> None:
    assert engine(table, at(hour)) == naive(table, at(hour))


@given(tables(), hours)
@settings(max_examples=effort(500))
def test_examples_as_of_a_time_ignore_what_lands_later(table: pl.DataFrame, hour: int) -> None:
    instant = at(hour)
    then = table.filter(pl.col(KNOWN_FROM).is_null() | (pl.col(KNOWN_FROM) <= instant))
    assert engine(table, instant) == engine(then, instant)


def test_late_label_is_an_example_from_when_it_lands() -> None:
    late = [("0", "x", 1.0, None, at(0), None, None), ("0", "x", 1.0, 1.0, at(0), at(5), at(8))]
    table = pl.DataFrame(late, schema=SCHEMA, orient="row")
    assert engine(table, at(7)) == []
    assert engine(table, at(8)) == [("0", at(0), "x", 1.0, 1.0, at(8))]
