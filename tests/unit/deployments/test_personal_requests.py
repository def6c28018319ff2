"""What a request brings in clear is tokens before anything is computed, logged or said of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import SettingsError
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.inference.predictor import Scorer
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import Answer, predictions
from features.encoder import Encoder
from features.sources.pseudonyms import load_pseudonym_key
from tests.factories.deployments.bundles import FEATURES, Slope, write_bundle

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
PRIVATE = FEATURES.model_copy(
    update={
        "request": tuple(
            c.model_copy(update={"personal": "hash"}) if c.name == "carrier" else c for c in FEATURES.request
        )
    }
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "key").write_text("s" * 64)
    return Settings(home=tmp_path / "home", personal_key_file=str(tmp_path / "key"))


@pytest.fixture
def version(tmp_path: Path, settings: Settings) -> ModelVersion:
    words = {"carrier": (load_pseudonym_key(settings).token("AA"),)}
    encoder = Encoder(columns=PRIVATE.columns, vocabularies=words)
    bundle = write_bundle(tmp_path / "bundle", Slope(1.0), features=PRIVATE, encoder=encoder)
    return ModelVersion(model="trips", version="1", run_id="r", bundle_uri=bundle.as_uri())


def test_the_log_has_tokens_and_the_model_knows_them(version: ModelVersion, settings: Settings) -> None:
    scorer = Scorer(version, settings)
    names = load_pseudonym_key(settings)
    given = ["AA", "Anna Blume", None, names.token("AA")]
    rows = RequestRows(4, ([1.0] * 4, given, pa.array([NOON] * 4, TIMESTAMP)), ("distance", "carrier", "departs"))
    (scored,) = scorer.score([rows], 0)
    assert scored.frame is not None
    tokens = [names.token("AA"), names.token("Anna Blume"), None, names.token("AA")]
    assert scored.frame["carrier"].to_pylist() == tokens
    codes = scorer.manifest.encoder.encode(scored.frame)["codes"][:, 0]
    assert codes.tolist() == [2, 1, 0, 2]
    answer = Answer(
        requests=["r"], keys=["r"], forced=[False], sizes=[4], frame=scored.frame, task=scorer.manifest.task,
        champion_version="1", version="1", assigned="champion", variant="champion", at_us=0,
        champion_latency_ms=1.0, champion=np.asarray(scored.scores),
    )  # fmt: skip
    assert "Blume" not in str(predictions([answer], "b").to_pylist())


def test_a_replica_without_the_key_does_not_start(version: ModelVersion, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RAYLOOP_PERSONAL_KEY_FILE names no key"):
        Scorer(version, Settings(home=tmp_path / "home"))
