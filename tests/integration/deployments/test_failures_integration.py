"""Failures under load: no request fails, and no acknowledged row of the log is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import ray
from ray.actor import ActorHandle
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import ModelVersion
from deployments.rollout import serve_config
from deployments.rollout.controller import connect_controller
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.serve_config import connect_config_writer
from deployments.rollout_policy import RolloutPolicy
from deployments.serve_schema import challenger_app_name
from deployments.telemetry.log_writer import connect_log_writer
from tests.factories.deployments.bundles import Slope, register, write_bundle
from tests.factories.deployments.faulty_bundles import hanging, leaking, raising
from tests.factories.deployments.request_load import Load, infer_body
from tests.factories.until import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

MODEL = "fragile"
SLOPE = 2.0
GROWTH_MIB = 256.0
LEFT_MEANWHILE = 10
"""Requests that may leave between a look at those under way and a kill."""
SLACK_MIB = 1024.0
"""What an eater may take between two looks at it, on a busy machine."""
POLICY = RolloutPolicy(
    steps=(0.3, 1.0), min_requests=10**6, max_error_rate=0.2, challenger_timeout_s=0.3, poll_s=0.2, deadline_s=300.0
)


@pytest.fixture(scope="module")
def champion(cluster: Settings, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelVersion]:
    folder = tmp_path_factory.mktemp("fragile")
    version = register(registry, MODEL, write_bundle(folder / "champion", Slope(SLOPE)))
    writer = connect_config_writer(cluster)
    ray.get(writer.deploy.remote(version, serve_config.ServingOptions(profile_window_s=86400.0, cpus=0.25)))
    yield version
    ray.get(writer.remove.remote(MODEL))


@pytest.fixture
def rollout(cluster: Settings, champion: ModelVersion) -> Iterator[ActorHandle]:
    actor = connect_controller(MODEL, cluster)
    yield actor
    status: RolloutStatus = ray.get(actor.status.remote())
    if status.state is not None and status.state.active:
        ray.get(actor.abort.remote("end of test"))


@pytest.fixture
def endpoint(cluster: Settings, champion: ModelVersion) -> str:
    return f"{cluster.endpoint}/v2/models/{MODEL}"


def aborted(actor: ActorHandle) -> RolloutStatus:
    until(lambda: ray.get(actor.status.remote()).finished, "the rollout is over")
    status: RolloutStatus = ray.get(actor.status.remote())
    assert status.state.status == "aborted", status.state.reason
    return status


def replicas(settings: Settings, app: str) -> dict[str, int]:
    """Running replicas of an application's only deployment: id and process."""
    application = ServeSubmissionClient(settings.dashboard).get_serve_details()["applications"][app]
    (deployment,) = application["deployments"].values()
    return {r["replica_id"]: r["pid"] for r in deployment["replicas"] if r["state"] == "RUNNING"}


def logged(settings: Settings, name: str) -> list[str]:
    """Request ids of a load in the prediction log."""
    tables = Tables(settings)
    if not tables.exists(f"{MODEL}.predictions"):
        return []
    ids = tables.read(f"{MODEL}.predictions", columns=["id"]).column("id").to_pylist()
    return [id for id in ids if id.startswith(f"{name}-")]


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [(raising, "InvalidArgument"), (hanging, "no answer within 0.3 s")],
    ids=["raises", "hangs"],
)
def test_misbehaving_challenger_is_aborted_without_failed_requests(
    registry: Registry, endpoint: str, rollout: ActorHandle, tmp_path: Path, misbehave, reason: str, cluster: Settings
) -> None:
    challenger = register(registry, MODEL, misbehave(tmp_path / "challenger"))
    with Load(endpoint, SLOPE, name=misbehave.__name__) as load:
        ray.get(rollout.start.remote(challenger, POLICY))
        status = aborted(rollout)
    assert "failed" in status.state.reason
    assert load.failed == []
    assert set(load.outcomes) == {(200, "champion")}
    tables = Tables(cluster)

    def why() -> set[str]:
        errors = tables.read(f"{MODEL}.predictions", columns=["id", "error"]).to_pylist()
        return {row["error"] for row in errors if row["error"] and row["id"].startswith(misbehave.__name__)}

    until(lambda: any(reason in error for error in why()), "the log says why")


def test_challenger_that_leaks_memory_is_stopped_before_the_node_runs_out(
    registry: Registry, endpoint: str, rollout: ActorHandle, tmp_path: Path, cluster: Settings
) -> None:
    challenger = register(registry, MODEL, leaking(tmp_path / "challenger"))
    # Its failures would abort it as well, and do not tell why.
    frugal = POLICY.model_copy(update={"max_growth_mib": GROWTH_MIB, "max_error_rate": 0.99, "error_margin": None})
    champions = replicas(cluster, MODEL)
    with Load(endpoint, SLOPE, name="leaking") as load:
        status: RolloutStatus = ray.get(rollout.start.remote(challenger, frugal))
        (eater,) = replicas(cluster, challenger_app_name(MODEL, status.state.id, challenger.version)).values()
        until(lambda: not psutil.pid_exists(eater), "its replica is gone")
        status = aborted(rollout)
    assert "the challenger's memory grew by" in status.state.reason
    growth_mib = status.decisions[-1].evidence["challenger_grown_mib"]
    assert GROWTH_MIB < growth_mib < GROWTH_MIB + SLACK_MIB
    assert replicas(cluster, MODEL) == champions
    assert load.failed == []
    assert set(load.outcomes) == {(200, "champion")}


def test_killed_challenger_replica_is_replaced_without_failed_requests(
    cluster: Settings, registry: Registry, endpoint: str, rollout: ActorHandle, tmp_path: Path
) -> None:
    challenger = register(registry, MODEL, write_bundle(tmp_path / "good", Slope(SLOPE)))
    lasting = POLICY.model_copy(update={"max_error_rate": 0.9})
    with Load(endpoint, SLOPE, name="killed") as load:
        status: RolloutStatus = ray.get(rollout.start.remote(challenger, lasting))
        app = challenger_app_name(MODEL, status.state.id, challenger.version)
        until(lambda: load.outcomes[200, "challenger"] > 20, "the challenger answers")
        (first,) = replicas(cluster, app).values()
        os.kill(first, signal.SIGKILL)
        until(lambda: set(replicas(cluster, app).values()) - {first} != set(), "another replica runs")
        answered = load.outcomes[200, "challenger"]
        until(lambda: load.outcomes[200, "challenger"] > answered + 20, "the challenger answers again")
    assert load.failed == []


def scale(settings: Settings, champion: ModelVersion, count: int) -> None:
    options = serve_config.ServingOptions(replicas=count, profile_window_s=86400.0, cpus=0.25)
    ray.get(connect_config_writer(settings).deploy.remote(champion, options))
    until(lambda: len(replicas(settings, MODEL)) == count, f"{count} replicas run")


def test_scaling_loses_no_request_and_no_logged_row(cluster: Settings, champion: ModelVersion, endpoint: str) -> None:
    with Load(endpoint, SLOPE, rate=100.0, name="scale") as load:
        scale(cluster, champion, 2)
        answered = load.answered
        until(lambda: load.answered > answered + 200, "two replicas answer")
        scale(cluster, champion, 1)
        answered = load.answered
        until(lambda: load.answered > answered + 100, "one replica answers alone")
    assert load.failed == []
    until(lambda: len(logged(cluster, "scale")) >= load.answered, "the log is complete")
    assert sorted(logged(cluster, "scale")) == sorted(load.ids)


def test_killed_champion_replica_of_two_fails_no_request(
    cluster: Settings, champion: ModelVersion, endpoint: str
) -> None:
    scale(cluster, champion, 2)
    ledger = connect_log_writer(MODEL, cluster)
    before = ray.get(ledger.lost_rows.remote())
    with Load(endpoint, SLOPE, rate=100.0, name="kill") as load:
        until(lambda: load.answered > 200, "two replicas answer")
        first = min(replicas(cluster, MODEL).values())
        under_way = load.open
        os.kill(first, signal.SIGKILL)
        until(lambda: len(set(replicas(cluster, MODEL).values()) - {first}) == 2, "two replicas run again")
        answered = load.answered
        until(lambda: load.answered > answered + 200, "two replicas answer again")
    # An answer goes out in one write, and HAProxy repeats a request that got none.
    assert load.failed == []
    scale(cluster, champion, 1)
    until(
        lambda: ray.get(ledger.lost_rows.remote())["replicas"] > before["replicas"],
        "what it had not shipped is counted",
    )
    lost = ray.get(ledger.lost_rows.remote())["predictions"] - before["predictions"]
    until(lambda: len(logged(cluster, "kill")) >= load.answered - lost, "the rest is in the log")
    rows = logged(cluster, "kill")
    assert len(rows) == len(set(rows))
    # Rows of requests that were under way were counted before they were answered, and answered by the other replica.
    assert 0 <= lost - len(set(load.ids) - set(rows)) <= under_way + LEFT_MEANWHILE


def test_change_under_load_takes_effect_within_a_second(
    cluster: Settings, registry: Registry, champion: ModelVersion, endpoint: str, tmp_path: Path
) -> None:
    other = register(registry, MODEL, write_bundle(tmp_path / "other", Slope(SLOPE)))
    writer = connect_config_writer(cluster)
    with Load(endpoint, SLOPE, name="swap") as load, httpx.Client(base_url=endpoint) as client:
        until(lambda: load.answered > 50, "load runs")
        ray.get(writer.set_champion.remote(other))
        # Once the change is confirmed, no response comes from the old version.
        versions = {client.post("/infer", json=infer_body([0.5])).json()["model_version"] for _ in range(50)}
    assert versions == {other.version}
    assert load.failed == []
    ray.get(writer.set_champion.remote(champion))
