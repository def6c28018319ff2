"""Ray's launcher starts a cluster of hosts with every store remote, and a host outside works with it."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.factories.until import until
from tests.hosts.launcher import MLFLOW_PORT, RUN_S, Cluster, predict
from tests.hosts.remote_stores import RemoteStores

pytestmark = pytest.mark.slow

OK, UNAUTHORIZED = 200, 401
VISIT = {"id": "new", "shop": "north", "spent": 11.5, "at": "2024-02-01T00:00:00Z", "known": "2024-02-01T00:01:00Z"}


def passes(cluster: Cluster, *words: str) -> str:
    result = cluster.rayloop(*words, timeout_s=RUN_S)
    return result.stdout + result.stderr


def test_launcher_starts_the_cluster_twice_in_a_row(cluster: Cluster, outputs: list[str]) -> None:
    assert len(outputs) == 2
    resources = {node["node_ip"]: node["resources_total"] for node in cluster.alive()}
    assert "CPU" not in resources[cluster.head.address]
    assert all(resources[worker.address]["CPU"] > 0 for worker in cluster.workers)


def test_pages_of_mlflow_ask_for_the_token(cluster: Cluster, outputs: list[str]) -> None:
    page = f"http://127.0.0.1:{MLFLOW_PORT}/"
    command = ("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", page)
    assert cluster.head.run(*command).stdout == "401"
    assert cluster.head.run(*command, "--header", "@-", input=cluster.header).stdout == "200"
    # Other machines reach them through ssh, as they do the dashboard.
    assert cluster.client.run(*command[:-1], page.replace("127.0.0.1", cluster.head.name), check=False).returncode


def test_every_worker_answers_callers_with_a_key(cluster: Cluster, key: str) -> None:
    for worker in cluster.workers:
        status, answer = until(
            lambda host=worker: (found := predict(cluster, host, key, f"from-{host.name}"))[0] == OK and found,
            f"{worker.name} answers",
        )
        assert (status, answer["model_name"]) == (OK, "visits")
        assert predict(cluster, worker, "rayloop_wrong", "stranger")[0] == UNAUTHORIZED


def test_commands_work_from_a_host_outside(cluster: Cluster, key: str) -> None:
    assert "visits: champion v1, 2 of 2 replicas run" in passes(cluster, "status")
    assert "FAIL" not in passes(cluster, "doctor")
    predict(cluster, cluster.workers[0], key, "look-me-up")
    trace = until(lambda: "visits v1" in (text := passes(cluster, "trace", "visits", "look-me-up")) and text, "a trace")
    assert "snapshot  visits.frame_" in trace
    assert "s3://rayloop/mlflow/state/projects/visits/report.html" in passes(cluster, "report", "project/visits.py")
    cluster.client.write("/root/more.ndjson", json.dumps(VISIT))
    assert "shop: 1 new events" in passes(cluster, "push", "project/visits.py", "visits", "more.ndjson")
    assert "shop: 0 new events" in passes(cluster, "push", "project/visits.py", "visits", "more.ndjson")


def test_rollout_is_aborted_from_a_host_outside(cluster: Cluster, key: str) -> None:
    none = cluster.rayloop("abort", "visits", check=False)
    assert (none.returncode, "[rollout.not_found]" in none.stdout) == (2, True), none
    passes(cluster, "retrain", "project/visits.py", "--until", "2024-01-25T00:00:00")
    assert "challenger v2 at 50%" in passes(cluster, "status")
    assert "aborted: too slow for us" in passes(cluster, "abort", "visits", "--reason", "too slow for us")
    assert "champion v1" in passes(cluster, "status")


def test_no_model_or_row_is_stored_on_a_disk_of_the_cluster(cluster: Cluster, key: str) -> None:
    # Counters of rows that a replica has not shipped: they outlive the process, not the machine. GCS: the head's only.
    own = {"tallies", "gcs", "cluster.json", "node.json", "node.log", "node.ready", "starter.lock", "supervisor.lock"}
    logs = {"ray-start.log", "mlflow.log", "door.log"}
    for host in cluster.nodes:
        found = host.run("bash", "-c", "cd ~/.rayloop && find . -type f").stdout.split()
        assert {path.split("/")[1] for path in found} <= own | logs


def test_no_password_is_in_arguments_logs_or_output(
    cluster: Cluster, stores: RemoteStores, key: str, served: list[str], arguments: set[str]
) -> None:
    with stores.stopped():
        doctor = cluster.rayloop("doctor", check=False)
    assert "FAIL  tables: " in doctor.stdout
    texts = {"arguments": "\n".join(arguments), "output": "\n".join([*served, doctor.stdout, doctor.stderr])}
    for host in cluster.nodes:
        # Not below it: what GCS stores, with the arguments of actors, ends in `.log` too.
        logs = [*host.path("/tmp/ray").rglob("*"), *host.path("/root/.rayloop").glob("*.log")]
        texts |= {f"{host.name}:{path}": path.read_text(errors="replace") for path in logs if path.is_file()}
    assert any("session_latest" in place or "session_2" in place for place in texts)
    secrets = {*stores.passwords, cluster.token, key}
    assert [place for place, text in texts.items() if any(secret in text for secret in secrets)] == []


def test_node_whose_raylet_was_killed_is_back_on_its_own(cluster: Cluster, outputs: list[str]) -> None:
    for host in (cluster.workers[0], cluster.head):
        before = {node["node_id"] for node in cluster.alive()}
        (raylet,) = (pid for pid in host.pids() if psutil.Process(pid).name() == "raylet")
        psutil.Process(raylet).kill()
        until(
            lambda host=host, before=before: any(
                node["node_ip"] == host.address and node["node_id"] not in before for node in cluster.alive()
            ),
            f"{host.name} is back",
        )
        cluster.await_nodes(cluster.nodes)
