"""Applications of Serve as they are declared: rayloop's own, and what a declaration says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from cluster.door.moves import Moves
from cluster.errors import RayloopError, RolloutError, WriterReplaced
from cluster.names import rollout_actor
from cluster.values import Frozen, ModelVersion
from deployments import serve_schema
from deployments.serve_schema import PythonServerConfig, ServerConfig, TrafficSplit
from features.python_models.bundle import PythonRecord

Applications = dict[str, dict[str, Any]]
"""Configurations of applications, by name."""
_SHUTDOWN_MARGIN_S = 15.0
_HEALTH_CHECK_S = 2.0


def application(
    name: str, route: str | None, module: str, runtime_env: Mapping[str, Any], deployment: dict[str, Any]
) -> dict[str, Any]:
    """Declare an application of one deployment.

    Args:
        name: Its name.
        route: Prefix of the paths that it answers; None: it is called by handle only.
        module: Module with its entry point ``build``.
        runtime_env: Ray's runtime environment of its replicas.
        deployment: As ``deployment`` declares it.
    """
    return {
        "name": name,
        "route_prefix": route,
        "import_path": f"{module}:build",
        "args": {},
        "runtime_env": runtime_env,
        # The prediction log already has every prediction; Serve would still create a record of each and drop it.
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "deployments": [deployment],
    }


def python_application(
    version: ModelVersion, record: PythonRecord, environment: Mapping[str, Any], config: PythonServerConfig
) -> dict[str, Any]:
    """Declare the application of a version's Python model, with the environment that it needs beside rayloop's."""
    runtime = record.runtime
    own = deployment("PythonServer", runtime.replicas, runtime.cpus, config)
    own["ray_actor_options"]["num_gpus"] = runtime.gpus
    variables = {**runtime.env_vars, **environment.get("env_vars", {})}
    name = serve_schema.python_app_name(version)
    env = {**environment, **runtime.environment, "env_vars": variables}
    # A call that hangs is noticed within seconds.
    own |= {"health_check_period_s": _HEALTH_CHECK_S, "graceful_shutdown_timeout_s": runtime.timeout_s}
    return application(name, None, "deployments.inference.python_app", env, own)


def deployment(name: str, replicas: int, cpus: float, config: Frozen) -> dict[str, Any]:
    """Declare a deployment whose replicas get ``config`` as their ``user_config``."""
    return {
        "name": name,
        "num_replicas": replicas,
        "max_queued_requests": serve_schema.MAX_QUEUED_REQUESTS,
        # A replica that leaves may finish what it has; without requests in progress it does not wait.
        "graceful_shutdown_timeout_s": serve_schema.REQUEST_TIMEOUT_S + _SHUTDOWN_MARGIN_S,
        "backpressure_config": {"status_code": 503, "retry_after_s": serve_schema.RETRY_AFTER_S},
        "ray_actor_options": {"num_cpus": cpus},
        "user_config": config.model_dump(mode="json"),
    }


def server_config(apps: Applications, model: str) -> ServerConfig | None:
    """Return the configuration of a model's server; None when it is not declared."""
    app = apps.get(serve_schema.model_app_name(model))
    return ServerConfig.from_stored(app["deployments"][0]["user_config"]) if app else None


def read_moves(apps: Applications) -> Moves:
    """Return the moves to a second cluster, which the root application's configuration holds."""
    return Moves.of_application(apps.get(serve_schema.ROOT_APP, {}))


def write_moves(apps: Applications, moves: Moves) -> None:
    """Change the moves to a second cluster. Raises RayloopError when nothing is served."""
    if serve_schema.ROOT_APP not in apps:
        raise RayloopError("rayloop.model_not_deployed", model=serve_schema.ROOT_APP)
    apps[serve_schema.ROOT_APP]["deployments"][0]["user_config"] = moves.model_dump(mode="json")


def check_epoch(apps: Applications, model: str, epoch: int | None) -> ServerConfig | None:
    """Return the configuration of a model's server, for a controller with an epoch, or a person, who has none.

    Raises:
        WriterReplaced: A newer controller has changed it.
    """
    current = server_config(apps, model)
    if current is not None and epoch is not None and epoch < current.epoch:
        writer = rollout_actor(model)
        raise WriterReplaced("cluster.writer_replaced", writer=writer, epoch=epoch, newest=current.epoch)
    return current


def writer_epoch(app: Mapping[str, Any]) -> int:
    """Return the epoch of the actor that wrote an application's configuration; 0 if it has none."""
    configs = [each.get("user_config") or {} for each in app.get("deployments", [])]
    return max((config.get("writer", 0) for config in configs), default=0)


def challengers(apps: Applications, model: str) -> set[str]:
    """Return the names of the applications of a model's challengers."""
    return {name for name in apps if name.startswith(serve_schema.challenger_prefix(model))}


def drop_challengers(apps: Applications, model: str, retained: Set[str] = frozenset()) -> None:
    """Remove the applications of a model's challengers, but for those whose names are retained."""
    for name in challengers(apps, model) - retained:
        del apps[name]


def unused_python_models(apps: Applications, model: str, needed: Set[str]) -> set[str]:
    """Return the names of the applications of Python models that no variant of a model needs.

    Args:
        apps: What is declared.
        model: The model.
        needed: Versions that are needed beside those that answer, or score, now.
    """
    config = server_config(apps, model)
    versions = set(needed) | {name.rpartition(".")[2] for name in challengers(apps, model)}
    if config is not None:
        versions |= {config.champion.version, *(v.version for v in (config.split.challengers if config.split else ()))}
    prefix = serve_schema.python_prefix(model)
    return {name for name in apps if name.startswith(prefix) and name.removeprefix(prefix) not in versions}


def kept_split(current: ServerConfig | None, champion: ModelVersion) -> TrafficSplit | None:
    """Return the split that stays when a champion is deployed: that of a probation, in which copies are scored.

    Args:
        current: What is served; None without an application.
        champion: What is deployed.

    Raises:
        RolloutError: A rollout is in progress.
    """
    split = current.split if current else None
    if current is not None and split and (split.share or current.champion.version != champion.version):
        raise RolloutError("rollout.in_progress", model=champion.model, rollout=split.rollout)
    return split


def halted_versions(config: ServerConfig, rollout: str) -> set[str]:
    """Return the versions of a rollout that were halted."""
    return {*config.halt.versions} if config.halt and config.halt.rollout == rollout else set()
