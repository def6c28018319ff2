"""Feast by its own documentation: historical features from Parquet files, in its own process.

``python join.py FOLDER OUT COUNT STORE SPEC`` joins COUNT evenly sampled rows, and prints {"seconds", "peak_mib",
"rows"} as JSON. FOLDER contains the windows' precomputed features (``feast/NAME.parquet``): Feast looks values up, it
does not aggregate. STORE is the type of the offline store.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType

_GIB = 1 << 30
_LIMIT_GIB = 16


def main() -> None:
    folder, out, count, kind, spec = (
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        sys.argv[4],
        json.loads(sys.argv[5]),
    )
    if kind == "file":
        # Beyond this limit the machine would swap or kill processes; with it, Feast fails with an error. Not for Ray,
        # which reserves large address ranges.
        resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_GIB * _GIB, _LIMIT_GIB * _GIB))
    rows = pd.read_parquet(folder / "rows.parquet").reset_index(names="row")
    entities = rows.iloc[:: max(1, len(rows) // count)].head(count).rename(columns={"as_of": "event_timestamp"})
    with tempfile.TemporaryDirectory() as repo:
        store = _store(Path(repo), kind)
        names = _apply(store, folder, spec)
        began = time.perf_counter()
        features = store.get_historical_features(entity_df=entities, features=names).to_df()
        seconds = time.perf_counter() - began
    features.to_parquet(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "rows": len(features)}))


def _store(repo: Path, kind: str) -> FeatureStore:
    offline = {"type": kind} if kind == "file" else {"type": kind, "storage_path": str(repo / "data")}
    config = RepoConfig(
        project="benchmark", provider="local", registry=str(repo / "registry.db"), offline_store=offline,
        online_store={"type": "sqlite", "path": str(repo / "online.db")}, entity_key_serialization_version=3,
    )  # fmt: skip
    return FeatureStore(config=config)


def _apply(store: FeatureStore, folder: Path, spec: list[list]) -> list[str]:
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in {k for s in spec for k in s[1]}
    }
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in keys],
            ttl=timedelta(hours=hours),
            schema=[Field(name=f"{name}_{op}", dtype=Float64) for op in ("mean", "count")],
            source=FileSource(path=str(folder / "feast" / f"{name}.parquet"), timestamp_field="event_timestamp"),
        )
        for name, keys, _, _, hours in spec
    ]
    store.apply([*entities.values(), *views])
    return [f"{view.name}:{view.name}_{op}" for view in views for op in ("mean", "count")]


if __name__ == "__main__":
    main()
