"""The application that answers for one model.

The champion scores in this process. During a rollout the challenger's share of requests goes to the challenger's
application as well, while the champion scores the same rows here: that gives paired evidence, and an answer at hand
when the challenger fails, is late or is missing. A caller never sees a challenger's error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from uuid import uuid4

import pyarrow as pa
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from cluster.contracts import CHAMPION
from cluster.errors import RayloopError, RequestError
from cluster.settings import load_settings
from deployments.answering import Asked, Live, answer_each, assigned, result
from deployments.batching import Batcher
from deployments.http import REQUEST_ID, ROUTING_KEY, VARIANT, VERSION, error_answer, json_answer, read_body
from deployments.invocations import invocation_answer, parse_invocation
from deployments.log import Answer
from deployments.predictor import Scorer
from deployments.protocol import check_id, infer_answer, metadata, parse_body, parse_feedback, parse_infer
from deployments.telemetry import Telemetry
from deployments.user_config import ServerConfig, challenger_app

MAX_ONGOING_REQUESTS = 256
MAX_BATCH_ROWS = 1024
_CLOSE_WITHIN_S = 8.0
_WARM_UP_S = 5.0

_log = logging.getLogger(__name__)


_Handler = Callable[[Live, Request, str], Awaitable[Response]]


@serve.deployment(name="ModelServer", max_ongoing_requests=MAX_ONGOING_REQUESTS)
class ModelServer:
    """Open Inference Protocol v2, /invocations and /feedback of the model its ``user_config`` (ServerConfig) names."""

    def __init__(self) -> None:
        self._settings = load_settings()
        self._live: Live | None = None
        self._failure = ""
        self._telemetry: Telemetry | None = None
        self._reconfiguring = asyncio.Lock()
        self._batches = Batcher(self._together, lambda asked: asked.rows.num_rows, MAX_BATCH_ROWS)
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

    async def _metadata(self, live: Live, request: Request, request_id: str) -> Response:
        champion, manifest = live.champion, live.champion.manifest
        return json_answer(metadata(live.config.champion.model, champion.version, manifest.features, manifest.task))

    async def _ready(self, live: Live, request: Request, request_id: str) -> Response:
        return json_answer({"name": live.config.champion.model, "ready": True})

    async def _infer(self, live: Live, request: Request, request_id: str) -> Response:
        manifest, limits = live.champion.manifest, live.config.limits
        body = parse_body(await read_body(request, limits.body_bytes))
        asked = parse_infer(body, manifest.features, manifest.task, request_id, limits.rows)
        answer = await self._answer(live, request, asked.id, asked.rows)
        assert answer.scores is not None
        content = infer_answer(
            asked, live.config.champion.model, answer.version, answer.variant, manifest.task, answer.scores
        )
        return json_answer(content, _headers(answer))

    async def _invocations(self, live: Live, request: Request, request_id: str) -> Response:
        manifest, limits = live.champion.manifest, live.config.limits
        body = parse_body(await read_body(request, limits.body_bytes))
        answer = await self._answer(live, request, request_id, parse_invocation(body, manifest.features, limits.rows))
        assert answer.scores is not None
        return json_answer(invocation_answer(answer.version, manifest.task, answer.scores), _headers(answer))

    async def _feedback(self, live: Live, request: Request, request_id: str) -> Response:
        limits = live.config.limits
        body = parse_body(await read_body(request, limits.body_bytes))
        rows = parse_feedback(body, live.champion.manifest.task, limits.rows)
        self._reporting(live).labelled(rows)
        return json_answer({"accepted": rows.num_rows})

    async def _answer(self, live: Live, request: Request, request_id: str, rows: pa.Table) -> Answer:
        """Score rows together with those of other requests that wait; raises when nobody could."""
        key = request.headers.get(ROUTING_KEY) or request_id
        dealt = assigned(live.config.trial, request.headers.get(VARIANT), key)
        answer = await self._batches(Asked(live, request_id, key, rows, dealt))
        if answer.scores is None:
            raise RequestError(f"the model failed: {answer.champion_error}", status=500)
        return answer

    async def _together(self, asked: Sequence[Asked]) -> list[Answer | Exception]:
        """A batch by the state its requests came in under: a swap may fall between two of them."""
        answers: list[Answer | Exception] = []
        for _, together in groupby(asked, key=lambda one: id(one.live)):
            group = list(together)
            live = group[0].live
            columns, window_s = live.champion.manifest.features.columns, live.config.profile_window_s
            for one in await answer_each(live, group):
                if isinstance(one, Answer):
                    self._reporting(live).answered(one, columns, window_s)
                answers.append(one)
        return answers

    def _reporting(self, live: Live) -> Telemetry:
        if self._telemetry is None:
            self._telemetry = Telemetry(live.config.champion.model)
        return self._telemetry

    async def _loaded(self, config: ServerConfig) -> Live:
        if self._live is not None and self._live.config.champion == config.champion:
            champion = self._live.champion
        else:
            champion = await asyncio.to_thread(Scorer, config.champion, self._settings)
        return Live(config, champion, await self._challenger_handle(config))

    async def _challenger_handle(self, config: ServerConfig) -> DeploymentHandle | None:
        if config.trial is None:
            return None
        before = self._live.config.trial if self._live is not None else None
        if self._live is not None and before is not None and before.rollout == config.trial.rollout:
            return self._live.challenger
        handle = serve.get_deployment_handle("Challenger", challenger_app(config.champion.model, config.trial.rollout))
        # A handle finds its replicas with the first call, which should not be a caller's.
        try:
            await asyncio.wait_for(result(handle.version.remote()), _WARM_UP_S)
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


def _headers(answer: Answer) -> dict[str, str]:
    return {VERSION: answer.version, VARIANT: answer.variant}
