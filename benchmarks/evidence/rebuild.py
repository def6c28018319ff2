"""Frames rebuilt after corrections and late labels, as of the earlier times at which they were first built.

A source of orders lands once a day: new orders, labels of earlier ones, and corrections of amounts, customers, labels
and times. A frame is built at the end of each day. After the last day, each is built again from the table as it is
then, as of its own day, and compared by the hash of its Arrow IPC stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.results import Row, Target, row
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot, Task
from features.builders import category, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView, Latest
from features.offline.example_rows import CorrectionRows, build_examples
from features.offline.point_in_time import join
from features.sources.landing import check_block, decide
from features.sources.row_versions import KnownRows, fingerprint_columns
from features.sources.source import Examples, Source
from features.sources.stored_rows import (
    count_corrections,
    find_corrections,
    last_ingestion,
    read_rows,
    record_ingestion,
    stored_values,
)
from features.sources.validation import REASON, deduplicate
from features.types import INSTANT, KNOWN_FROM, KNOWN_UNTIL

DAYS, FEW_DAYS = 50, 8
ORDERS, CORRECTIONS = 300, 60
"""Of each day."""
CUSTOMERS = 300
MAX_DELAY_DAYS = 20
WORK = "frames rebuilt after corrections and late labels"
START = datetime(2026, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_TABLE = "bench.orders"
_TASK = Task(kind="binary", label="returned")

SOURCE = Source(
    name="orders",
    key=("id",),
    columns=(
        *category("id", "customer", "segment"),
        *number("amount", "returned"),
        *timestamp("ordered_at", "stored_at", "returned_known_at"),
    ),
    event_time="ordered_at",
    known_at="stored_at",
    read=lambda: None,  # type: ignore[arg-type, return-value]
)
_CUSTOMER = Entity(name="customer", keys=("customer",))
VIEWS = (
    FeatureView(
        name="orders",
        entity=_CUSTOMER,
        source="orders",
        event_time="ordered_at",
        known_at="stored_at",
        aggregates=(
            *rolling("amount", 7 * _DAY, "amount_7d", ops=("sum", "std", "min", "max", "distinct")),
            *rolling("segment", 30 * _DAY, "segment_30d", ops=("count", "distinct"), kind="category"),
        ),
        latest=(Latest(column="segment", name="last_segment", kind="category"),),
    ),
    FeatureView(
        name="returns",
        entity=_CUSTOMER,
        source="orders",
        event_time="ordered_at",
        known_at="returned_known_at",
        aggregates=rolling("returned", 14 * _DAY, "returned_14d"),
    ),
)
FEATURES = FeatureSet(name="orders", request=category("customer", "segment"), views=VIEWS)
EXAMPLES = Examples(
    source="orders", id="id", label=pl.col("returned"), label_known_at="returned_known_at", event_time="ordered_at"
)


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare each day's frame with the one that is rebuilt at the end, with and without the versions of rows."""
    outcome = measure(FEW_DAYS if small else DAYS, 0, progress)
    days, note = len(outcome.rebuilt), f"{outcome.corrections:,} corrections and late labels of {outcome.orders:,} rows"
    target = Target(of="value", sign="=", limit=days)
    yield row(
        WORK, f"frames of {days} with the same bits", float(outcome.same), peer="newest versions only",
        peer_value=float(outcome.same_of_newest), target=target, note=note,
    )  # fmt: skip


@dataclass
class Outcome:
    """The frames of each day: hashes of those built then, rebuilt, and rebuilt from the newest versions only."""

    corrections: int = 0
    orders: int = 0
    first: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    newest: list[str] = field(default_factory=list)

    @property
    def same(self) -> int:
        """Rebuilt frames with the bits of the first ones."""
        return sum(a == b for a, b in zip(self.first, self.rebuilt, strict=True))

    @property
    def same_of_newest(self) -> int:
        """The same for the newest versions only."""
        return sum(a == b for a, b in zip(self.first, self.newest, strict=True))


def measure(days: int, seed: int, progress: Callable[[str], None]) -> Outcome:
    """Land the days, build their frames, and build them again."""
    outcome, rng, current = Outcome(), np.random.default_rng(seed), _orders(np.random.default_rng(seed), 0)
    with TemporaryDirectory() as folder:
        tables = Tables(Settings(home=Path(folder)))
        for day in range(days):
            new = _orders(rng, day) if day else current
            changed = _changed(rng, current, day) if day else new.clear()
            current = pl.concat([current.join(changed, on="id", how="anti"), changed, *([new] if day else [])])
            snapshot = land(tables, pl.concat([new, changed]), _end(day))
            outcome.first.append(_hash(frame(tables, snapshot, _end(day))))
        progress(f"{days} days landed")
        outcome.corrections, outcome.orders = count_corrections(tables, snapshot), current.height
        for day in range(days):
            outcome.rebuilt.append(_hash(frame(tables, snapshot, _end(day))))
            outcome.newest.append(_hash(frame(tables, snapshot, _end(day), newest=True)))
    progress(f"{outcome.same} of {days} frames have the same bits; of the newest versions {outcome.same_of_newest}")
    return outcome


def land(tables: Tables, batch: pl.DataFrame, now: datetime) -> Snapshot:
    """Do what ingestion does, in this process."""
    before = tables.latest(_TABLE)
    known = KnownRows.build(SOURCE, stored_values(tables, before, fingerprint_columns(SOURCE)) if before else ())
    checked = deduplicate(SOURCE, check_block(SOURCE, batch, known))
    previous = last_ingestion(tables, _TABLE)
    versions, _ = decide(SOURCE, checked.filter(pl.col(REASON).is_not_null()), known, now, previous)
    columns = [*SOURCE.column_names, KNOWN_FROM]
    good = checked.filter(pl.col(REASON).is_null())
    new = pl.concat([part.select(columns) for part in (good, versions)]).to_arrow()
    record_ingestion(tables, _TABLE, new.schema, SOURCE.key, now)
    return tables.append(_TABLE, new)


def frame(tables: Tables, snapshot: Snapshot, until: datetime, newest: bool = False) -> pa.Table:
    """Build the frame of a snapshot as of a time; with ``newest``, as if its rows had always been as they are now."""
    rows = read_rows(tables, snapshot, SOURCE.column_names)
    corrections, _ = find_corrections(tables, snapshot)
    if corrections is None:
        examples = build_examples(rows, FEATURES, EXAMPLES, _TASK, until)
    elif newest:
        rows = rows.filter(pl.col(KNOWN_UNTIL).is_null()).drop(KNOWN_FROM, KNOWN_UNTIL)
        examples = build_examples(rows, FEATURES, EXAMPLES, _TASK, until).sort("as_of", "id")
    else:
        corrected = CorrectionRows(corrections.key, corrections.rows(SOURCE.column_names))
        examples = build_examples(rows.drop(KNOWN_UNTIL), FEATURES, EXAMPLES, _TASK, until, corrections=corrected)
    ordered = examples.sort("as_of", "id")
    return pl.concat([ordered, *(join(view, rows, ordered) for view in VIEWS)], how="horizontal").to_arrow()


def _orders(rng: np.random.Generator, day: int) -> pl.DataFrame:
    seconds = np.sort(rng.integers(0, 86_000, ORDERS))
    at = [START + day * _DAY + timedelta(seconds=int(second)) for second in seconds]
    return pl.DataFrame({
        "id": [f"{day}-{i}" for i in range(ORDERS)],
        "customer": rng.integers(0, CUSTOMERS, ORDERS).astype(str),
        "segment": rng.choice(["a", "b", "c"], ORDERS),
        "amount": rng.gamma(2, 20, ORDERS),
        "returned": pl.Series([None] * ORDERS, dtype=pl.Float64),
        "ordered_at": pl.Series(at, dtype=INSTANT),
        "stored_at": pl.Series([moment + timedelta(seconds=60) for moment in at], dtype=INSTANT),
        "returned_known_at": pl.Series([None] * ORDERS, dtype=INSTANT),
    })  # fmt: skip


def _changed(rng: np.random.Generator, orders: pl.DataFrame, day: int) -> pl.DataFrame:
    """Rows whose label becomes known on a day, and rows that are corrected: half of them with the time at which."""
    age = (pl.lit(START + day * _DAY) - pl.col("ordered_at")).dt.total_days()
    due = pl.Series(rng.integers(1, MAX_DELAY_DAYS, orders.height)) <= orders.select(age).to_series()
    known_at = pl.lit(_end(day) - timedelta(hours=2)).cast(INSTANT)
    labels = orders.filter(due & pl.col("returned").is_null()).with_columns(
        pl.lit(1.0).alias("returned"), known_at.alias("returned_known_at")
    )
    labels = labels.with_columns(pl.Series("returned", rng.integers(0, 2, labels.height), pl.Float64))
    others = orders.join(labels, on="id", how="anti")
    chosen = others[np.sort(rng.choice(others.height, min(CORRECTIONS, others.height), replace=False))]
    kind = pl.Series(rng.integers(0, 4, chosen.height))
    fixed = chosen.with_columns(
        pl.when(kind == 0).then(pl.col("amount") * 60).otherwise("amount").alias("amount"),
        pl.when(kind == 1).then(pl.lit("1")).otherwise("customer").alias("customer"),
        pl.when(kind == 2).then(1 - pl.col("returned")).otherwise("returned").alias("returned"),
        pl.when(kind == 3).then(pl.col("ordered_at") - _DAY).otherwise("ordered_at").alias("ordered_at"),
        pl.when(pl.Series(rng.random(chosen.height) < 0.5)).then(known_at).otherwise("stored_at").alias("stored_at"),
    )
    return pl.concat([labels, fixed])


def _end(day: int) -> datetime:
    return START + (day + 1) * _DAY


def _hash(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    plain = table.combine_chunks()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    return hashlib.sha256(sink.getvalue()).hexdigest()
