"""Ray Serve by its own documentation, on its own cluster. ``server.py plain|empty|composed PORT FOLDER``.

Environment variables decide whether it runs behind HAProxy.
"""

from __future__ import annotations

import random
import signal
import sys
from typing import Any

import ray
from mlp import Mlp
from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

SHARE = 0.1
"""Share of requests that the second model answers."""
LOGICAL_CPUS = 4
QUIET = {"enable_access_log": False, "log_level": "WARNING"}
# The default of 5 would make callers wait for no reason.
WIDE = {"max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": 0.5}}


@serve.deployment(**WIDE)
class Plain:
    """The model in one deployment."""

    def __init__(self) -> None:
        self._model = Mlp()

    async def __call__(self, request: Request) -> dict[str, float]:
        return {"score": self._model.score_one(await request.json())}


@serve.deployment(**WIDE)
class Empty:
    """Returns a constant response."""

    async def __call__(self, request: Request) -> dict[str, float]:
        return {"score": 0.5}


@serve.deployment(**WIDE)
class Version:
    """One version of the model, behind a router."""

    def __init__(self) -> None:
        self._model = Mlp()

    async def score(self, record: dict[str, Any]) -> float:
        return self._model.score_one(record)


@serve.deployment(**WIDE)
class Router:
    """Routes requests to two versions."""

    def __init__(self, champion: DeploymentHandle, challenger: DeploymentHandle) -> None:
        self._champion, self._challenger = champion, challenger

    async def __call__(self, request: Request) -> dict[str, float]:
        record = await request.json()
        version = self._challenger if random.random() < SHARE else self._champion
        return {"score": await version.score.remote(record)}


def application(kind: str) -> Application:
    if kind == "composed":
        champion = Version.options(name="Champion").bind()
        return Router.bind(champion, Version.options(name="Challenger").bind())
    return {"plain": Plain, "empty": Empty}[kind].bind()


def main(kind: str, port: int, folder: str) -> None:
    """Serve until a signal ends this process; the parent process ends HAProxy, which Ray would leave running."""
    ray.init(num_cpus=LOGICAL_CPUS, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=QUIET)
    serve.run(application(kind), logging_config=QUIET)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
