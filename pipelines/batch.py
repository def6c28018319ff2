"""Batch prediction: a table of requests in, the same table with scores out, by Ray Data."""

from __future__ import annotations

from pathlib import Path

import ray.data

from cluster.contracts import ModelVersion
from cluster.errors import DataError
from features.bundle import Manifest
from features.frame import feature_frame
from pipelines import stages
from pipelines.workspace import Workspace
from trainers.evaluate import predict


def score_parquet(workspace: Workspace, version: ModelVersion, table: str, out: str) -> None:
    """Score the Parquet file or folder ``table`` into the folder ``out``, with features as of each row's own time.

    Raises DataError when there is no such table, or a request column is missing; ``out`` is not touched then.
    """
    if not Path(table).exists():
        raise DataError(f"no table at {table}", "give a Parquet file or a folder of them")
    folder = workspace.registry.fetch(version)
    features = Manifest.load(folder).features
    rows = ray.data.read_parquet(table)
    missing = [c.name for c in features.request if c.name not in (rows.columns() or [])]
    if missing:
        raise DataError(
            f"{table} lacks the request columns {', '.join(missing)}", f"it has {', '.join(rows.columns() or [])}"
        )
    landed = stages.latest_snapshots(workspace)
    scored = predict(folder, feature_frame(features, rows, landed, workspace.settings))
    scored.write_parquet(out)
    workspace.progress(f"scored with {version}, written to {out}")
