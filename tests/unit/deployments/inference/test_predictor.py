"""Requests scored in one pass: each gets its own scores, a bad one fails alone, personal data never gets through."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster.errors import RequestError, SettingsError, StoreUnavailable
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.inference.predictor import Scorer
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import PredictionBatch, prediction_rows
from features.encoder import Encoder
from features.online.feature_reader import FeatureReader
from features.sources.pseudonyms import load_pseudonym_key
from tests.factories.deployments.bundles import Slope, write_bundle
from tests.factories.deployments.tasks import FEATURES

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Cliff(torch.nn.Module):
    """Gives NaN beyond a distance of 100."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = Slope(1.0)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.slope(numbers, codes)
        return torch.where(numbers[:, 0] > 100, torch.full_like(scores, float("nan")), scores)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("home")
    bundle: Path = write_bundle(folder / "bundle", Cliff())
    version = ModelVersion(model="trips", version="1", run_id="r", bundle_uri=bundle.as_uri())
    return Scorer(version, Settings(home=folder))


def request(*distances: float, departs: datetime | None = NOON) -> RequestRows:
    count = len(distances)
    values = (list(distances), ["AA"] * count, pa.array([departs] * count, TIMESTAMP))
    return RequestRows(count, values, ("distance", "carrier", "departs"))


def test_score_of_several_requests_equals_scoring_them_alone(scorer: Scorer) -> None:
    requests = [request(0.0), request(1.0, -1.0, 3.0), request(-2.0)]
    (together,) = asyncio.run(scorer.score(requests, 0))
    alone = [asyncio.run(scorer.score([r], 0))[0] for r in requests]
    assert together.failure is None
    assert together.sizes == (1, 3, 1)
    assert together.scores.tolist() == np.concatenate([one.scores for one in alone]).tolist()
    assert together.frame.equals(pa.concat_tables([one.frame for one in alone]))


def test_score_table_equals_score(scorer: Scorer) -> None:
    requests = [request(0.0), request(1.0, -1.0, 3.0), request(-2.0)]
    (by_table,) = asyncio.run(scorer.score_table(scorer.build_table(requests), [1, 3, 1], 0))
    assert by_table.scores.tolist() == asyncio.run(scorer.score(requests, 0))[0].scores.tolist()


@pytest.mark.parametrize(
    ("bad", "code", "fields"),
    [
        (request(1.0, 101.0), "request.score_not_finite", {"row": 1}),
        (request(1.0, departs=None), "request.time_missing", {"row": 0}),
        # Features are as of two hours before: in the year 0.
        (request(1.0, departs=datetime(1, 1, 1, tzinfo=UTC)), "request.time_out_of_range", {"time": "as_of of row 0"}),
    ],
)
def test_score_with_a_bad_request_fails_it_alone(scorer: Scorer, bad: RequestRows, code: str, fields: dict) -> None:
    first, middle, last = asyncio.run(scorer.score([request(1.0), bad, request(2.0)], 0))
    assert isinstance(middle.failure, RequestError)
    assert middle.failure.code == code
    assert middle.failure.fields == fields
    for good in (first, last):
        assert good.failure is None
        assert np.isfinite(good.scores).all()


def test_score_when_the_store_is_down_tries_once_and_gives_503(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def unavailable(self: FeatureReader, rows: pa.Table, now_us: int) -> pa.Table:
        calls.append(rows.num_rows)
        raise StoreUnavailable("store.timeout", address="redis.internal:6379", reason="timeout")

    monkeypatch.setattr(FeatureReader, "read", unavailable)
    batches = asyncio.run(scorer.score([request(0.0), request(1.0, 2.0)], 0))
    assert calls == [3]
    assert [one.sizes for one in batches] == [(1,), (2,)]
    for one in batches:
        assert isinstance(one.failure, RequestError)
        assert one.failure.code == "request.store_unavailable"
        assert (one.failure.status, one.failure.headers) == (503, {"retry-after": "2"})
        assert "redis.internal" not in str(one.failure)


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


def test_score_with_personal_data_replaces_it_by_tokens(version: ModelVersion, settings: Settings) -> None:
    scorer = Scorer(version, settings)
    names = load_pseudonym_key(settings)
    carriers = ["AA", "Anna Blume", None, names.token("AA")]
    rows = RequestRows(4, ([1.0] * 4, carriers, pa.array([NOON] * 4, TIMESTAMP)), ("distance", "carrier", "departs"))
    (scored,) = asyncio.run(scorer.score([rows], 0))
    assert scored.frame is not None
    tokens = [names.token("AA"), names.token("Anna Blume"), None, names.token("AA")]
    assert scored.frame["carrier"].to_pylist() == tokens
    codes = scorer.manifest.encoder.encode(scored.frame)["codes"][:, 0]
    assert codes.tolist() == [2, 1, 0, 2]
    answer = PredictionBatch(
        requests=["r"], keys=["r"], forced=[False], sizes=[4], frame=scored.frame, task=scorer.manifest.task,
        champion_version="1", version="1", assigned="champion", variant="champion", at_us=0,
        champion_latency_ms=1.0, champion=np.asarray(scored.scores),
    )  # fmt: skip
    assert "Blume" not in str(prediction_rows([answer], "b").to_pylist())


def test_scorer_without_the_key_of_personal_data_is_refused(version: ModelVersion, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        Scorer(version, Settings(home=tmp_path / "home"))
