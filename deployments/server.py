"""The application that answers for one model.

The champion scores in this process. During a rollout the challenger's share of requests goes to the challenger's
application as well, while the champion scores the same rows here: that gives paired evidence, and an answer at hand
when the challenger fails, is late or is missing. A caller never sees a challenger's error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from cluster.contracts import CHALLENGER, CHAMPION, Variant
from cluster.errors import RayloopError, RequestError
from cluster.settings import load_settings
from deployments.http import REQUEST_ID, ROUTING_KEY, VARIANT, VERSION, error_answer, json_answer, read_body
from deployments.invocations import invocation_answer, parse_invocation
from deployments.log import Answer, to_ipc
from deployments.predictor import Scorer
from deployments.protocol import check_id, infer_answer, metadata, parse_body, parse_feedback, parse_infer
from deployments.split import assign
from deployments.telemetry import Telemetry
from deployments.user_config import ServerConfig, Trial, challenger_app

MAX_ONGOING_REQUESTS = 256
_CLOSE_WITHIN_S = 8.0
_WARM_UP_S = 5.0

_log = logging.getLogger(__name__)


class _Live(NamedTuple):
    """What is served now; swapped as a whole, so that a request sees one state throughout."""

    config: ServerConfig
    champion: Scorer
    challenger: DeploymentHandle | None


_Handler = Callable[[_Live, Request, str], Awaitable[Response]]


class _Outcome(NamedTuple):
    """What came of asking one variant."""

    version: str
    scores: np.ndarray | None
    latency_ms: float
    error: str | None
    frame: pa.Table | None = None


@serve.deployment(name="ModelServer", max_ongoing_requests=MAX_ONGOING_REQUESTS)
class ModelServer:
    """Open Inference Protocol v2, /invocations and /feedback of the model its ``user_config`` (ServerConfig) names."""

    def __init__(self) -> None:
        self._settings = load_settings()
        self._live: _Live | None = None
        self._failure = ""
        self._telemetry: Telemetry | None = None
        self._reconfiguring = asyncio.Lock()
        self._routes: dict[str, tuple[str, _Handler]] = {
            "": ("GET", self._metadata),
            "/ready": ("GET", self._ready),
            "/infer": ("POST", self._infer),
            "/invocations": ("POST", self._invocations),
            "/feedback": ("POST", self._feedback),
        }

    async def reconfigure(self, user_config: dict) -> None:
        """Load what is new beside what is served, warm it up, then swap.

        When the new version does not load, the old one goes on and ``state`` says why: Serve would answer an
        exception by killing the replica. Without an old one the exception fails the deployment.
        """
        async with self._reconfiguring:
            try:
                self._live = await self._loaded(ServerConfig.model_validate(user_config))
                self._failure = ""
            except (RayloopError, OSError, ValidationError) as error:
                if self._live is None:
                    raise
                self._failure = str(error)
                _log.error("v%s stays: %s", self._live.champion.version, error)

    async def state(self) -> dict[str, str]:
        """Version served, rollout and share in effect, and why the newest configuration is not, if so."""
        assert self._live is not None
        trial = self._live.config.trial
        return {
            "replica": serve.get_replica_context().replica_id.unique_id,
            "version": self._live.champion.version,
            "trial": trial.model_dump_json() if trial else "",
            "failure": self._failure,
        }

    async def __call__(self, request: Request) -> Response:
        assert self._live is not None
        live = self._live
        name = live.config.champion.model
        headers = {VERSION: live.champion.version, VARIANT: CHAMPION}
        try:
            # Serve puts the header on each request that lacks it, and on each answer.
            request_id = check_id(request.headers.get(REQUEST_ID) or uuid4().hex, REQUEST_ID)
            method, handler = self._route(request, name)
            if request.method != method:
                raise RequestError(f"use {method}", status=405)
            response = await handler(live, request, request_id)
        except RequestError as error:
            response = error_answer(error, {"allow": method} if error.status == 405 else {})
        except Exception as error:
            _log.exception("request failed")
            response = json_answer({"error": f"the model failed: {type(error).__name__}"}, status=500)
        for key, value in headers.items():
            response.headers.setdefault(key, value)
        return response

    def _route(self, request: Request, name: str) -> tuple[str, _Handler]:
        _, _, path = request.scope["path"].partition(f"/models/{name}")
        if path.rstrip("/") not in self._routes:
            known = ", ".join(route for route in self._routes if route)
            raise RequestError(f"no such path: {path[:100]}", status=404, todo=f"there are {known}")
        return self._routes[path.rstrip("/")]

    async def _metadata(self, live: _Live, request: Request, request_id: str) -> Response:
        champion, manifest = live.champion, live.champion.manifest
        return json_answer(metadata(live.config.champion.model, champion.version, manifest.features, manifest.task))

    async def _ready(self, live: _Live, request: Request, request_id: str) -> Response:
        return json_answer({"name": live.config.champion.model, "ready": True})

    async def _infer(self, live: _Live, request: Request, request_id: str) -> Response:
        manifest, limits = live.champion.manifest, live.config.limits
        body = parse_body(await read_body(request, limits.body_bytes))
        asked = parse_infer(body, manifest.features, manifest.task, request_id, limits.rows)
        answer = await self._answer(live, request, asked.id, asked.rows)
        assert answer.scores is not None
        content = infer_answer(
            asked, live.config.champion.model, answer.version, answer.variant, manifest.task, answer.scores
        )
        return json_answer(content, _headers(answer))

    async def _invocations(self, live: _Live, request: Request, request_id: str) -> Response:
        manifest, limits = live.champion.manifest, live.config.limits
        body = parse_body(await read_body(request, limits.body_bytes))
        answer = await self._answer(live, request, request_id, parse_invocation(body, manifest.features, limits.rows))
        assert answer.scores is not None
        return json_answer(invocation_answer(answer.version, manifest.task, answer.scores), _headers(answer))

    async def _feedback(self, live: _Live, request: Request, request_id: str) -> Response:
        limits = live.config.limits
        body = parse_body(await read_body(request, limits.body_bytes))
        rows = parse_feedback(body, live.champion.manifest.task, limits.rows)
        self._reporting(live).labelled(rows)
        return json_answer({"accepted": rows.num_rows})

    async def _answer(self, live: _Live, request: Request, request_id: str, rows: pa.Table) -> Answer:
        """Score rows with the champion and, when the split says so, the challenger; report; raise when both failed."""
        assigned = _assigned(live.config.trial, request, request_id)
        at_us = time.time_ns() // 1000
        trial, ahead = live.config.trial, None
        if assigned == CHALLENGER and trial is not None and live.challenger is not None:
            ahead = asyncio.ensure_future(_challenger(live.challenger, trial, rows, at_us))
            # Lets the challenger's request leave before the champion takes this thread.
            await asyncio.sleep(0)
        try:
            champion, failure = _champion(live.champion, rows, at_us)
        except RequestError:
            if ahead is not None:
                ahead.cancel()
            raise
        challenger = await ahead if ahead is not None else None
        answered = challenger if challenger is not None and challenger.scores is not None else champion
        answer = Answer(
            request=request_id,
            frame=champion.frame,
            task=live.champion.manifest.task,
            champion_version=live.champion.version,
            version=answered.version,
            assigned=assigned,
            variant="challenger" if answered is challenger else "champion",
            at_us=at_us,
            latency_ms=answered.latency_ms,
            rollout=trial.rollout if trial else None,
            share=trial.share if trial else None,
            champion=champion.scores,
            challenger=challenger.scores if challenger else None,
            error=challenger.error if challenger else None,
            champion_error=champion.error,
        )
        self._reporting(live).answered(answer, live.champion.manifest.features.columns, live.config.profile_window_s)
        if answer.scores is None and failure is not None:
            raise failure
        return answer

    def _reporting(self, live: _Live) -> Telemetry:
        if self._telemetry is None:
            self._telemetry = Telemetry(live.config.champion.model)
        return self._telemetry

    async def _loaded(self, config: ServerConfig) -> _Live:
        if self._live is not None and self._live.config.champion == config.champion:
            champion = self._live.champion
        else:
            champion = await asyncio.to_thread(Scorer, config.champion, self._settings)
        return _Live(config, champion, await self._challenger_handle(config))

    async def _challenger_handle(self, config: ServerConfig) -> DeploymentHandle | None:
        if config.trial is None:
            return None
        before = self._live.config.trial if self._live is not None else None
        if self._live is not None and before is not None and before.rollout == config.trial.rollout:
            return self._live.challenger
        handle = serve.get_deployment_handle("Challenger", challenger_app(config.champion.model, config.trial.rollout))
        # A handle finds its replicas with the first call, which should not be a caller's.
        try:
            await asyncio.wait_for(_result(handle.version.remote()), _WARM_UP_S)
        except Exception:
            _log.exception("the challenger does not answer yet; its failures count against it")
        return handle

    def __del__(self) -> None:
        # Also runs when the constructor failed.
        telemetry = getattr(self, "_telemetry", None)
        if telemetry is not None:
            telemetry.close(_CLOSE_WITHIN_S)


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return ModelServer.bind()  # type: ignore[attr-defined, no-any-return]


def _assigned(trial: Trial | None, request: Request, request_id: str) -> Variant:
    """The variant that the split, or a tester's header, deals this request to."""
    forced = request.headers.get(VARIANT)
    if forced not in (None, CHAMPION, CHALLENGER):
        raise RequestError(f"expected {CHAMPION} or {CHALLENGER}", field=VARIANT)
    if trial is None or forced == CHAMPION:
        return "champion"
    if forced == CHALLENGER:
        return "challenger"
    return assign(trial.rollout, request.headers.get(ROUTING_KEY) or request_id, trial.share)


def _champion(scorer: Scorer, rows: pa.Table, now_us: int) -> tuple[_Outcome, Exception | None]:
    """What the champion says, or why it cannot. Raises RequestError when the request is to blame."""
    started = time.perf_counter()
    frame = scorer.frame(rows, now_us)
    scores, failure = None, None
    try:
        scores = scorer.predict(frame)
    except RequestError:
        raise
    except Exception as error:
        _log.exception("the champion failed")
        failure = error
    latency_ms = (time.perf_counter() - started) * 1e3
    return _Outcome(scorer.version, scores, latency_ms, _said(failure), frame), failure


async def _challenger(handle: DeploymentHandle, trial: Trial, rows: pa.Table, now_us: int) -> _Outcome:
    """What the challenger says within its time; any failure is an outcome, not an exception."""
    started = time.perf_counter()
    response: Any = handle.score.remote(to_ipc(rows), now_us)
    failure: str | None
    try:
        version, scores, latency_ms = await asyncio.wait_for(_result(response), trial.timeout_s)
        return _Outcome(version, scores, latency_ms, None)
    except TimeoutError:
        response.cancel()
        failure = f"no answer within {trial.timeout_s:g} s"
    except Exception as error:
        failure = _said(error)
    return _Outcome(trial.challenger.version, None, (time.perf_counter() - started) * 1e3, failure)


async def _result(response: Any) -> Any:
    return await response


def _said(error: Exception | None) -> str | None:
    """An error in one line; Ray's carry a traceback, whose last line says it."""
    if error is None:
        return None
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


def _headers(answer: Answer) -> dict[str, str]:
    return {VERSION: answer.version, VARIANT: answer.variant}
