"""Models that other tools trained are served by one command, with their own scores; a second one starts a canary."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import lightgbm
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import GateReport
from features.manifest import Manifest
from tests.factories.rayloop.command import rayloop
from tests.factories.trainers.foreign_models import data_frame, pipeline, table

pytestmark = pytest.mark.cluster


def predictions(settings: Settings, model: str, rows: pl.DataFrame) -> np.ndarray:
    body = {"instances": rows.to_dicts()}
    answer = httpx.post(f"{settings.endpoint}/v2/models/{model}/invocations", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["predictions"])


def test_pipeline_is_served_by_one_command_and_trees_are_its_canary(cluster: Settings, tmp_path: Path) -> None:
    from skops import io

    rows, labels = table()
    rows.with_columns(pl.Series("outcome", labels["binary"])).write_parquet(tmp_path / "rows.parquet")
    first = pipeline(LogisticRegression(), labels["binary"], rows)
    io.dump(first, tmp_path / "model.skops")
    rayloop(cluster, tmp_path, "import", "imported", "model.skops", "--rows", "rows.parquet", "--label", "outcome")
    registry = Registry(cluster)
    champion = registry.version_by_alias("imported", CHAMPION)
    assert champion is not None
    report = GateReport.from_stored(champion.tags["rayloop.gate"])
    parity = next(check for check in report.checks if "parity" in check.name)
    assert 0 < parity.value <= 1e-5
    origin = Manifest.load(registry.fetch(champion)).recipe["imported"]
    assert (origin["format"], origin["source"]) == ("scikit-learn", str(tmp_path / "model.skops"))
    expected = first.predict_proba(rows.to_pandas())[:, 1]
    assert np.abs(predictions(cluster, "imported", rows[:100]) - expected[:100]).max() < 1e-5

    trees = lightgbm.LGBMClassifier(n_estimators=12, verbose=-1).fit(data_frame(rows), labels["binary"])
    trees.booster_.save_model(tmp_path / "trees.txt")
    lines = rayloop(cluster, tmp_path, "import", "imported", "trees.txt")
    assert f"against v{champion.version} started" in lines
    challenger = registry.versions("imported")[-1]
    assert challenger.version != champion.version
    url = f"{cluster.endpoint}/v2/models/imported/versions/{challenger.version}/invocations"
    answer = httpx.post(url, json={"instances": rows[:100].to_dicts()}, timeout=30)
    assert answer.status_code == 200, answer.text
    forced = np.array(answer.json()["predictions"])
    assert np.abs(forced - trees.predict_proba(data_frame(rows))[:100, 1]).max() < 1e-5
    assert registry.version_by_alias("imported", CHAMPION) == champion

    rayloop(cluster, tmp_path, "abort", "imported", "--reason", "test")
    with pytest.raises(AssertionError, match=r"project\.retrain_imported"):
        rayloop(cluster, tmp_path, "retrain", "imported/project.py")
    request = json.loads((tmp_path / "imported" / "request.json").read_text())
    assert set(request["instances"][0]) == {"age", "city", "price"}
