"""Logged rows that are scored again give their logged scores, and swapped columns do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.inference.rescoring import RescoredRows, rescore
from deployments.telemetry.prediction_log import prediction_rows, to_ipc
from features.definitions import Column
from tests.factories.deployments.bundles import Slope, write_bundle
from tests.factories.deployments.predictions import prediction_batch
from tests.factories.deployments.tasks import FEATURES

SLOPES = {"1": 1.0, "2": 3.0}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelVersion]:
    folder = tmp_path_factory.mktemp("bundles")
    bundles = {number: write_bundle(folder / number, Slope(slope)) for number, slope in SLOPES.items()}
    other = FEATURES.model_copy(update={"request": (*FEATURES.request, Column(name="weight", kind="number"))})
    bundles["3"] = write_bundle(folder / "3", Slope(-9.0), features=other)
    return {
        number: ModelVersion(model="trips", version=number, run_id="r", bundle_uri=bundle.as_uri())
        for number, bundle in bundles.items()
    }


def logged(challenger_version: str = "2") -> pa.Table:
    distances = np.array([0.5, -1.0, 2.0])
    times = pa.array([0] * 3, pa.timestamp("us", "UTC"))
    columns = {"distance": distances, "carrier": ["AA", "UA", "AA"], "departs": times, "hour": [0.0] * 3}
    frame = pa.table(columns | {"as_of": times})
    scores = {number: 1.0 / (1.0 + np.exp(-slope * distances)) for number, slope in SLOPES.items()}
    batch = prediction_batch("q", 0.5, 0.5, rows=3, frame=frame, challenger_version=challenger_version)
    return prediction_rows([replace(batch, champion=scores["1"], challenger=scores["2"])], "b")


def rescored(rows: pa.Table, versions: dict[str, ModelVersion], *challengers: str, home: Path) -> RescoredRows:
    settings = Settings(home=home)
    return rescore(to_ipc(rows), versions["1"], [versions[number] for number in challengers], settings)


def test_rescored_rows_have_their_logged_scores(versions: dict[str, ModelVersion], tmp_path: Path) -> None:
    assert rescored(logged(), versions, "2", home=tmp_path) == (3, [])
    # The features of a challenger with other features are not logged.
    assert rescored(logged("3"), versions, "3", home=tmp_path) == (3, [])


def test_swapped_score_columns_differ(versions: dict[str, ModelVersion], tmp_path: Path) -> None:
    rows = logged()
    names = [{"champion_score": "challenger_score", "challenger_score": "champion_score"}.get(n, n)
             for n in rows.column_names]  # fmt: skip
    assert rescored(rows.rename_columns(names), versions, "2", home=tmp_path).differing == ["q/0", "q/1", "q/2"]
