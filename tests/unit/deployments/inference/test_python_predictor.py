"""A replica calls a Python model over a real socket: it fails, hangs or is lost without harm to other requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.serve

from cluster.errors import RayloopError
from cluster.settings import Settings
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.challenger_server import ChallengerServer
from deployments.inference.predictor import ScoredBatch, Scorer
from deployments.inference.rescoring import rescore
from deployments.protocol.request_rows import RequestRows
from features.python_models.host import PythonHost
from tests.factories.deployments.python_bundles import python_version, restored_imports, write_python_bundle

NODE = "node"
Model = Callable[[ScoreRequest], Awaitable[list[ScoreResult]]]


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    with restored_imports():
        yield


def request(*distances: float) -> RequestRows:
    count = len(distances)
    times = pa.array([1_700_000_000_000_000] * count, pa.timestamp("us", "UTC"))
    return RequestRows(count, (list(distances), ["AA"] * count, times), ("distance", "carrier", "departs"))


class Deployment:
    """What stands behind Serve's handle: a server, and a count of the calls and their rows."""

    def __init__(self, bundle: Path) -> None:
        self._host = PythonHost(bundle)
        self.calls = 0

    async def score(self, call: ScoreRequest) -> list[ScoreResult]:
        self.calls += 1
        try:
            return [ScoreResult("", self._host.predict(call.rows), 1.0, None)]
        except RayloopError as error:
            return [ScoreResult("", None, None, str(error))]


class Hanging:
    """A model whose calls end when the test does."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def score(self, call: ScoreRequest) -> list[ScoreResult]:
        await self.end.wait()
        return []


def score(
    tmp_path: Path, bundle: Path, model: Model, *requests: RequestRows, path: str = "", end: asyncio.Event | None = None
) -> tuple[Scorer, list[ScoredBatch]]:
    """Score requests by the version of a bundle whose deployment is ``model``, or is not there."""
    scorer = Scorer(python_version(bundle), Settings(home=tmp_path / "home"))

    async def run(patch: pytest.MonkeyPatch) -> list[ScoredBatch]:
        async with asyncio.timeout(20.0):
            return await serve(patch)

    async def serve(patch: pytest.MonkeyPatch) -> list[ScoredBatch]:
        server = ChallengerServer(tmp_path / "sockets", model)
        await server.start()

        async def address() -> tuple[str, str]:
            return NODE, path or str(server.path)

        handle = SimpleNamespace(address=SimpleNamespace(remote=address))
        patch.setattr(ray.serve, "get_deployment_handle", lambda *names: handle)
        patch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: NODE))
        await scorer.start()
        batches = await scorer.score(requests, 0)
        scorer.close()
        server.close()
        if end is not None:
            end.set()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        return batches

    with pytest.MonkeyPatch.context() as patch:
        return scorer, asyncio.run(run(patch))


def code(batch: ScoredBatch) -> str:
    return batch.failure.code if isinstance(batch.failure, RayloopError) else repr(batch.failure)


def test_requests_together_are_scored_by_one_call(tmp_path: Path) -> None:
    bundle = write_python_bundle(tmp_path, slope=2.0)
    deployment = Deployment(bundle)
    scorer, [batch] = score(tmp_path, bundle, deployment.score, request(0.0, 1.0), request(-1.0))
    assert scorer.is_remote
    assert batch.failure is None
    assert batch.scores == pytest.approx(1 / (1 + np.exp(-2.0 * np.array([0.0, 1.0, -1.0]))))
    assert deployment.calls == 1
    assert scorer.explainer is None


@pytest.mark.parametrize("distance", [666.0, 777.0], ids=["raises", "no scores"])
def test_request_that_a_model_fails_on_fails_alone(tmp_path: Path, distance: float) -> None:
    bundle = write_python_bundle(tmp_path)
    deployment = Deployment(bundle)
    _, batches = score(tmp_path, bundle, deployment.score, request(0.0), request(0.0, distance), request(0.0))
    assert [batch.sizes for batch in batches] == [(1,), (2,), (1,)]
    assert [batch.scores is not None for batch in batches] == [True, False, True]
    assert code(batches[1]) == "rayloop.python_model_failed"
    # Its features are known, so that the failure is logged, and a challenger may answer.
    assert batches[1].frame is not None
    assert batches[1].frame.num_rows == 2


def test_model_that_hangs_fails_all_requests_of_the_batch_after_one_time_limit(tmp_path: Path) -> None:
    bundle = write_python_bundle(tmp_path, timeout_s=0.2)
    started, model = time.monotonic(), Hanging()
    _, batches = score(tmp_path, bundle, model.score, *(request(0.0) for _ in range(50)), end=model.end)
    assert time.monotonic() - started < 50 * 0.2
    assert {code(batch) for batch in batches} == {"rayloop.python_model_late"}
    assert [batch.frame.num_rows for batch in batches if batch.frame is not None] == [1] * 50


def test_model_without_a_process_fails_requests_with_the_reason(tmp_path: Path) -> None:
    bundle = write_python_bundle(tmp_path)
    _, batches = score(tmp_path, bundle, Hanging().score, request(0.0), request(1.0), path="/nowhere.sock")
    assert [code(batch) for batch in batches] == ["rayloop.python_model_lost"] * 2


def test_model_whose_process_breaks_the_call_off_fails_requests(tmp_path: Path) -> None:
    async def die(call: ScoreRequest) -> list[ScoreResult]:
        raise ConnectionResetError

    bundle = write_python_bundle(tmp_path)
    _, batches = score(tmp_path, bundle, die, request(0.0))
    assert code(batches[0]) == "rayloop.python_model_lost"


def test_logged_rows_of_python_models_are_not_scored_again(tmp_path: Path) -> None:
    champion = python_version(write_python_bundle(tmp_path))
    assert rescore(b"", champion, [], Settings(home=tmp_path)) == (0, [])
