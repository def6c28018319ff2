"""Feast's online store by its own documentation, in a process that reads commands and writes responses line by line.

``python online.py FOLDER SPEC ONLINE``: FOLDER/NAME.parquet has a view's precomputed features, for SPEC = [[name, keys,
features], ...]; ONLINE is the online store's configuration. A line {"materialize": null}, {"push": rows} or
{"read": [entity row, ...]} is answered by {"seconds", ...} as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType


def main() -> None:
    folder, spec, online = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    with tempfile.TemporaryDirectory() as repo:
        if online["type"] == "sqlite":
            online["path"] = f"{repo}/online.db"
        config = RepoConfig(
            project="benchmark", provider="local", registry=f"{repo}/registry.db", offline_store={"type": "file"},
            online_store=online, entity_key_serialization_version=3,
        )  # fmt: skip
        store = FeatureStore(config=config)
        names = _apply(store, folder, spec)
        for line in sys.stdin:
            ((what, of),) = json.loads(line).items()
            print("ANSWER " + json.dumps(_answer(store, folder, spec, names, what, of)), flush=True)


def _answer(store: FeatureStore, folder: Path, spec: list, names: list[str], what: str, of: Any) -> dict:
    if what == "read":
        began = time.perf_counter()
        response = store.get_online_features(features=names, entity_rows=of)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "values": response.to_dict() if len(of) > 100 else None}
    if what == "push":
        rows = pd.read_parquet(folder / f"{spec[0][0]}.parquet").head(of)
        began = time.perf_counter()
        store.write_to_online_store(spec[0][0], rows)
        return {"seconds": time.perf_counter() - began}
    began = time.perf_counter()
    store.materialize(datetime(2012, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC))
    return {"seconds": time.perf_counter() - began}


def _apply(store: FeatureStore, folder: Path, spec: list) -> list[str]:
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in {k for s in spec for k in s[1]}
    }
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in keys],
            ttl=timedelta(0),
            schema=[Field(name=feature, dtype=Float64) for feature in features],
            source=FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp"),
        )
        for name, keys, features in spec
    ]
    store.apply([*entities.values(), *views])
    return [f"{name}:{feature}" for name, _, features in spec for feature in features]


if __name__ == "__main__":
    main()
