"""Requests scored in one pass: each gets its own scores, and a bad one fails alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster.errors import RequestError, StoreUnavailable
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.inference.predictor import Scorer
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.protocol.request_rows import RequestRows
from tests.factories.deployments.bundles import Slope, write_bundle

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Cliff(torch.nn.Module):
    """No number at all beyond a distance of 100."""

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


def test_each_request_gets_its_own_rows(scorer: Scorer) -> None:
    requests = [request(0.0), request(1.0, -1.0, 3.0), request(-2.0)]
    (together,) = scorer.score(requests, 0)
    alone = [scorer.score([r], 0)[0] for r in requests]
    assert together.failure is None
    assert together.sizes == (1, 3, 1)
    assert together.scores.tolist() == np.concatenate([one.scores for one in alone]).tolist()
    assert together.frame.equals(pa.concat_tables([one.frame for one in alone]))


def test_rows_that_came_in_a_table_score_the_same(scorer: Scorer) -> None:
    requests = [request(0.0), request(1.0, -1.0, 3.0), request(-2.0)]
    (by_table,) = scorer.score_table(scorer.table(requests), [1, 3, 1], 0)
    assert by_table.scores.tolist() == scorer.score(requests, 0)[0].scores.tolist()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request(1.0, 101.0), "no finite score for row 1"),
        (request(1.0, departs=None), "row 0"),
        # Features are looked up as of two hours before: in the year 0.
        (request(1.0, departs=datetime(1, 1, 1, tzinfo=UTC)), "row 0: as_of lies outside of the years 1 to 9999"),
    ],
)
def test_a_bad_request_fails_alone(scorer: Scorer, bad: RequestRows, message: str) -> None:
    first, middle, last = scorer.score([request(1.0), bad, request(2.0)], 0)
    assert isinstance(middle.failure, RequestError)
    assert message in str(middle.failure)
    for good in (first, last):
        assert good.failure is None
        assert np.isfinite(good.scores).all()


def test_a_store_that_does_not_answer_is_asked_once_and_callers_are_told_to_come_again(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def away(rows: pa.Table, now_us: int) -> pa.Table:
        calls.append(rows.num_rows)
        raise StoreUnavailable("the online store at redis.internal:6379 does not answer")

    monkeypatch.setattr(scorer._reader, "frame", away)
    found = scorer.score([request(0.0), request(1.0, 2.0)], 0)
    assert calls == [3]
    assert [one.sizes for one in found] == [(1,), (2,)]
    for one in found:
        assert isinstance(one.failure, RequestError)
        assert (one.failure.status, one.failure.headers) == (503, {"retry-after": "2"})
        assert "redis.internal" not in str(one.failure)
