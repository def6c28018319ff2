"""The one writer of Serve's configuration: which versions are served, and with which shares.

Serve's REST API replaces the whole set of applications with each PUT. All changes therefore go through one detached
actor that reads, modifies and writes under a lock; applications that are not rayloop's are passed through unchanged.

An actor that was cut off, and replaced, asks Ray before each write whether it is still the newest. Serve cannot compare
and set: one that is stopped between that question and its PUT may still write. Replicas ignore what it wrote, by the
epoch in their configuration, and the newer writer restores its own within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.actors import end_actor, get_or_create, is_newest, take_epoch
from cluster.door.moves import Moves
from cluster.errors import RayloopError, RolloutError, WriterReplaced
from cluster.limits import in_thread, within
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments import serve_schema
from deployments.inference.predictor import Scorer
from deployments.ingress import root_app
from deployments.rollout import serve_details
from deployments.rollout.applications import (
    Applications,
    application,
    challengers,
    check_epoch,
    deployment,
    drop_challengers,
    halted_versions,
    kept_split,
    python_application,
    read_moves,
    server_config,
    unused_python_models,
    write_moves,
    writer_epoch,
)
from deployments.rollout.serve_readiness import ServeReadiness
from deployments.serve_schema import ChallengerConfig, Halt, PythonServerConfig, ServerConfig, Serving, TrafficSplit
from deployments.telemetry.log_writer import connect_log_writer
from features.python_models.bundle import PythonRecord

ACTOR = "serve-config"
"""Name of the writer's actor."""
_INFERENCE_SERVICE = "deployments.protocol.inference_pb.add_inference_service"
_CHALLENGER = "Challenger"
_FRONT: dict[str, Any] = {"name": "Front", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}}
_DRAIN_S = 120.0
_WRITE_S = 90.0
"""For reading and writing the configuration; the first write starts Serve."""
WATCH_S = 10.0
"""Seconds between checks of the configuration."""

_log = logging.getLogger(__name__)


class ServingOptions(Serving):
    """Resources and limits of a model's application."""

    challenger_cpus: float = 0.25
    """CPUs of each challenger's replica."""
    profile_window_s: float | None = 3600.0
    """Width, seconds of event time, of the windows of live profiles; None: no profiles."""
    report: bool = True
    """Whether replicas write the prediction log, metrics and profiles."""
    deadline_s: float = 90.0
    """Seconds within which an application must run."""


def connect_config_writer(settings: Settings) -> ActorHandle[Any]:
    """Connect to the configuration writer of this cluster; start it if absent."""
    return get_or_create(ACTOR, ServeConfigWriter, settings, max_task_retries=2)


class ServeConfigWriter:
    """Changes Serve's configuration. A method returns once every replica has applied its change.

    Rollout controllers pass their ``epoch``; people pass none.

    Raises:
        RayloopError: A replica fails to apply it, or does not in time.
        WriterReplaced: A controller with a higher epoch has changed the model, or a newer writer has started.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        self._settings, self._readiness = settings, ServeReadiness(settings)
        self._write_lock = asyncio.Lock()
        self._epoch = take_epoch(ACTOR)
        self._written: Applications = {}
        self._starting: list[ModelVersion] = []
        self._loop = asyncio.get_running_loop().create_task(self._watch())

    async def served_settings(self) -> Settings:
        """Return the settings of the running deployments: those that this actor was started with."""
        return self._settings

    async def deploy(self, champion: ModelVersion, options: ServingOptions) -> None:
        """Serve a version: as a new application, or in the running one.

        Args:
            champion: The version. It is loaded here first, so that a version that does not load never reaches Serve.
            options: Resources of the application.

        Raises:
            RolloutError: The model has a rollout in progress.
            RayloopError: The version does not load, or its replicas do not run in time.
        """
        await in_thread(options.deadline_s, f"the bundle of {champion}", Scorer, champion, self._settings)
        log_writer = connect_log_writer(champion.model, self._settings)
        await within(options.deadline_s, "the log writer", log_writer.pid.remote())
        environment = application_environment(self._settings)
        # Before a Python model starts: a rollout in progress refuses the change anyway.
        kept_split(server_config(await self._read(), champion.model), champion)

        def change(apps: Applications) -> None:
            current = server_config(apps, champion.model)
            split = kept_split(current, champion)
            if serve_schema.ROOT_APP not in apps:
                apps[serve_schema.ROOT_APP] = application(
                    serve_schema.ROOT_APP, root_app.ROOT_ROUTE, "deployments.ingress.root_app", environment, _FRONT
                )
            shared = options.model_dump(include={"profile_window_s", "limits", "report"})
            kept = {"halt": current.halt, "epoch": current.epoch, "split": split} if current else {}
            config = ServerConfig.model_validate({"champion": champion, "writer": self._epoch} | kept | shared)
            name = serve_schema.model_app_name(champion.model)
            apps[name] = application(
                name,
                f"{root_app.ROOT_ROUTE}/models/{champion.model}",
                "deployments.ingress.model_app",
                environment,
                deployment(serve_details.MODEL_DEPLOYMENT, options.replicas, options.cpus, config),
            )

        async with self._python_model(PythonServerConfig(version=champion), options.deadline_s):
            await self._write(change)
        deadline = time.monotonic() + options.deadline_s
        await self._readiness.await_running(serve_schema.ROOT_APP, deadline)
        await self._readiness.await_applied(champion.model, deadline)
        if self._settings.door:
            await self._readiness.await_in_door(champion.model, deadline, options.deadline_s)
        await self._drop_unused(champion.model)

    async def start_challenger(
        self,
        rollout: str,
        challenger: ModelVersion,
        options: ServingOptions,
        max_growth_mib: float | None = None,
        epoch: int | None = None,
    ) -> None:
        """Start a challenger's application; it is removed again if it does not run in time.

        Args:
            rollout: Rollout of the challenger.
            challenger: The version.
            options: Resources of the application.
            max_growth_mib: Growth of memory beyond which its replica terminates, MiB; None: no limit.
            epoch: Epoch of the controller.
        """
        name = serve_schema.challenger_app_name(challenger.model, rollout, challenger.version)
        config = ChallengerConfig(challenger=challenger, rollout=rollout, max_growth_mib=max_growth_mib)
        replica = deployment(_CHALLENGER, 1, options.challenger_cpus, config)
        environment = application_environment(self._settings)

        def change(apps: Applications) -> None:
            check_epoch(apps, challenger.model, epoch)
            apps[name] = application(name, None, "deployments.inference.challenger_app", environment, replica)

        python = PythonServerConfig(version=challenger, rollout=rollout, max_growth_mib=max_growth_mib)
        async with self._python_model(python, options.deadline_s, epoch):
            await self._write(change)
            try:
                await self._readiness.await_running(name, time.monotonic() + options.deadline_s)
            except RayloopError:
                await self._write(lambda apps: apps.pop(name, None))
                raise

    async def retain_challengers(
        self, model: str, rollout: str, versions: tuple[str, ...], epoch: int | None = None
    ) -> None:
        """Remove all other challengers of the model; their replicas drain in the background.

        A Python model goes with the last variant of its version.
        """

        def change(apps: Applications) -> None:
            check_epoch(apps, model, epoch)
            drop_challengers(apps, model, retained)

        retained = {serve_schema.challenger_app_name(model, rollout, version) for version in versions}
        running = challengers(await self._read(), model)
        if not running <= retained:
            await self._write(change)
        await self._drop_unused(model, versions, epoch)

    async def set_rollout(
        self, model: str, split: TrafficSplit | None, epoch: int | None = None, deadline_s: float = 30.0
    ) -> None:
        """Set the challengers and their share of requests; None sends all requests to the champion.

        Raises:
            RolloutError: A challenger of ``split`` was halted.
        """

        def update(current: ServerConfig) -> dict[str, Any]:
            if split and (halted := halted_versions(current, split.rollout) & {v.version for v in split.challengers}):
                raise RolloutError(
                    "rollout.challengers_halted", model=model, rollout=split.rollout, versions=sorted(halted)
                )
            return {"split": split}

        await self._change_server(model, update, epoch, deadline_s)

    async def halt_challengers(
        self, model: str, halt: Halt, epoch: int | None = None, deadline_s: float = 30.0
    ) -> None:
        """Take challengers out of the split, now and for the rest of their rollout.

        Needs Serve only: neither a model is loaded nor a store asked.
        """

        def update(current: ServerConfig) -> dict[str, Any]:
            versions = tuple(sorted(halted_versions(current, halt.rollout) | {*halt.versions}))
            split = current.split.without(versions) if current.split else None
            return {"split": split, "halt": halt.model_copy(update={"versions": versions})}

        await self._change_server(model, update, epoch, deadline_s)

    async def set_champion(self, champion: ModelVersion, epoch: int | None = None, deadline_s: float = 30.0) -> None:
        """Change the champion and end the traffic split, in one change."""
        update = {"champion": champion, "split": None}
        current = await self.current_config(champion.model) if PythonRecord.of(champion) else None
        if current is not None and current.champion.version == champion.version:
            # The end of a rollout must not wait for a Python model.
            await self._change_server(champion.model, lambda current: update, epoch, deadline_s)
            return
        async with self._python_model(PythonServerConfig(version=champion), deadline_s, epoch):
            await self._change_server(champion.model, lambda current: update, epoch, deadline_s)

    async def current_config(self, model: str) -> ServerConfig | None:
        """Return the configuration of a model's server; None when it is not deployed."""
        return server_config(await self._read(), model)

    async def moves(self) -> Moves:
        """Return the shares of requests that the doors send to a second cluster."""
        return read_moves(await self._read())

    async def set_share(self, model: str, address: str, share: float | None) -> Moves:
        """Set the share of a model's requests that the doors send to a second cluster.

        Args:
            model: Name of the model.
            address: Dashboard of the second cluster.
            share: In [0, 1]; with 0 the doors reach its replicas, and send what names them. None: the model does not
                move.

        Raises:
            RayloopError: Nothing is served, or other models are moving elsewhere.
        """

        def change(apps: Applications) -> None:
            moves = read_moves(apps)
            moves = moves.without(model) if share is None else moves.with_share(model, address, share)
            write_moves(apps, moves.model_copy(update={"writer": self._epoch}))

        await self._write(change)
        return await self.moves()

    async def has_challenger(self, model: str, rollout: str, version: str) -> bool:
        """Whether a challenger's application is declared."""
        return serve_schema.challenger_app_name(model, rollout, version) in await self._read()

    async def remove(self, model: str) -> None:
        """Stop serving a model, if it is served."""

        def change(apps: Applications) -> None:
            apps.pop(serve_schema.model_app_name(model), None)
            drop_challengers(apps, model)
            for name in unused_python_models(apps, model, set()):
                del apps[name]

        await self._write(change)
        await self._readiness.await_removed(model, _DRAIN_S)

    @asynccontextmanager
    async def _python_model(
        self, config: PythonServerConfig, deadline_s: float, epoch: int | None = None
    ) -> AsyncIterator[None]:
        """Run the Python model of a version, if it is one, before a variant of the version is declared in the block.

        If the model or the block fails, a model that no variant needs is removed again.
        """
        version, record = config.version, PythonRecord.of(config.version)
        if record is None:
            yield
            return
        name, environment = serve_schema.python_app_name(version), application_environment(self._settings)
        app = python_application(version, record, environment, config)

        def change(apps: Applications) -> None:
            check_epoch(apps, version.model, epoch)
            apps[name] = app

        self._starting.append(version)
        try:
            await self._readiness.await_drained(name, _DRAIN_S)
            await self._write(change)
            await self._readiness.await_running(name, time.monotonic() + deadline_s)
            yield
        except Exception:
            self._starting.remove(version)
            await self._drop_unused(version.model)
            raise
        self._starting.remove(version)

    async def _drop_unused(self, model: str, needed: Sequence[str] = (), epoch: int | None = None) -> None:
        """Remove the Python models of versions that neither answer nor score nor start."""
        kept = {*needed, *(version.version for version in self._starting if version.model == model)}

        def change(apps: Applications) -> None:
            check_epoch(apps, model, epoch)
            for name in unused_python_models(apps, model, kept):
                del apps[name]

        if unused_python_models(await self._read(), model, kept):
            await self._write(change)

    async def _change_server(
        self, model: str, update: Callable[[ServerConfig], dict[str, Any]], epoch: int | None, deadline_s: float
    ) -> None:
        def change(apps: Applications) -> None:
            current = check_epoch(apps, model, epoch)
            if current is None:
                raise RayloopError("rayloop.model_not_deployed", model=model)
            epochs = {"writer": self._epoch, "epoch": current.epoch if epoch is None else epoch}
            config = ServerConfig.model_validate(dict(current) | epochs | update(current))
            apps[serve_schema.model_app_name(model)]["deployments"][0]["user_config"] = config.model_dump(mode="json")

        await self._write(change)
        await self._readiness.await_applied(model, time.monotonic() + deadline_s)

    async def _write(self, change: Callable[[Applications], object]) -> None:
        try:
            async with self._write_lock:
                await in_thread(_WRITE_S, "Serve's REST API", self._write_now, change)
        except WriterReplaced as error:
            if error.fields["writer"] == ACTOR:
                end_actor()
            raise

    def _write_now(self, change: Callable[[Applications], object]) -> None:
        if not is_newest(ACTOR, self._epoch):
            newest = self._epoch + 1
            raise WriterReplaced("cluster.writer_replaced", writer=ACTOR, epoch=self._epoch, newest=newest)
        details = serve_details.fetch_serve_details(self._settings)
        apps = serve_details.declared_applications(details)
        apps |= self._overwritten(apps)
        change(apps)
        http_port, grpc_port = self._settings.proxy_ports
        defaults = {
            "host": self._settings.replica_host,
            "port": http_port,
            "request_timeout_s": serve_schema.REQUEST_TIMEOUT_S,
        }
        # Serve cannot change these options while it runs, and refuses the attempt.
        fixed = details.get("http_options") or {}
        grpc = {"port": grpc_port, "grpc_servicer_functions": [_INFERENCE_SERVICE]}
        config = {
            "proxy_location": details.get("proxy_location") or _proxy_location(self._settings),
            "http_options": {name: fixed.get(name, default) for name, default in defaults.items()},
            "grpc_options": details.get("grpc_options") or grpc,
        }
        client = serve_details.connect_serve_api(self._settings)
        client.deploy_applications(config | {"applications": list(apps.values())})
        self._written = {name: app for name, app in apps.items() if writer_epoch(app) == self._epoch}

    def _overwritten(self, apps: Applications) -> Applications:
        """What this writer wrote, of the applications that an earlier one has overwritten since."""
        written = self._written.items()
        return {name: app for name, app in written if name in apps and writer_epoch(apps[name]) < self._epoch}

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                if self._written and self._overwritten(await self._read()):
                    await self._write(lambda apps: None)
            except WriterReplaced:
                return
            except Exception:
                # Serve may answer later.
                _log.exception("cannot check Serve's configuration")

    async def _read(self) -> Applications:
        return serve_details.declared_applications(await serve_details.read_serve_details(self._settings))


def _proxy_location(settings: Settings) -> str:
    """Where Serve's proxies run: others than the head's are of no use when only their own machine reaches them."""
    return "HeadOnly" if settings.serve_host in ("127.0.0.1", "localhost", "::1") else "EveryNode"


def application_environment(settings: Settings) -> dict[str, Any]:
    """The settings, and rayloop itself if the job brought it because it is not installed."""
    current = ray.get_runtime_context().runtime_env
    code = {key: current[key] for key in ("working_dir", "py_modules") if current.get(key)}
    return code | {"env_vars": settings.environment()}
