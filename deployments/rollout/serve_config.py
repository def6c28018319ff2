"""The one writer of Serve's configuration, which owns who serves what at which share.

Serve's REST API replaces the whole set of applications with each PUT. All changes therefore go through one detached
actor that reads, modifies and writes under a lock; applications of others are passed through as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence, Set
from typing import Any

import ray
import requests
from ray import serve
from ray.actor import ActorHandle
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.actors import get_or_create
from cluster.errors import ClusterUnavailable, RayloopError, RolloutError, SettingsError
from cluster.settings import Settings
from cluster.values import Frozen, ModelVersion
from deployments.inference.predictor import Scorer
from deployments.ingress import root_app
from deployments.serve_schema import (
    MAX_QUEUED_REQUESTS,
    REQUEST_TIMEOUT_S,
    RETRY_AFTER_S,
    ChallengerConfig,
    RequestLimits,
    RolloutTrial,
    ServerConfig,
    challenger_app_name,
    challenger_prefix,
    model_app_name,
)
from deployments.telemetry.log_writer import connect as connect_ledger

ACTOR = "serve-config"
_POLL_S = 0.1
_INFERENCE_SERVICE = "deployments.protocol.inference_pb.add_inference_service"
_SERVER, _CHALLENGER = "ModelServer", "Challenger"
_DRAIN_S = 120.0
_GONE = ("DELETING", "NOT_STARTED")
_ACCESS = ("RAYLOOP_ACCESS", "RAYLOOP_RATE_STORE", "RAYLOOP_JWKS", "RAYLOOP_JWT")

Applications = dict[str, dict[str, Any]]


class ServingOptions(Frozen):
    """Resources of a model's application, and what its replicas hold back (user_config). CPUs are per replica."""

    replicas: int = 1
    cpus: float = 0.5
    challenger_cpus: float = 0.25
    profile_window_s: float | None = 3600.0
    limits: RequestLimits = RequestLimits()
    report: bool = True
    deadline_s: float = 90.0


class DeploymentStatus(Frozen):
    """How a model's application is: ``running`` of ``wanted`` replicas, and what Serve says where that is less."""

    running: int
    desired: int
    problem: str = ""


def connect(settings: Settings) -> ActorHandle:
    """The configuration writer of this cluster, started when absent."""
    return get_or_create(ACTOR, ServeConfigWriter, settings, max_task_retries=2)


def check_access(settings: Settings, served: Settings) -> None:
    """Raises SettingsError when who may call is set otherwise here than where models are ``served``."""
    asked, kept = _access(settings), _access(served)
    if differing := sorted(name for name in asked.keys() | kept.keys() if asked.get(name) != kept.get(name)):
        raise SettingsError(
            f"{', '.join(differing)} is not what the cluster was started with, and would not count",
            "`rayloop down`, then `rayloop up`, with the settings that are to hold",
        )


def deployment_statuses(settings: Settings, models: Sequence[str]) -> dict[str, DeploymentStatus]:
    """Whether what answers for each model is there; those of which nothing is deployed are left out."""
    details = _client(settings).get_serve_details()
    declared = _declared(details)
    return {m: _standing(details, app, declared[app]) for m in models if (app := model_app_name(m)) in declared}


def _standing(details: dict[str, Any], app: str, declared: dict[str, Any]) -> DeploymentStatus:
    found, wanted = details["applications"][app], int(declared["deployments"][0]["num_replicas"])
    running = len(_replicas(details, app)) if _SERVER in found["deployments"] else 0
    sound = running >= wanted and found["status"] == "RUNNING"
    return DeploymentStatus(
        running=running, desired=wanted, problem="" if sound else f"{found['status']}: {_message(found)}"
    )


class ServeConfigWriter:
    """See the module. Each method returns when its effect has reached every replica, or raises RayloopError."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        self._settings = settings
        self._writing = asyncio.Lock()

    async def served_settings(self) -> Settings:
        """The settings of whatever is served: those that this actor was started with."""
        return self._settings

    async def deploy(self, champion: ModelVersion, options: ServingOptions) -> None:
        """Serve ``champion`` for its model: a new application, or a new version in the running one.

        A version that does not load is refused before Serve hears of it.
        """
        await asyncio.to_thread(_check_loads, champion, self._settings)
        ledger = connect_ledger(champion.model, self._settings)
        await ledger.pid.remote()

        def change(apps: Applications) -> None:
            current = _server_config(apps, champion.model)
            if current is not None and current.trial is not None:
                raise RolloutError(
                    f"{champion.model} has a rollout under way: {current.trial.rollout}", "abort it first"
                )
            apps.setdefault(
                root_app.ROOT_APP,
                self._application(root_app.ROOT_APP, root_app.ROOT_ROUTE, "deployments.ingress.root_app", _FRONT),
            )
            config = ServerConfig(
                champion=champion,
                profile_window_s=options.profile_window_s,
                limits=options.limits,
                report=options.report,
            )
            apps[model_app_name(champion.model)] = self._application(
                model_app_name(champion.model),
                f"{root_app.ROOT_ROUTE}/models/{champion.model}",
                "deployments.ingress.model_app",
                _deployment(_SERVER, options.replicas, options.cpus, config),
            )

        await self._write(change)
        deadline = time.monotonic() + options.deadline_s
        await self._settled(root_app.ROOT_APP, deadline)
        await self._served(champion.model, deadline)

    async def start_challenger(
        self, rollout: str, challenger: ModelVersion, options: ServingOptions, max_growth_mib: float | None = None
    ) -> None:
        """Start the challenger's application beside the champion's. It is taken away again when it does not come up."""
        name = challenger_app_name(challenger.model, rollout, challenger.version)
        config = ChallengerConfig(challenger=challenger, rollout=rollout, max_growth_mib=max_growth_mib)
        deployment = _deployment(_CHALLENGER, 1, options.challenger_cpus, config)

        def change(apps: Applications) -> None:
            apps[name] = self._application(name, None, "deployments.inference.challenger_app", deployment)

        await self._write(change)
        try:
            await self._settled(name, time.monotonic() + options.deadline_s)
        except RayloopError:
            await self._write(lambda apps: apps.pop(name, None))
            raise

    async def retain_challengers(self, model: str, rollout: str, versions: tuple[str, ...]) -> None:
        """Take the model's other challengers away, if there are any. Their replicas drain in the background."""
        kept = {challenger_app_name(model, rollout, version) for version in versions}
        found = _challengers(await asyncio.to_thread(self._read), model)
        if not found <= kept:
            await self._write(lambda apps: _drop_challengers(apps, model, kept))

    async def set_rollout(self, model: str, trial: RolloutTrial | None, deadline_s: float = 30.0) -> None:
        """Set the challengers and their share of requests; None sends all to the champion."""
        await self._change_server(model, {"trial": trial}, deadline_s)

    async def set_champion(self, champion: ModelVersion, deadline_s: float = 30.0) -> None:
        """Make ``champion`` the answering version and end the trial, in one change."""
        await self._change_server(champion.model, {"champion": champion, "trial": None}, deadline_s)

    async def current_config(self, model: str) -> ServerConfig | None:
        """What Serve is told to serve for ``model``; None when nothing is deployed."""
        return _server_config(await asyncio.to_thread(self._read), model)

    async def has_challenger(self, model: str, rollout: str, version: str) -> bool:
        return challenger_app_name(model, rollout, version) in await asyncio.to_thread(self._read)

    async def remove(self, model: str) -> None:
        """Stop serving ``model``; absent is fine."""

        def change(apps: Applications) -> None:
            apps.pop(model_app_name(model), None)
            _drop_challengers(apps, model)

        await self._write(change)
        await self._until(lambda details: model_app_name(model) not in details["applications"], _DRAIN_S, model)

    async def _change_server(self, model: str, update: dict[str, Any], deadline_s: float) -> None:
        def change(apps: Applications) -> None:
            current = _server_config(apps, model)
            if current is None:
                raise RayloopError(f"model {model!r} is not deployed", "deploy a version first")
            wanted = ServerConfig.model_validate(current.model_dump() | _dumped(update))
            apps[model_app_name(model)]["deployments"][0]["user_config"] = wanted.model_dump(mode="json")

        await self._write(change)
        await self._served(model, time.monotonic() + deadline_s)

    async def _write(self, change: Callable[[Applications], object]) -> None:
        async with self._writing:
            await asyncio.to_thread(self._write_now, change)

    def _write_now(self, change: Callable[[Applications], object]) -> None:
        details = self._details()
        apps = _declared(details)
        change(apps)
        own = {"host": "127.0.0.1", "port": self._settings.serve_port, "request_timeout_s": REQUEST_TIMEOUT_S}
        http = own | _kept(details.get("http_options"))
        grpc = {"port": self._settings.grpc_port, "grpc_servicer_functions": [_INFERENCE_SERVICE]}
        config = {
            "proxy_location": details.get("proxy_location") or "HeadOnly",
            "http_options": http,
            "grpc_options": details.get("grpc_options") or grpc,
        }
        self._client().deploy_applications(config | {"applications": list(apps.values())})

    def _read(self) -> Applications:
        return _declared(self._details())

    def _details(self) -> dict[str, Any]:
        return self._client().get_serve_details()

    def _client(self) -> ServeSubmissionClient:
        return _client(self._settings)

    async def _settled(self, app: str, deadline: float) -> None:
        """Wait until an application runs. Raises RayloopError with Serve's message when it fails, or is late."""
        await self._until(lambda details: _runs(details, app), deadline - time.monotonic(), app)

    async def _served(self, model: str, deadline: float) -> None:
        """Wait until every replica confirms that it serves what the configuration says."""
        app = model_app_name(model)
        await self._settled(app, deadline)
        details = await asyncio.to_thread(self._details)
        wanted = _server_config(_declared(details), model)
        if wanted is None:
            raise RayloopError(f"{model!r} was removed while it was deployed")
        replicas = len(_replicas(details, app))
        trial = wanted.trial.model_dump_json() if wanted.trial else ""
        handle = serve.get_deployment_handle(_SERVER, app)
        confirmed: set[str] = set()
        while len(confirmed) < replicas:
            state = await handle.state.remote()
            if state["failure"]:
                raise RayloopError(f"{model} stays at v{state['version']}: {state['failure']}")
            if (state["version"], state["trial"]) == (wanted.champion.version, trial):
                confirmed.add(state["replica"])
            elif time.monotonic() > deadline:
                told = wanted.champion.version
                raise RayloopError(f"{model}: a replica serves v{state['version']} though told v{told}")
            else:
                await asyncio.sleep(_POLL_S)

    async def _until(self, holds: Callable[[dict[str, Any]], bool], limit_s: float, app: str) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            details = await asyncio.to_thread(self._details)
            if holds(details):
                return
            if time.monotonic() > deadline:
                found = details["applications"].get(app, {})
                raise RayloopError(
                    f"{app} is {found.get('status', 'absent')} after {limit_s:.0f} s: {_message(found)}",
                    "does the cluster have the CPUs and memory it asks for?",
                )
            await asyncio.sleep(_POLL_S)

    def _application(self, name: str, route: str | None, module: str, deployment: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "route_prefix": route,
            "import_path": f"{module}:build",
            "args": {},
            "runtime_env": _runtime_env(self._settings),
            # Every prediction is in the prediction log already; Serve would still make a record of each and drop it.
            "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
            "deployments": [deployment],
        }


def _access(settings: Settings) -> dict[str, str]:
    told = settings.environment()
    return {name: value for name, value in told.items() if name.startswith(_ACCESS)}


_FRONT: dict[str, Any] = {"name": "Front", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}}


def _deployment(name: str, replicas: int, cpus: float, config: Frozen) -> dict[str, Any]:
    return {
        "name": name,
        "num_replicas": replicas,
        "max_queued_requests": MAX_QUEUED_REQUESTS,
        "backpressure_config": {"status_code": 503, "retry_after_s": RETRY_AFTER_S},
        "ray_actor_options": {"num_cpus": cpus},
        "user_config": config.model_dump(mode="json"),
    }


def _runtime_env(settings: Settings) -> dict[str, Any]:
    """These settings, and rayloop itself where it came with the job instead of being installed."""
    own = ray.get_runtime_context().runtime_env
    code = {key: own[key] for key in ("working_dir", "py_modules") if own.get(key)}
    return code | {"env_vars": settings.environment()}


def _declared(details: dict[str, Any]) -> Applications:
    """Applications by name as they were declared, those on their way out excepted."""
    return {
        name: app["deployed_app_config"]
        for name, app in details["applications"].items()
        if app.get("deployed_app_config") and app["status"] not in _GONE
    }


def _challengers(apps: Applications, model: str) -> set[str]:
    return {name for name in apps if name.startswith(challenger_prefix(model))}


def _drop_challengers(apps: Applications, model: str, kept: Set[str] = frozenset()) -> None:
    for name in _challengers(apps, model) - kept:
        del apps[name]


def _server_config(apps: Applications, model: str) -> ServerConfig | None:
    app = apps.get(model_app_name(model))
    return ServerConfig.from_stored(app["deployments"][0]["user_config"]) if app else None


def _runs(details: dict[str, Any], app: str) -> bool:
    found = details["applications"].get(app, {})
    if found.get("status") == "DEPLOY_FAILED":
        raise RayloopError(f"{app} could not be deployed: {_message(found)}")
    if found.get("status") != "RUNNING":
        return False
    wanted = found["deployed_app_config"]["deployments"][0].get("user_config")
    deployments = found["deployments"].values()
    return all(d["status"] == "HEALTHY" and d["deployment_config"].get("user_config") == wanted for d in deployments)


def _replicas(details: dict[str, Any], app: str) -> list[str]:
    replicas = details["applications"][app]["deployments"][_SERVER]["replicas"]
    return [replica["replica_id"] for replica in replicas if replica["state"] == "RUNNING"]


def _client(settings: Settings) -> ServeSubmissionClient:
    try:
        return ServeSubmissionClient(settings.dashboard)
    except (ConnectionError, requests.exceptions.ConnectionError) as error:
        raise ClusterUnavailable(f"no Ray dashboard answers at {settings.dashboard}", "run rayloop up") from error


def _message(app: dict[str, Any]) -> str:
    """What Serve has to say, in one line: the last line of a traceback is the one that tells."""
    texts: list[str] = [app.get("message", "")] + [d.get("message", "") for d in app.get("deployments", {}).values()]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "Exception" in line]
    return (telling or lines or ["Serve gives no reason"])[-1][:400]


def _kept(options: dict[str, Any] | None) -> dict[str, Any]:
    """HTTP options as they are: Serve cannot change them while it runs, and refuses the attempt."""
    return {key: options[key] for key in ("host", "port", "request_timeout_s") if key in options} if options else {}


def _dumped(update: dict[str, Any]) -> dict[str, Any]:
    return {key: value.model_dump() if isinstance(value, Frozen) else value for key, value in update.items()}


def _check_loads(version: ModelVersion, settings: Settings) -> None:
    Scorer(version, settings)
