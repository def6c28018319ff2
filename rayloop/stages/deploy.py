"""Calls to the actors that own serving, rollouts and monitoring; the release of versions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.actors import actor_exists, get_result
from cluster.errors import RolloutError, SettingsError, VersionNotFound
from cluster.names import CHAMPION, log_writer_actor
from cluster.settings import Settings
from cluster.values import Decision, ModelVersion
from deployments.rollout import serve_config
from deployments.rollout.controller import connect_controller
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.serve_config import ServingOptions, connect_config_writer
from deployments.rollout.state_machine import format_versions
from deployments.telemetry.log_writer import connect_log_writer
from features.manifest import PROFILE_FILE
from monitoring.detection.alarm_actions import AlarmAction
from monitoring.drift_policy import Action
from monitoring.runtime.facts_reader import RetrainHandlers
from monitoring.runtime.monitor_actor import start_monitor
from rayloop.context import ProjectContext
from rayloop.label_delay import describe_path, drift_policy, find_label_delay, rollout_policy
from rayloop.live_limits import compare_limits, live_limits, watch_limits
from rayloop.retraining.loop_facts import LoopFactsTask
from rayloop.stages.alarm_jobs import retrain_job, rollback_job, shipped_package, triggered_job
from rayloop.stages.log_analysis_task import LogAnalysisTask
from rayloop.stages.project_code import store_code

ROLLED_BACK = "rayloop.rolled_back_because"
STORE_VARIABLES = ("RAYLOOP_ONLINE_STORE", "RAYLOOP_PERSONAL_KEY_FILE")
ACCESS_VARIABLES = ("RAYLOOP_ACCESS", "RAYLOOP_RATE_STORE", "RAYLOOP_JWKS", "RAYLOOP_JWT")
_POLL_S = 0.25
_ABORT_S = 120.0


def require_same_settings(
    context: ProjectContext, prefixes: tuple[str, ...] = (*STORE_VARIABLES, *ACCESS_VARIABLES)
) -> None:
    """Refuse settings that differ from those of the running deployments, before any work is done.

    Args:
        context: The project.
        prefixes: How the names of the compared environment variables begin; by default, those of the stores, the
            pseudonym key and access control.

    Raises:
        SettingsError: They differ.
    """
    if actor_exists(serve_config.ACTOR):
        served = get_result(connect_config_writer(context.settings).served_settings.remote())
        check_settings(context.settings, served, prefixes)


def check_settings(local: Settings, served: Settings, prefixes: tuple[str, ...]) -> None:
    """Check that settings are equal.

    Args:
        local: Settings of this process.
        served: Settings of the running deployments.
        prefixes: How the names of the compared environment variables begin.

    Raises:
        SettingsError: They differ.
    """
    # The online store by its address, whose default depends on the home.
    here, there = (each.environment() | {"RAYLOOP_ONLINE_STORE": each.online_store_uri} for each in (local, served))
    for variable in sorted(here.keys() | there.keys()):
        if variable.startswith(prefixes) and here.get(variable) != there.get(variable):
            # Without the values: an address may contain a password.
            raise SettingsError("settings.differ", variable=variable)


def deploy(context: ProjectContext, version: ModelVersion) -> None:
    """Serve a version as champion, monitor it, and move the alias."""
    store_code(context, version)
    # Before Serve, so that replicas find the monitor when they start.
    _monitor(context)
    get_result(connect_config_writer(context.settings).deploy.remote(version, serving_options(context)))
    context.registry.set_alias(version, CHAMPION)
    monitor_version(context, version)


def resume_serving(context: ProjectContext) -> ModelVersion:
    """Serve the champion and go on with the rollout that the journal says is in progress, on a cluster without either.

    Returns:
        The champion.

    Raises:
        VersionNotFound: There is no champion.
    """
    champion = context.champion
    if champion is None:
        raise VersionNotFound("registry.no_champion", model=context.project.name)
    deploy(context, champion)
    # A controller that starts reads the journal.
    rollout_status(context)
    return champion


def release(context: ProjectContext, *versions: ModelVersion) -> None:
    """Serve the first version directly; roll out later ones, one or several, against the champion."""
    champion, version = context.champion, versions[0]
    if champion is None and len(versions) > 1:
        raise VersionNotFound("registry.no_champion", model=context.project.name)
    with context.progress.stage("serve"):
        if champion is None:
            deploy(context, version)
            done = f"{version} is served as the first champion"
        elif (champion.version,) == tuple(v.version for v in versions):
            deploy(context, version)
            done = f"{version} is already the champion"
        else:
            if not is_serving(context, champion):
                deploy(context, champion)
            start_rollout(context, versions)
            done = f"rollout of {' and '.join(map(str, versions))} against v{champion.version} started"
        context.progress(done)


def is_serving(context: ProjectContext, version: ModelVersion) -> bool:
    """Return whether a version is the champion that Serve serves now."""
    served = get_result(connect_config_writer(context.settings).current_config.remote(version.model))
    return served is not None and bool(served.champion.version == version.version)


def serving_options(context: ProjectContext) -> ServingOptions:
    """Return the resources that the project declares for its application."""
    return ServingOptions(**dict(context.project.serving), profile_window_s=context.project.drift.window_s)


def monitor_version(context: ProjectContext, version: ModelVersion) -> None:
    """Give the drift monitor a version's reference profile."""
    reference = (context.registry.fetch(version) / PROFILE_FILE).read_bytes()
    policy = watch_limits(drift_policy(context, find_label_delay(context)), live_limits(context))
    get_result(_monitor(context).watch.remote(version.version, reference, policy, dict(context.project.tags)))


def follow_triggers(context: ProjectContext) -> None:
    """Let the drift monitor follow the project's triggers and budget of retraining.

    Only for commands of a person: the job of an alarm or of a trigger runs the project as it was shipped long ago, and
    would bring its triggers back.
    """
    get_result(_monitor(context).schedule.remote(context.project.retrain.policy))


def _monitor(context: ProjectContext) -> ActorHandle[Any]:
    settings, place, folder = context.settings, context.location, shipped_package()
    acts: dict[Action, AlarmAction] = {"rollback": rollback_job(settings, place, folder)}
    if not context.project.model.is_fixed:
        # A model that is not trained here cannot be trained again: an alarm notifies.
        acts["retrain"] = retrain_job(settings, place, context.project.drift.window_s, folder)
    name, project = context.project.name, context.project
    tables = {source.name: f"{name}.{source.name}" for source in project.sources}
    facts = LoopFactsTask(settings, name, tables | {"": tables[project.examples.source]})
    retraining = RetrainHandlers(facts, triggered_job(settings, place, folder, name))
    return start_monitor(settings, name, acts, LogAnalysisTask(settings), retraining=retraining)


def start_rollout(context: ProjectContext, challengers: Sequence[ModelVersion]) -> RolloutStatus:
    """Start a rollout of one or several challengers. Raises RolloutError when the controller refuses it."""
    store_code(context, *challengers)
    delay = find_label_delay(context)
    policy = compare_limits(rollout_policy(context.project, delay), live_limits(context))
    context.progress(f"path of the rollout: {describe_path(policy, delay)}")
    actor = connect_controller(context.project.name, context.settings)
    return get_result(actor.start.remote(challengers, policy, serving_options(context)))


def roll_back(context: ProjectContext, version: str, reason: str) -> ModelVersion:
    """Restore the champion before ``version``; a rollout in progress is aborted first.

    Args:
        context: The project.
        version: The champion to roll back. When it is no longer champion, nothing is done.
        reason: For the journal and the version's tags.

    Returns:
        The champion afterward.

    Raises:
        VersionNotFound: There is no champion.
        RolloutError: There is none before ``version``.
    """
    name, champion = context.project.name, context.champion
    if champion is None:
        raise VersionNotFound("registry.no_champion", model=name)
    if champion.version != version:
        return champion
    before = predecessor(RolloutJournal(name, context.tables).decisions(), version)
    if before is None:
        raise RolloutError("rollout.no_predecessor", model=name, version=version)
    status = rollout_status(context)
    if status.state is not None and status.state.active:
        abort_rollout(context, f"v{version} is rolled back: {reason}")
        wait_for_rollout(context, _ABORT_S)
    restored = context.registry.version(name, before)
    # The journal first: a controller that restarts serves what its last entry says.
    get_result(connect_controller(name, context.settings).roll_back.remote(before, reason))
    deploy(context, restored)
    context.registry.set_tag(champion, ROLLED_BACK, reason)
    return restored


def predecessor(decisions: Sequence[Decision], version: str) -> str | None:
    """Return the champion before ``version``, by the journal; None when it was the first."""
    took_over = [d for d in decisions if d.action == "promote" and version in d.challengers]
    return took_over[-1].champion if took_over else None


def abort_rollout(context: ProjectContext, reason: str) -> None:
    """Abort the current rollout."""
    get_result(connect_controller(context.project.name, context.settings).abort.remote(reason))


def rollout_status(context: ProjectContext) -> RolloutStatus:
    """Return the status of the newest rollout."""
    return get_result(connect_controller(context.project.name, context.settings).status.remote())


def wait_for_rollout(context: ProjectContext, limit_s: float) -> RolloutStatus:
    """Wait until the current rollout has ended. Raises RolloutError after ``limit_s`` seconds."""
    deadline = time.monotonic() + limit_s
    while True:
        status = rollout_status(context)
        if status.state is None or status.finished:
            return status
        if time.monotonic() > deadline:
            versions = format_versions(status.state.challengers)
            raise RolloutError("rollout.undecided", model=context.project.name, limit_s=limit_s, versions=versions)
        time.sleep(_POLL_S)


def flush_log(context: ProjectContext) -> dict[str, int]:
    """Commit the rows that the prediction and label log has received. Returns the number of rows of each table."""
    return get_result(connect_log_writer(context.project.name, context.settings).flush.remote())


def flush_log_if_served(context: ProjectContext) -> None:
    """Commit the prediction log if the project's log writer runs."""
    if ray.is_initialized() and actor_exists(log_writer_actor(context.project.name)):
        flush_log(context)
