"""The driver of a distributed join, which prints a digest of the joined blocks. ``ROWS`` is the number of events."""

from __future__ import annotations

import hashlib
import json
import os
import time

import polars as pl
import pyarrow as pa
import ray

from cluster.settings import load_settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.offline.distributed_join import point_in_time_join
from features.sources.stored_rows import stored_parts
from tests.factories.features.skewed_events import VIEWS, events, rows

TABLE, PARTS, BLOCKS = "hosts.events", 10, 8
KINDS = {pl.String: pa.string(), pl.Float64: pa.float64()}


def land(tables: Tables, count: int) -> Snapshot:
    """Append the events as so many data files, unless they are there."""
    history = events(count)
    schema = pa.schema([(n, KINDS.get(type(t), pa.timestamp("us", tz="UTC"))) for n, t in history.schema.items()])
    for number, part in enumerate(history.iter_slices(-(-count // PARTS))):
        snapshot = tables.append(TABLE, part.to_arrow().cast(schema), key=f"{count}:{number}")
    return snapshot


def main() -> None:
    ray.init(log_to_driver=False)
    count, tables = int(os.environ["ROWS"]), Tables(load_settings())
    snapshot, request = land(tables, count), rows(count // 20)
    print(json.dumps({"landed": count}), flush=True)
    blocks = [ray.put(part.to_arrow()) for part in request.iter_slices(-(-request.height // BLOCKS))]
    begin, digest = time.monotonic(), hashlib.sha256()
    # The number of tasks plans the partitions: it is the same whatever hosts there are.
    for block in point_in_time_join(VIEWS[1:], blocks, {"events": stored_parts(tables, snapshot)}, max_tasks=8):
        for column in ray.get(block).columns:
            digest.update(pl.Series(column).hash(seed=0).to_numpy().tobytes())
    seconds = time.monotonic() - begin
    hosts = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
    print(json.dumps({"digest": digest.hexdigest(), "seconds": seconds, "hosts": hosts}), flush=True)


if __name__ == "__main__":
    main()
