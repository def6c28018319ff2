"""Rollouts on a real cluster, under load: no request fails, whether the challenger is promoted or aborted."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest
import ray
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.errors import RolloutError
from cluster.names import CHALLENGER, CHAMPION, predictions_table
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import ModelVersion
from deployments.analysis.evidence import ComparisonEvidence
from deployments.rollout import serve_config
from deployments.rollout.controller import connect_controller
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.serve_config import connect_config_writer
from deployments.rollout_policy import RolloutPolicy, Webhook
from deployments.serve_schema import challenger_prefix
from deployments.telemetry.log_writer import connect_log_writer
from tests.factories.deployments.endpoint import Endpoint
from tests.factories.deployments.request_load import Load, infer_body
from tests.factories.deployments.versions import MODEL, TRUE_SLOPE, Versions
from tests.factories.errors import raises
from tests.factories.until import until

pytestmark = pytest.mark.cluster

POLICY = RolloutPolicy(
    steps=(0.3, 1.0), min_requests=20, min_labeled=20, max_error_rate=0.2, margin=0.1, poll_s=0.2, deadline_s=120.0
)
FROZEN = POLICY.model_copy(update={"min_labelled": 10**6, "min_requests": 10**6})


@pytest.fixture
def rollout(cluster: Settings, registry: Registry, served: ModelVersion, versions: Versions):
    """The controller, with the champion as it was when the test began and after it ends."""
    actor = connect_controller(MODEL, cluster)
    yield actor
    status: RolloutStatus = ray.get(actor.status.remote())
    if status.state is not None and status.state.active:
        ray.get(actor.abort.remote("end of test"))
    ray.get(connect_config_writer(cluster).set_champion.remote(versions.champion))
    registry.set_alias(versions.champion, CHAMPION)


def finished(actor) -> RolloutStatus:
    status: RolloutStatus = ray.get(actor.status.remote())

    def over() -> bool:
        status = ray.get(actor.status.remote())
        return status.applied and not status.state.active

    until(over, f"end of rollout {status.state}")
    return ray.get(actor.status.remote())


def has_challenger(settings: Settings) -> bool:
    applications = ServeSubmissionClient(settings.dashboard).get_serve_details()["applications"]
    return any(
        name.startswith(challenger_prefix(MODEL)) and app["status"] != "DELETING" for name, app in applications.items()
    )


def version_served(http: httpx.Client) -> str:
    return http.post("/infer", json=infer_body([0.5])).json()["model_version"]


def test_good_challenger_becomes_champion(
    cluster: Settings, registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    with Load(str(http.base_url), TRUE_SLOPE, name="good") as load:
        ray.get(rollout.start.remote(versions.good, POLICY))
        assert registry.version_by_alias(MODEL, CHALLENGER) == registry.version(MODEL, versions.good.version)
        status = finished(rollout)
        until(lambda: version_served(http) == versions.good.version, "the new champion answers")
    assert status.state.status == "promoted", status.state.reason
    assert [d.action for d in status.decisions] == ["start", "advance", "promote"]
    assert "not worse" in status.state.reason
    assert load.failed == []
    assert load.outcomes[200, "challenger"] > 0
    assert registry.version_by_alias(MODEL, CHAMPION).version == versions.good.version
    assert registry.version_by_alias(MODEL, CHALLENGER) is None
    assert not has_challenger(cluster)


def test_shadow_challenger_answers_only_after_its_promotion(
    registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    policy = POLICY.model_copy(update={"shadow": True})
    with Load(str(http.base_url), TRUE_SLOPE, name="shadow") as load:
        ray.get(rollout.start.remote(versions.good, policy))
        until(lambda: _evidence(rollout, versions.good).paired.n > 20, "pairs are seen")
        assert set(load.outcomes) == {(200, "champion")}
        status = finished(rollout)
    assert status.state.status == "promoted", status.state.reason
    assert _evidence(rollout, versions.good).challenger.errors == 0
    assert load.failed == []
    assert registry.version_by_alias(MODEL, CHAMPION).version == versions.good.version


def test_copies_pair_the_requests_that_the_champion_answers(
    cluster: Settings, http: httpx.Client, versions: Versions, rollout
) -> None:
    policy = FROZEN.model_copy(update={"steps": (0.05, 1.0), "copies": 1.0, "copy_cpus": 0.5})
    with Load(str(http.base_url), TRUE_SLOPE, name="copies") as load:
        ray.get(rollout.start.remote(versions.good, policy))
        until(lambda: _evidence(rollout, versions.good).copies.requests > 100, "copies are seen")
    assert load.failed == []
    ray.get(rollout.pause.remote("measured"))
    log_writer = connect_log_writer(MODEL, cluster)
    ray.get(log_writer.flush.remote())
    evidence = _evidence(rollout, versions.good)
    assert evidence.paired.n > 2 * evidence.challenger.requests
    assert evidence.copies.errors == 0
    state = ray.get(rollout.status.remote()).state
    rows = Tables(cluster).read(predictions_table(MODEL)).to_pylist()
    copied = [row for row in rows if row["rollout"] == state.id and row["copied"] == "scored"]
    assert len(copied) > 100
    assert {(row["assigned"], row["variant"], row["version"], row["challenger_version"]) for row in copied} == {
        ("champion", "champion", versions.champion.version, versions.good.version)
    }
    assert all(row["challenger_score"] is not None and row["challenger_latency_ms"] is None for row in copied)


def test_challenger_that_fails_copies_is_aborted_without_failed_requests(
    http: httpx.Client, versions: Versions, rollout
) -> None:
    policy = POLICY.model_copy(update={"steps": (0.001, 1.0), "copies": 1.0, "copy_cpus": 0.5})
    with Load(str(http.base_url), TRUE_SLOPE, name="failing-copies") as load:
        ray.get(rollout.start.remote(versions.failing, policy))
        status = finished(rollout)
    assert status.state.status == "aborted"
    assert "failed" in status.state.reason
    assert _evidence(rollout, versions.failing).copies.errors > 0
    assert load.failed == []
    assert set(load.outcomes) == {(200, "champion")}


def test_bad_version_that_was_promoted_on_health_is_rolled_back_by_labels(
    cluster: Settings, registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    # Without copies in the canary, which would show the harm before a person can promote.
    policy = RolloutPolicy(
        steps=(0.01, 1.0), copies=0.0, path="health", label_delay_s=1.0, probation_share=1.0, copy_cpus=4.0, poll_s=0.2
    )
    with Load(str(http.base_url), TRUE_SLOPE, name="probation") as load:
        ray.get(rollout.start.remote(versions.bad, policy))
        # Before labels show the harm.
        promoted: RolloutStatus = ray.get(rollout.promote.remote("healthy"))
        assert promoted.state.on_probation
        assert "first labeled verdict due" in promoted.state.reason
        config = ray.get(connect_config_writer(cluster).current_config.remote(MODEL))
        assert (config.champion.version, config.split.share) == (versions.bad.version, 0.0)
        assert [former.version for former in config.split.challengers] == [versions.champion.version]
        until(lambda: _status(rollout) == "rolled back", "labels show the harm")
        status = finished(rollout)
        until(lambda: version_served(http) == versions.champion.version, "the former champion answers")
    assert [d.action for d in status.decisions] == ["start", "promote", "rollback"]
    assert status.decisions[-1].evidence["labelled"] > 0
    assert load.failed == []
    assert registry.version_by_alias(MODEL, CHAMPION).version == versions.champion.version
    assert not has_challenger(cluster)


def test_bad_challenger_is_aborted_by_its_loss(
    registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    with Load(str(http.base_url), TRUE_SLOPE, name="bad") as load:
        ray.get(rollout.start.remote(versions.bad, POLICY))
        status = finished(rollout)
    assert status.state.status == "aborted"
    assert "the challenger is worse" in status.state.reason
    assert load.failed == []
    assert version_served(http) == versions.champion.version
    assert registry.version_by_alias(MODEL, CHAMPION).version == versions.champion.version
    assert registry.version_by_alias(MODEL, CHALLENGER) is None


def test_challenger_that_fails_is_aborted_without_failed_requests(
    http: httpx.Client, versions: Versions, rollout
) -> None:
    with Load(str(http.base_url), TRUE_SLOPE, name="failing") as load:
        ray.get(rollout.start.remote(versions.failing, POLICY))
        status = finished(rollout)
    assert status.state.status == "aborted"
    assert "failed" in status.state.reason
    assert _evidence(rollout, versions.failing).challenger.errors > 0
    assert load.failed == []
    assert set(load.outcomes) == {(200, "champion")}


def test_challenger_that_does_not_load_is_refused(
    cluster: Settings, registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    with raises(RolloutError, "rollout.challengers_not_served") as caught:
        ray.get(rollout.start.remote(versions.broken, POLICY, serve_config.ServingOptions(deadline_s=60.0)))
    assert f"v{versions.broken.version}" in str(caught.value.fields["reason"])
    status: RolloutStatus = ray.get(rollout.status.remote())
    assert [d.action for d in status.decisions] == ["start", "abort"]
    assert version_served(http) == versions.champion.version
    assert registry.version_by_alias(MODEL, CHALLENGER) is None
    assert not has_challenger(cluster)


def test_controller_resumes_after_a_kill_and_obeys_orders(
    cluster: Settings, http: httpx.Client, versions: Versions, rollout
) -> None:
    with Load(str(http.base_url), TRUE_SLOPE, rate=50.0, name="orders") as load:
        ray.get(rollout.start.remote(versions.good, FROZEN))
        with raises(RolloutError, "rollout.in_progress", model=MODEL):
            ray.get(rollout.start.remote(versions.bad, FROZEN))
        ray.get(rollout.pause.remote("night"))
        os.kill(ray.get(rollout.pid.remote()), signal.SIGKILL)
        until(lambda: _status(rollout) == "paused", "the controller is back")
        assert ray.get(connect_config_writer(cluster).current_config.remote(MODEL)).split.share == FROZEN.steps[0]
        ray.get(rollout.resume.remote())
        answered = load.outcomes[200, "challenger"]
        until(lambda: load.outcomes[200, "challenger"] > answered, "the challenger answers its share")
        status: RolloutStatus = ray.get(rollout.abort.remote("enough"))
        assert ray.get(connect_config_writer(cluster).current_config.remote(MODEL)).split is None
    assert [d.action for d in status.decisions] == ["start", "pause", "resume", "abort"]
    assert load.failed == []


def test_gate_waits_for_an_approval_and_a_webhook(
    registry: Registry, http: httpx.Client, versions: Versions, rollout, endpoint: Endpoint
) -> None:
    before = Webhook(url=f"{endpoint.url}/before", moment="before", retry_s=0.2)
    after = Webhook(url=f"{endpoint.url}/after")
    policy = POLICY.model_copy(update={"gates": (0.3,), "webhooks": (before, after)})
    with Load(str(http.base_url), TRUE_SLOPE, name="gate") as load:
        ray.get(rollout.start.remote(versions.good, policy))
        until(lambda: _status(rollout) == "waiting", "the gate is reached")
        endpoint.answers["/before"] = 409
        ray.get(rollout.resume.remote("go on"))
        until(lambda: "HTTP 409" in ray.get(rollout.status.remote()).state.reason, "the webhook objects")
        assert ray.get(rollout.status.remote()).state.share == 0.3
        endpoint.answers["/before"] = 200
        status = finished(rollout)
        until(lambda: notified_actions(endpoint)[-1:] == ["promote"], "the webhook receives the promotion")
    assert [d.action for d in status.decisions] == ["start", "pause", "resume", "hold", "advance", "promote"]
    assert notified_actions(endpoint) == ["start", "pause", "resume", "advance", "promote"]
    assert registry.version_by_alias(MODEL, CHAMPION).version == versions.good.version
    assert load.failed == []


def test_dry_run_changes_nothing_and_regression_overrides_a_promotion(
    registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    policy = POLICY.model_copy(update={"dry_run": True})
    with Load(str(http.base_url), TRUE_SLOPE, name="dry") as load:
        ray.get(rollout.start.remote(versions.bad, policy))
        until(lambda: _actions(rollout)[-1:] == ["hold"], "the dry run has something to tell")
        status: RolloutStatus = ray.get(rollout.status.remote())
        assert (status.state.status, status.state.share) == ("running", 0.3)
        assert "dry run, would abort: the challenger is worse" in status.decisions[-1].reason
        with raises(RolloutError, "rollout.promotion_refused", rollout=status.state.id):
            ray.get(rollout.promote.remote("never mind"))
    assert _actions(rollout) == ["start", "hold", "abort"]
    assert registry.version_by_alias(MODEL, CHAMPION).version == versions.champion.version
    assert load.failed == []


def test_abort_overrides_a_concurrent_promotion(
    registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    ray.get(rollout.start.remote(versions.good, FROZEN))
    promotion, abort = rollout.promote.remote("go"), rollout.abort.remote("stop")
    assert ray.get(abort).state.status == "aborted"
    with pytest.raises(RolloutError) as caught:
        ray.get(promotion)
    assert caught.value.code in ("rollout.abort_requested", "rollout.command_not_applicable")
    assert version_served(http) == versions.champion.version
    assert registry.version_by_alias(MODEL, CHAMPION).version == versions.champion.version


@contextmanager
def stores_stopped(settings: Settings) -> Iterator[None]:
    """Nobody can read or write the catalog and MLflow's database, and the log writer stands still."""
    writer = ray.get(connect_log_writer(MODEL, settings).pid.remote())
    with ExitStack() as locks:
        for uri in (settings.iceberg["uri"], settings.mlflow_uri):
            lock = locks.enter_context(closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)))
            lock.execute("PRAGMA busy_timeout = 30000")
            lock.execute("BEGIN EXCLUSIVE")
        os.kill(writer, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(writer, signal.SIGCONT)


def test_abort_takes_the_traffic_off_while_no_store_answers(
    cluster: Settings, http: httpx.Client, versions: Versions, rollout
) -> None:
    with Load(str(http.base_url), TRUE_SLOPE, rate=50.0, name="dark") as load:
        ray.get(rollout.start.remote(versions.good, FROZEN))
        until(lambda: load.outcomes[200, "challenger"] > 0, "the challenger answers its share")
        with stores_stopped(cluster):
            order = rollout.abort.remote("no store answers")
            ordered = last = time.monotonic()
            answered, watched = load.outcomes[200, "challenger"], load.outcomes[200, "champion"] + 300

            def enough_seen() -> bool:
                nonlocal answered, last
                if load.outcomes[200, "challenger"] > answered:
                    answered, last = load.outcomes[200, "challenger"], time.monotonic()
                return load.outcomes[200, "champion"] >= watched

            until(enough_seen, "the champion answers 300 more")
        assert last - ordered < 5.0
        with suppress(ray.exceptions.RayError):
            # It may have failed to journal the abort, which is then done by a pass.
            ray.get(order)
        status = finished(rollout)
    assert (status.state.status, status.state.reason) == ("aborted", "no store answers")
    assert [d.action for d in status.decisions] == ["start", "abort"]
    assert load.failed == []


def notified_actions(endpoint: Endpoint) -> list[str]:
    """Actions that the webhook after each step received."""
    return [json.loads(body)["decision"]["action"] for path, _, body in endpoint.requests if path == "/after"]


def test_variant_header_forces_the_variant(http: httpx.Client, versions: Versions, rollout) -> None:
    ray.get(rollout.start.remote(versions.good, FROZEN))
    for variant, version in (("champion", versions.champion), ("challenger", versions.good)):
        response = http.post("/infer", json=infer_body([0.5]), headers={"x-rayloop-variant": variant})
        assert response.headers["x-rayloop-variant"] == variant
        assert response.json()["model_version"] == version.version
    assert http.post("/infer", json=infer_body([0.5]), headers={"x-rayloop-variant": "x"}).status_code == 400


def test_rollout_of_two_challengers_drops_the_bad_and_promotes_the_good(
    cluster: Settings, registry: Registry, http: httpx.Client, versions: Versions, rollout
) -> None:
    good, bad = versions.good.version, versions.bad.version
    with Load(str(http.base_url), TRUE_SLOPE, name="several") as load:
        policy = POLICY.model_copy(update={"steps": (0.6, 1.0), "gates": (0.6,)})
        ray.get(rollout.start.remote([versions.bad, versions.good], policy))
        listed_versions = http.get("").json()["versions"]
        assert set(listed_versions) >= {versions.champion.version, good, bad}
        for version in (bad, good):
            response = http.post(f"/versions/{version}/infer", json=infer_body([0.5]))
            assert (response.headers["x-rayloop-version"], response.status_code) == (version, 200)
        unclear = http.post("/infer", json=infer_body([0.5]), headers={"x-rayloop-variant": "challenger"})
        assert (unclear.status_code, unclear.json()["field"]) == (400, "x-rayloop-variant")
        assert unclear.json()["code"] == "request.ambiguous_variant"
        until(lambda: "drop" in _actions(rollout), "the bad one is dropped")
        dropped = next(d for d in ray.get(rollout.status.remote()).decisions if d.action == "drop")
        assert (dropped.challengers, "the challenger is worse" in dropped.reason) == ((bad,), True)
        until(lambda: registry.version_by_alias(MODEL, CHALLENGER) is not None, "one is left")
        assert http.post(f"/versions/{bad}/infer", json=infer_body([0.5])).status_code == 404
        os.kill(ray.get(rollout.pid.remote()), signal.SIGKILL)
        until(lambda: _status(rollout) == "waiting", "the controller is back, and the gate is reached")
        state = ray.get(rollout.status.remote()).state
        assert (state.challengers, state.initial_challengers, state.share) == ((good,), (bad, good), 0.3)
        ray.get(rollout.promote.remote("seen enough", good))
        until(lambda: version_served(http) == good, "the new champion answers")
    assert _actions(rollout) == ["start", "drop", "pause", "promote"]
    assert load.failed == []
    assert registry.version_by_alias(MODEL, CHAMPION).version == good
    assert not has_challenger(cluster)


def _status(actor) -> str:
    try:
        return ray.get(actor.status.remote()).state.status
    except ray.exceptions.ActorUnavailableError:
        return ""


def _evidence(actor, version: ModelVersion) -> ComparisonEvidence:
    evidence = ray.get(actor.status.remote()).evidence
    return evidence[version.version].total if version.version in evidence else ComparisonEvidence()


def _actions(actor) -> list[str]:
    return [d.action for d in ray.get(actor.status.remote()).decisions]
