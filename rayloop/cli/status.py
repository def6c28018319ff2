"""What a person asks at the prompt: is it up, is it sound, what made that decision, stop that rollout."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import psutil
import ray

from cluster import connection, local_cluster
from cluster.actors import find_actor, get_result
from cluster.errors import DataError, ProjectError, RayloopError
from cluster.names import ACTOR_NAMESPACE, log_writer_actor, monitor_actor, predictions_table, rollout_actor
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.analysis.evidence import Evidence
from deployments.rollout.controller import RolloutStatus
from deployments.rollout.serve_config import Standing, standings
from deployments.rollout.serve_config import connect as serve_config
from deployments.rollout.state_machine import RolloutState, named
from rayloop.cli.rollout_commands import rollout_summary
from rayloop.stages.deploy import JOB_ACTIONS, describe_job, require_same_stores

Tell = Callable[[str], None]

_GIB = 1024**3
_MIN_DISK_GIB = 5
_FLUSH_S = 30.0
_ALARMS = 3


def show_status(settings: Settings, tell: Tell) -> None:
    """One block a served model: versions, rollout, drift."""
    connection.connect(settings)
    resources, free = ray.cluster_resources(), ray.available_resources()
    cpus = f"{free.get('CPU', 0):g} of {resources.get('CPU', 0):g} CPUs free"
    tell(f"cluster {settings.dashboard}: {len(ray.nodes())} nodes, {cpus}, {resources.get('GPU', 0):g} GPUs")
    models = _models()
    found = standings(settings, models) if models else {}
    for model in models:
        _show_model(settings, model, found.get(model), tell)
    if not models:
        tell("no model is served; `rayloop run <project>` serves one")


def check_machine(settings: Settings, tell: Tell) -> bool:
    """A line for each thing that must hold; False when one does not."""
    checks = (_versions, _memory, _disk, _mlflow, _tables, _cluster)
    passed = [_passes(check, settings, tell) for check in checks]
    return all(passed)


def show_trace(settings: Settings, model: str, request: str, tell: Tell) -> None:
    """Print what led to an answer. Raises DataError when the log has no such request."""
    table = predictions_table(model)
    rows = Tables(settings).read(table, where=("request", request))
    if not rows.num_rows:
        raise DataError(
            f"{model} has answered no request {request!r}", "rows reach the log within seconds; is the id right?"
        )
    for row in rows.to_pylist():
        _tell_row(row, tell)
    registry = Registry(settings)
    for number in sorted(set(rows["version"].to_pylist())):
        version = registry.version(model, number)
        tell(f"version   {version}")
        tell(f"run       {settings.mlflow_server}/#/runs/{version.run_id}")
        for label, tag in (
            ("snapshot", "rayloop.snapshot"),
            ("features", "rayloop.features"),
            ("code", "rayloop.code"),
        ):
            tell(f"{label:<9} {version.tags.get(tag, 'unknown')}")
        tell(f"bundle    {version.bundle_uri}")


def forget_entity(settings: Settings, project: str, entity: Sequence[str], tell: Tell) -> None:
    """Delete an entity's rows, given as column=value, and print the account. Raises ProjectError for one that is not so."""
    from rayloop.console import ProgressConsole
    from rayloop.context import ProjectContext
    from rayloop.project import load_project, locate_project
    from rayloop.stages.erase_entity import erase_entity

    pairs = [pair.partition("=") for pair in entity]
    if not all(name and equals and value for name, equals, value in pairs):
        raise ProjectError("an entity is named by --entity column=value", "such as --entity tailnum=N14228")
    location = locate_project(project)
    if local_cluster.is_running(settings):
        connection.connect(settings)
    workspace = ProjectContext(load_project(location), location, settings, ProgressConsole())
    if ray.is_initialized():
        require_same_stores(workspace)
    account = erase_entity(workspace, {name: value for name, _, value in pairs}, datetime.now(UTC))
    for one in account.deleted:
        tell(str(one))
    for place in account.remains:
        tell(f"remains: {place}")


def flush_logs(settings: Settings, tell: Tell) -> None:
    """Commit what the prediction logs of all served models still hold in memory."""
    connection.connect(settings)
    for model in _models():
        actor = find_actor(log_writer_actor(model))
        if actor is not None:
            counts = ray.get(actor.flush.remote(), timeout=_FLUSH_S)
            tell(f"{model}: log committed, {counts['predictions']:,} predictions and {counts['labels']:,} labels")
    ray.shutdown()


def _models() -> list[str]:
    """Models that have a log on this cluster, served or not any more."""
    names = [a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == ACTOR_NAMESPACE]
    prefix = log_writer_actor("")
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _show_model(settings: Settings, model: str, stands: Standing | None, tell: Tell) -> None:
    served = get_result(serve_config(settings).current.remote(model))
    tell(f"\n{model}: " + (f"champion v{served.champion.version}{_replicas(stands)}" if served else "not served"))
    lost = get_result(find_actor(log_writer_actor(model)).lost.remote())
    if lost["replicas"]:
        rows = f"{lost['predictions']:,} predictions and {lost['labels']:,} labels"
        tell(f"  log: {rows} were lost with {lost['replicas']} killed replica(s)")
    rollout = find_actor(rollout_actor(model))
    status = get_result(rollout.status.remote()) if rollout is not None else None
    if served and served.trial:
        for challenger in served.trial.challengers:
            tell(f"  challenger v{challenger.version} at {100 * served.trial.share:.3g}%")
    if status is not None and status.state is not None:
        _show_rollout(status, time.time(), tell)
    monitor = find_actor(monitor_actor(model))
    if monitor is not None:
        found = get_result(monitor.status.remote())
        drifting = "DRIFTING" if found["drifting"] else "quiet"
        tell(f"  drift: {drifting}, {_windows(found)}, {len(found['alarms'])} alarms")
        for entry in _newest(found["alarms"]):
            tell(f"    {_when(entry['at'])} {_alarm(settings, entry)}")
        _show_look(found, tell)
    tell(f"  {settings.endpoint}/v2/models/{model}")


def _replicas(found: Standing | None) -> str:
    """What stands behind the champion's name."""
    if found is None:
        return ""
    counted = f", {found.running} of {found.wanted} replicas run"
    return f"{counted}: {found.trouble}" if found.trouble else counted


def _windows(found: dict[str, Any]) -> str:
    """How many windows have closed, and why there is no verdict on the last, where there is none."""
    last = found["last_window"]
    why = f" (no verdict on the last: {last['note']})" if last and not last["judged"] else ""
    return f"{found['windows']} windows closed{why}"


def _newest(alarms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last alarms, and before them the last that submitted a job: one fault may raise many."""
    acted = [entry for entry in alarms[:-_ALARMS] if entry["action"] in JOB_ACTIONS]
    return acted[-1:] + alarms[-_ALARMS:]


def _alarm(settings: Settings, entry: dict[str, Any]) -> str:
    """An alarm, what was done, and how that stands."""
    alarm = entry["alarm"]
    done = describe_job(settings, entry["action"], entry["outcome"], entry["failed"])
    return f"{alarm['kind']}: {entry['action']} {done}: {alarm['reason']}"


def _show_look(found: dict[str, Any], tell: Tell) -> None:
    """The newest look at logged rows, and what the model costs."""
    looked = found["last_look"]
    if looked is not None:
        kinds = sorted({one["kind"] for one in looked["findings"]})
        apart = looked["multivariate"]
        auc = f", AUC against training {apart['separation']['auc']:.2f}" if apart else ""
        tell(f"  looked at {looked['rows']:,} rows{auc}: {', '.join(kinds) or 'nothing beyond what is ordinary'}")
    if found["last_error"]:
        tell(f"  last failure: {found['last_error']}")
    if found["used"]["requests"]:
        tags = ", ".join(f"{name} {value}" for name, value in found["tags"].items())
        tell(f"  cost: {found['cost']:.4g} for {found['used']['requests']:,} requests" + (f" ({tags})" if tags else ""))


def _show_rollout(status: RolloutStatus, now: float, tell: Tell) -> None:
    state = status.state
    assert state is not None
    several = len(state.entrants) > 1 and state.active
    rest = f" each, {named(state.challengers)}" if several else f": {state.reason}"
    tell(f"  rollout {state.id}: {rollout_summary(state)}{rest}")
    if state.status == "running":
        tell(f"    {_step(state, now)}")
    for version in state.challengers:
        if several and version in status.verdicts:
            verdict = status.verdicts[version]
            tell(f"    v{version}: {verdict.kind}: {verdict.reason}")
        if version in status.evidence:
            tell(f"    {_evidence(state.champion, version, status.evidence[version].total)}")
    for decision in status.decisions:
        if decision.action == "drop":
            tell(f"    {named(decision.challengers)} was dropped: {decision.reason}")


def _step(state: RolloutState, now: float) -> str:
    """How long a rollout has been at its step, and how long it may be."""
    policy, spent = state.policy, max(0.0, state.step_age_s(now)) / 60
    at = f"step {state.step + 1} of {len(policy.steps)} for {spent:,.1f} of {policy.deadline_s / 60:,.1f} min"
    return f"{at}; undecided by then: {policy.on_undecided}, too little seen: {policy.no_data}"


def _evidence(champion: str, challenger: str, seen: Evidence) -> str:
    """What is known of a challenger beside the champion, as a line."""
    arms = ((challenger, seen.challenger), (champion, seen.champion))
    counts = ", ".join(f"v{version} {arm.requests:,} requests ({arm.failures:,} failed)" for version, arm in arms)
    if not seen.paired.n:
        return f"{counts}; no labelled rows yet"
    costs = f"mean cost {seen.paired.challenger:.4f} against {seen.paired.champion:.4f}"
    return f"{counts}; {seen.paired.n:,} labelled rows, {costs}"


def _tell_row(row: dict[str, Any], tell: Tell) -> None:
    features = row["features"] or {}
    tell(f"request   {row['id']}, answered {row['at']:%Y-%m-%d %H:%M:%S} UTC, features as of {row['as_of']}")
    score = row.get("score") if row.get("score") is not None else row.get("probabilities")
    if row["latency_ms"] is None:
        tell(f"answer    none, HTTP 500: v{row['version']} failed: {row['champion_error']}")
    else:
        tell(f"answer    {score} by the {row['variant']}, v{row['version']}, in {row['latency_ms']:.2f} ms")
    if row.get("error"):
        tell(f"fallback  v{row['challenger_version']} was asked, and failed: {row['error']}")
    for name, value in features.items():
        tell(f"  {name} = {value}")


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _passes(check: Callable[[Settings], str], settings: Settings, tell: Tell) -> bool:
    name = check.__name__.strip("_")
    try:
        tell(f"ok    {name}: {check(settings)}")
    except RayloopError as error:
        tell(f"FAIL  {name}: {error}")
        return False
    return True


def _versions(settings: Settings) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "mlflow", "pyiceberg"))


def _memory(settings: Settings) -> str:
    free = psutil.virtual_memory().available / _GIB
    if free < local_cluster.MIN_MEMORY_GIB:
        raise RayloopError(f"{free:.1f} GiB free, {local_cluster.MIN_MEMORY_GIB} are needed", "close other programs")
    return f"{free:.1f} GiB free"


def _disk(settings: Settings) -> str:
    place = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    free = shutil.disk_usage(place).free / _GIB
    if free < _MIN_DISK_GIB:
        raise RayloopError(
            f"{free:.1f} GiB free at {place}, {_MIN_DISK_GIB} are needed", "free some, or set RAYLOOP_HOME"
        )
    return f"{free:.0f} GiB free at {place}"


def _mlflow(settings: Settings) -> str:
    Registry(settings).check()
    return settings.mlflow_uri


def _tables(settings: Settings) -> str:
    Tables(settings).check()
    return str(settings.iceberg["uri"])


def _cluster(settings: Settings) -> str:
    if not local_cluster.is_running(settings):
        return "not running; `rayloop up` starts it"
    connection.connect(settings)
    return f"{len(ray.nodes())} nodes at {settings.dashboard}"
