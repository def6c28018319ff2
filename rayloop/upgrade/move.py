"""``rayloop move``: requests of a model go to a second cluster, a share of the keys at a time, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import ray
from ray.actor import ActorHandle

from cluster import connection
from cluster.actors import find_actor, get_result, session_name
from cluster.door.moves import SECOND, Moves
from cluster.door.probe import answering_cluster, door_status
from cluster.errors import RayloopError, RolloutError
from cluster.names import log_writer_actor, monitor_actor, rollout_actor
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.claims import Claim
from cluster.storage.tables import Tables
from cluster.values import ModelVersion, MoveMark
from deployments.inference.predictor import fetch_bundle
from deployments.rollout.applications import server_config
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.serve_config import connect_config_writer
from deployments.rollout.serve_details import declared_applications, deployment_statuses, fetch_serve_details
from deployments.serve_schema import model_app_name
from features.manifest import Manifest
from rayloop.simulation.api_key import temporary_key
from rayloop.upgrade.comparison import compare_clusters

_WRITE_S = 120.0
_DOOR_S = 15.0
_POLL_S = 0.05
_NO_MOVE = "no model is moving"

Report = Callable[[str], None]


def move_model(
    settings: Settings, model: str, address: str, share: float, rows: int, anyway: bool, report: Report
) -> None:
    """Send a share of a model's requests to a second cluster, once both give the same answers.

    Args:
        settings: The first cluster.
        model: Name of the model.
        address: Dashboard of the second cluster.
        share: In [0, 1]; with 0 the answers are compared, and nothing moves.
        rows: Rows of the prediction log to compare; 0: none.
        anyway: Move although answers differ.
        report: Called with each line of the evidence.

    Raises:
        RolloutError: The model has a rollout in progress.
        RayloopError: The clusters do not serve the same version, the door does not reach the second one, answers
            differ, or other models are moving elsewhere.
    """
    connection.connect(settings)
    writer = connect_config_writer(settings)
    before = _moves(writer).shares.get(model)
    version = _same_version(settings, _second(settings, address), model)
    with _without_rollouts(settings, model, before, share):
        try:
            get_result(writer.set_share.remote(model, address, before or 0.0), _WRITE_S)
            _await_door(settings, model, SECOND)
            if rows:
                _require_equal_answers(settings, version, rows, anyway, report)
            moves = get_result(writer.set_share.remote(model, address, share), _WRITE_S)
        except BaseException:
            if before is None:
                get_result(writer.set_share.remote(model, address, None), _WRITE_S)
            raise
    report(f"{model}: {describe_share(moves, model)}")


def move_back(settings: Settings, model: str, report: Report) -> None:
    """Send all requests of a model, or of all models that move, to the first cluster.

    Args:
        settings: The first cluster.
        model: Name of the model; empty: all that move.
        report: Called with a line for each model.

    Raises:
        RayloopError: The first cluster does not serve the model any more.
    """
    connection.connect(settings)
    writer = connect_config_writer(settings)
    moves = _moves(writer)
    if not model and not moves.shares:
        report(_NO_MOVE)
    for name in [model] if model else sorted(moves.shares):
        if get_result(writer.current_config.remote(name), _WRITE_S) is None:
            raise RayloopError("rayloop.move_finished", model=name, address=moves.address)
        began = time.monotonic()
        get_result(writer.set_share.remote(name, moves.address, None), _WRITE_S)
        try:
            _await_door(settings, name, "")
            report(f"{name}: all requests are back after {time.monotonic() - began:.2f} s")
        finally:
            Registry(settings).set_move(name, None)


def finish_move(settings: Settings, model: str, report: Report) -> None:
    """Delete a model in the first cluster, which frees its memory, once all its requests go to the second one.

    Args:
        settings: The first cluster.
        model: Name of the model.
        report: Called with a line.

    Raises:
        RayloopError: Not all of its requests go there.
    """
    connection.connect(settings)
    writer = connect_config_writer(settings)
    moves = _moves(writer)
    if (share := moves.shares.get(model, 0.0)) < 1.0:
        raise RayloopError("rayloop.move_unfinished", model=model, percent=100 * share)
    get_result(writer.remove.remote(model), _WRITE_S)
    if (log_writer := find_actor(log_writer_actor(model))) is not None:
        get_result(log_writer.flush.remote(), _WRITE_S)
    # The second cluster's have taken over; the monitor's state is stored.
    for name in (monitor_actor(model), rollout_actor(model)):
        if (actor := find_actor(name)) is not None:
            ray.kill(actor)
    report(f"{model}: deleted here; {moves.address} serves it")


def show_moves(settings: Settings, report: Report) -> None:
    """Report each model that moves: its share, and its replicas in both clusters."""
    connection.connect(settings)
    moves = _moves(connect_config_writer(settings))
    statuses = [
        deployment_statuses(each, sorted(moves.shares)) if moves.address else {}
        for each in (settings, _second(settings, moves.address))
    ]
    for model in sorted(moves.shares):
        counts = [f"{each[model].running} of {each[model].desired}" if model in each else "no" for each in statuses]
        report(f"{model}: {describe_share(moves, model)}; {counts[0]} replicas run here, {counts[1]} there")
    if not moves.shares:
        report(_NO_MOVE)


def describe_share(moves: Moves, model: str) -> str:
    """Describe which part of a model's requests goes where."""
    return f"{100 * moves.shares[model]:.3g}% of the keys go to {moves.address}"


def _second(settings: Settings, address: str) -> Settings:
    return settings.model_copy(update={"address": address})


def _moves(writer: ActorHandle[Any]) -> Moves:
    moves: Moves = get_result(writer.moves.remote(), _WRITE_S)
    return moves


def _same_version(first: Settings, second: Settings, model: str) -> ModelVersion:
    """The champion that both clusters serve."""
    here, there = (declared_applications(fetch_serve_details(cluster)) for cluster in (first, second))
    for cluster, apps in ((first, here), (second, there)):
        if model_app_name(model) not in apps:
            raise RayloopError("rayloop.move_not_served", model=model, address=cluster.dashboard)
    # Of a newer release's configuration only this is read.
    other = there[model_app_name(model)]["deployments"][0]["user_config"]["champion"]["version"]
    config = server_config(here, model)
    assert config is not None
    if (version := config.champion.version) != other:
        address = second.dashboard
        raise RayloopError("rayloop.move_other_version", model=model, version=version, address=address, other=other)
    return config.champion


@contextmanager
def _without_rollouts(settings: Settings, model: str, before: float | None, share: float) -> Iterator[None]:
    """Let no rollout of the model begin, in either cluster, while its requests go to both.

    The mark keeps controllers from starting one; the claim keeps a controller that has not seen the mark from writing.
    """
    registry, writer = Registry(settings), rollout_actor(model)
    _require_no_rollout(settings, model)
    earlier = registry.move(model)
    registry.set_move(model, MoveMark(cluster=session_name(), share=min(share, before or 0.0)))
    try:
        if before is None:
            Claim.take(settings, writer, uuid4().hex)
            if (controller := find_actor(writer)) is not None:
                ray.kill(controller)
            _require_no_rollout(settings, model)
        yield
        registry.set_move(model, MoveMark(cluster=session_name(), share=share))
    except BaseException:
        registry.set_move(model, earlier)
        raise


def _require_no_rollout(settings: Settings, model: str) -> None:
    state = RolloutJournal(model, Tables(settings)).last_state()
    if state is not None and state.active:
        raise RolloutError("rollout.in_progress", model=model, rollout=state.id)


def _require_equal_answers(settings: Settings, version: ModelVersion, rows: int, anyway: bool, report: Report) -> None:
    features = Manifest.load(fetch_bundle(version, settings)).features
    with temporary_key(settings, version.model, f"move of {version.model}") as headers:
        comparison = compare_clusters(settings, version.model, features, rows, headers)
    for line in comparison.describe():
        report(line)
    if comparison.differences and not anyway:
        differences = len(comparison.differences)
        raise RayloopError("rayloop.move_differs", model=version.model, differences=differences, rows=rows)


def _await_door(settings: Settings, model: str, cluster: str) -> None:
    """Until this host's door reaches the model in the second cluster, or with "" no longer does."""
    deadline = time.monotonic() + _DOOR_S
    while answering_cluster(settings, model, SECOND) != cluster:
        if time.monotonic() > deadline:
            if door_status(settings, "/v2/health/live") is None:
                raise RayloopError("rayloop.door_silent", host=settings.serve_host, port=settings.serve_port)
            raise RayloopError("rayloop.move_not_reached", cluster=cluster or "first", url=f"/v2/models/{model}")
        time.sleep(_POLL_S)
