"""Landing: sources become Iceberg tables, bad rows go to quarantine, no row is landed twice."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import ray
import ray.data
from ray.data.expressions import col

from cluster.contracts import Snapshot
from cluster.errors import DataError
from cluster.tables import Tables
from features.definitions import Column
from features.reader import arrow_type
from features.sources import REASON, Source, check, quarantined, unknown

QUARANTINE = "quarantine"


class Landed(NamedTuple):
    """What became of a source: its table, new and known rows, and why rows were put aside."""

    snapshot: Snapshot
    added: int
    present: int
    quarantined: dict[str, int]


def land(source: Source, tables: Tables, namespace: str) -> Landed:
    """Check, sort and append the rows of ``source`` that its table does not hold yet.

    Run again, it adds only what is new. Raises DataError for a missing column or an empty source.
    """
    table = f"{namespace}.{source.name}"
    present = _present_keys(source, tables, table)
    judged = _judge(source, present)
    bad = judged.filter(expr=col(REASON).is_not_null())
    good = judged.filter(expr=col(REASON).is_null()).drop_columns([REASON])
    added, reasons = good.count(), _quarantine(source, pl.DataFrame(_rows(bad, source)), tables, namespace)
    if added:
        snapshot = tables.write(table, good, schema_of(source.columns))
    elif (latest := tables.latest(table)) is not None:
        snapshot = latest
    else:
        why = "; ".join(f"{n} rows: {reason}" for reason, n in reasons.items()) or "it is empty"
        raise DataError(f"source {source.name!r} gave no usable row ({why})", "check what its read function returns")
    return Landed(snapshot, added, snapshot.rows - added, reasons)


def half_the_cpus() -> int:
    """How many blocks to work on at once: enough to use the cores, few enough not to start a worker process for each."""
    resources: dict[str, float] = ray.cluster_resources()
    return max(2, int(resources.get("CPU", 2)) // 2)


def schema_of(columns: tuple[Column, ...]) -> pa.Schema:
    """Arrow schema of declared columns."""
    return pa.schema([(c.name, arrow_type(c)) for c in columns])


def _judge(source: Source, present: ray.ObjectRef) -> ray.data.Dataset:
    """One checked Dataset; rows of one key meet in one block, so that repeats are seen."""

    def fresh(block: pa.Table) -> pa.Table:
        return unknown(source, pl.DataFrame(block), ray.get(present)).to_arrow()

    def judge(block: pa.Table) -> pa.Table:
        schema = schema_of(source.columns).append(pa.field(REASON, pa.string()))
        return check(source, pl.DataFrame(block)).select(schema.names).to_arrow().cast(schema)

    rows = source.read()
    names = rows.columns() or []
    if not names:
        raise DataError(f"source {source.name!r} is empty", "check what its read function returns")
    absent = [name for name in source.names if name not in names]
    if absent:
        raise DataError(f"source {source.name!r} lacks column {', '.join(absent)}", f"it has {', '.join(names)}")
    arguments: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    # Most rows of a later landing are known; the shuffle need not carry them.
    new = rows.select_columns(source.names).map_batches(fresh, **arguments)
    shuffled = new.repartition(half_the_cpus(), keys=list(source.key))
    judged: ray.data.Dataset = shuffled.map_batches(judge, **arguments).materialize()
    return judged


def _present_keys(source: Source, tables: Tables, table: str) -> ray.ObjectRef:
    empty = schema_of(tuple(c for c in source.columns if c.name in source.key)).empty_table()
    keys = tables.read(table, columns=source.key) if tables.exists(table) else empty
    return ray.put(pl.DataFrame(keys).select(source.key))


def _rows(dataset: ray.data.Dataset, source: Source) -> pa.Table:
    blocks = [b for b in ray.get(dataset.to_arrow_refs()) if b.num_rows]
    schema = schema_of(source.columns).append(pa.field(REASON, pa.string()))
    return pa.concat_tables([b.select(schema.names).cast(schema) for b in blocks]) if blocks else schema.empty_table()


def _quarantine(source: Source, bad: pl.DataFrame, tables: Tables, namespace: str) -> dict[str, int]:
    rows = quarantined(source, bad)
    name = f"{namespace}.{QUARANTINE}"
    new = rows
    if tables.exists(name):
        new = rows.join(pl.DataFrame(tables.read(name)), on=["source", "row"], how="anti")
    if new.height:
        text = pa.schema([("source", pa.string()), ("reason", pa.string()), ("row", pa.string())])
        tables.append(name, new.to_arrow().cast(text))
    return dict(Counter(rows.get_column("reason").to_list()))
