"""Real bundles behind real Serve and HAProxy: what callers get, and what the log keeps."""

import os
import signal

import httpx
import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from cluster.errors import DataError, RayloopError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import ModelVersion
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.rollout import serve_config
from deployments.rollout.serve_config import connect_config_writer
from deployments.serve_schema import DEFAULT_ROWS
from deployments.telemetry import unshipped_rows
from deployments.telemetry.log_writer import connect_log_writer
from deployments.telemetry.prediction_log import feature_frame, label_rows, to_ipc
from features.attributions.explanation import RowExplanation
from rayloop.cli.status import show_status
from tests.factories.deployments.request_load import Load, infer_body, sigmoid
from tests.factories.deployments.versions import MODEL, TRUE_SLOPE, Versions
from tests.factories.errors import raises
from tests.factories.until import until

pytestmark = pytest.mark.cluster

ROW = {"distance": 0.5, "carrier": "AA", "departs": "2024-05-01T10:00:00Z"}
EXPECTED = sigmoid(np.array([0.75 * TRUE_SLOPE * 0.5]))


def with_input(index: int, **change: object) -> dict:
    body = infer_body([0.5])
    body["inputs"][index] |= change
    return body


def test_infer_answers_with_scores_version_and_variant(http: httpx.Client, served: ModelVersion) -> None:
    distances = [0.5, None, -1.0]
    response = http.post("/infer", json=infer_body(distances, "three"))
    body = response.json()
    assert response.status_code == 200
    assert body["model_version"] == served.version == response.headers["x-rayloop-version"]
    assert body["id"] == "three"
    assert body["parameters"] == {"variant": "champion"} == {"variant": response.headers["x-rayloop-variant"]}
    assert body["outputs"][0] | {"data": None} == {"name": "score", "datatype": "FP32", "shape": [3], "data": None}
    expected = sigmoid(0.75 * TRUE_SLOPE * np.array([0.5, 0.0, -1.0]))
    np.testing.assert_allclose(body["outputs"][0]["data"], expected, atol=1e-4)


def test_request_metrics_are_exported(http: httpx.Client, served: ModelVersion) -> None:
    http.post("/infer", json=infer_body([0.5]))
    http.post("/infer", content=b"no json")
    agent = f"http://{ray.nodes()[0]['NodeManagerAddress']}:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    mine = f'application="{MODEL}"', 'method="POST"', f'route="/v2/models/{MODEL}"'
    ours = f'model="{MODEL}"', f'version="{served.version}"', 'variant="champion"'
    names = {
        "ray_serve_num_http_requests_total": (*mine, 'status_code="200"'),
        "ray_serve_num_http_error_requests_total": (*mine, 'error_code="400"'),
        "ray_serve_http_request_latency_ms_count": (*mine, 'status_code="200"'),
        "ray_rayloop_http_requests_total": (ours[0], 'status="400"'),
        "ray_rayloop_latency_ms_bucket_total": (*ours, 'le="+Inf"'),
        "ray_rayloop_requests_total": ours,
    }

    def exported() -> bool:
        lines = httpx.get(agent).text.splitlines()
        return all(
            any(line.startswith(f"{name}{{") and all(tag in line for tag in tags) for line in lines)
            for name, tags in names.items()
        )

    until(exported, "all counters are exported", 30.0)


def test_infer_keeps_the_request_id_of_the_header(http: httpx.Client) -> None:
    response = http.post("/infer", json=infer_body([0.5]), headers={"x-request-id": "from-header"})
    assert response.json()["id"] == response.headers["x-request-id"] == "from-header"


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}},
        {"dataframe_records": [ROW]},
        {"instances": [ROW]},
        {"inputs": {name: [value] for name, value in ROW.items()}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_invocations_in_each_shape_answer(http: httpx.Client, served: ModelVersion, body: dict) -> None:
    answer = http.post("/invocations", json=body).json()
    assert answer["model_version"] == served.version
    np.testing.assert_allclose(answer["predictions"], EXPECTED, atol=1e-4)


@pytest.mark.parametrize("body", [infer_body([0.5]), {"instances": [ROW]}], ids=["tensors", "instances"])
def test_explain_answers_with_contributions_that_add_up(http: httpx.Client, served: ModelVersion, body: dict) -> None:
    response = http.post("/explain", json=body)
    answer = response.json()
    assert (response.status_code, answer["model_version"]) == (200, served.version)
    [explanation] = answer["explanations"]
    assert (explanation["method"], explanation["unit"], explanation["output"]) == ("sampled", "probability", "late")
    assert explanation["base"] + sum(explanation["contributions"].values()) == pytest.approx(EXPECTED[0], abs=1e-4)
    assert set(explanation["contributions"]) == set(explanation["errors"]) == {"distance", "hour", "carrier"}
    reasons = [(reason["feature"], reason["text"]) for reason in explanation["reasons"]]
    assert reasons[0] == ("distance", "Distance unlike that of most trips")


def test_stored_explanation_is_in_the_log_with_its_row(
    cluster: Settings, http: httpx.Client, served: ModelVersion
) -> None:
    body = {**infer_body([0.5, -0.25], "explained"), "parameters": {"explain": "store"}}
    answer = http.post("/infer", json=body).json()
    returned = [RowExplanation.from_stored(one) for one in answer["explanations"]]
    assert [one.score for one in returned] == pytest.approx(answer["outputs"][0]["data"])
    tables = Tables(cluster)

    def rows() -> list[dict]:
        if not tables.exists(f"{MODEL}.predictions"):
            return []
        return [row for row in tables.read(f"{MODEL}.predictions").to_pylist() if row["request"] == "explained"]

    until(lambda: len(rows()) == 2, "rows committed")
    assert [RowExplanation.from_stored(row["explanation"]) for row in rows()] == returned


def test_metadata_describes_the_request(http: httpx.Client) -> None:
    body = http.get("").json()
    assert [(i["name"], i["datatype"], i["shape"]) for i in body["inputs"]] == [
        ("distance", "FP64", [-1]),
        ("carrier", "BYTES", [-1]),
        ("departs", "BYTES", [-1]),
    ]
    assert http.get("/ready").json() == {"name": MODEL, "ready": True}


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/infer", b"{", 400, "body"),
        ("/infer", b"[1]", 400, "body"),
        ("/infer", b"\xff\xfe", 400, "body"),
        ("/infer", b"[" * 5000, 400, "body"),
        ("/infer", {}, 400, "inputs"),
        ("/infer", with_input(0, data=["far"]), 400, "inputs[0].data[0]"),
        ("/infer", with_input(0, data=[1e300]), 400, "inputs[0].data[0]"),
        ("/infer", with_input(0, shape=[2]), 400, "inputs[0].shape"),
        ("/infer", with_input(1, datatype="FP32"), 400, "inputs[1].datatype"),
        ("/infer", with_input(1, name="airline"), 400, "inputs[1].name"),
        ("/infer", with_input(2, data=["tomorrow"]), 400, "inputs[2].data[0]"),
        ("/infer", with_input(2, data=[None]), 400, "inputs[2].data[0]"),
        ("/infer", infer_body([0.5], "bad id\r\n"), 400, "id"),
        ("/infer", infer_body([0.5] * (DEFAULT_ROWS + 1)), 413, "inputs"),
        ("/infer", b" " * (17 * 1024 * 1024), 413, "body"),
        ("/invocations", {"instances": [{"distance": 1}]}, 400, "instances[0]"),
        ("/invocations", {}, 400, "body"),
        ("/feedback", {"labels": [{"id": "a", "label": 2}]}, 400, "labels[0].label"),
        ("/feedback", {"labels": []}, 400, "labels"),
    ],
)
def test_bad_requests_are_refused_with_field_and_code(
    http: httpx.Client, path: str, body: object, status: int, field: str
) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = http.post(path, **content)
    assert response.status_code == status
    assert response.json()["field"] == field
    assert response.json()["code"].startswith("request.")
    assert {"x-request-id", "x-rayloop-version", "x-rayloop-variant"} <= set(response.headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/v2/models/{MODEL}/infer", 405),
        ("POST", f"/v2/models/{MODEL}", 405),
        ("GET", f"/v2/models/{MODEL}/nothing", 404),
        ("POST", "/v2/models/nobody/infer", 404),
        ("GET", f"/v2/models/{MODEL}x", 404),
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
    ],
)
def test_paths_and_methods_give_their_status(
    cluster: Settings, served: ModelVersion, method: str, path: str, status: int
) -> None:
    response = httpx.request(method, cluster.endpoint + path)
    assert response.status_code == status
    assert ("error" in response.json()) == (status != 200)


def test_deploy_of_a_version_that_does_not_load_keeps_the_old_one(
    cluster: Settings, http: httpx.Client, served: ModelVersion, versions: Versions
) -> None:
    with raises(RayloopError, "data.unusable_model"):
        ray.get(connect_config_writer(cluster).deploy.remote(versions.broken, serve_config.ServingOptions()))
    assert http.post("/infer", json=infer_body([0.5])).json()["model_version"] == served.version


def test_log_after_the_writer_is_killed_has_each_row_once(
    cluster: Settings, http: httpx.Client, served: ModelVersion
) -> None:
    actor = connect_log_writer(MODEL, cluster)
    tables = Tables(cluster)

    def logged() -> list[str]:
        if not tables.exists(f"{MODEL}.predictions"):
            return []
        ids = tables.read(f"{MODEL}.predictions", columns=["id"]).column("id").to_pylist()
        return [id for id in ids if id.startswith("kill-")]

    with Load(str(http.base_url), TRUE_SLOPE, name="kill") as load:
        until(lambda: len(logged()) > 50, "first rows committed")
        os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
        sent = load.answered
        until(lambda: load.answered > sent + 200, "more requests after the kill")
    until(lambda: len(logged()) >= load.answered, "all rows committed")
    assert load.failed == []
    assert sorted(logged()) == sorted(load.ids)


def test_log_with_a_batch_that_does_not_fit_keeps_the_others(cluster: Settings, served: ModelVersion) -> None:
    """One that is sent again and again would keep all later rows out of the log."""
    actor, tables = connect_log_writer(MODEL, cluster), Tables(cluster)

    def batch(name: str, time_us: int) -> bytes:
        label = {"id": pa.array([name]), "label": pa.array([1.0]), "time": pa.array([time_us], TIMESTAMP)}
        return to_ipc(label_rows(pa.table(label), 0, name))

    year_0 = -62_135_596_800_000_001
    sent = {name: actor.append.remote("labels", name, batch(name, at)) for name, at in
            (("before:1", 0), ("year 0:1", year_0), ("after:1", 1))}  # fmt: skip
    ray.get([sent["before:1"], sent["after:1"]], timeout=60)
    with raises(DataError, "data.time_out_of_range", table=f"{MODEL}.labels"):
        ray.get(sent["year 0:1"], timeout=60)
    logged_ids = tables.read(f"{MODEL}.labels", columns=["id"]).column("id").to_pylist()
    assert [name for name in sent if name in logged_ids] == ["before:1", "after:1"]


def test_rows_lost_with_a_killed_replica_are_counted_once(
    cluster: Settings, http: httpx.Client, served: ModelVersion
) -> None:
    actor = connect_log_writer(MODEL, cluster)
    before = ray.get(actor.lost_rows.remote())
    left = unshipped_rows.counter_folder(cluster, MODEL)
    # No process holds its lock: its writer is dead.
    (left / ".dead").write_bytes(np.array([7, 2], np.int64).tobytes())
    (left / ".dead").rename(left / "dead")
    until(lambda: not (left / "dead").exists(), "a living replica has found it")
    ray.get(actor.record_lost_rows.remote("dead", {"predictions": 7, "labels": 2}))
    after = {"replicas": 1, "predictions": 7, "labels": 2}
    assert {key: count - before[key] for key, count in ray.get(actor.lost_rows.remote()).items()} == after
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
    output: list[str] = []
    until(lambda: ledger_answers(actor), "the ledger is back")
    show_status(cluster, output.append)
    assert {key: count - before[key] for key, count in ray.get(actor.lost_rows.remote()).items()} == after
    assert any(
        f"{before['predictions'] + 7} predictions and {before['labels'] + 2} labels were lost" in line
        for line in output
    )


def ledger_answers(actor: ActorHandle) -> bool:
    try:
        return bool(ray.get(actor.lost_rows.remote()))
    except RayActorError:
        return False


def test_log_has_features_scores_and_labels(cluster: Settings, http: httpx.Client, served: ModelVersion) -> None:
    http.post("/infer", json=infer_body([0.5, -0.25], "kept")).raise_for_status()
    http.post("/feedback", json={"labels": [{"id": "kept/0", "label": 1, "time": "2024-05-01T12:00:00Z"}]})
    tables = Tables(cluster)

    def rows() -> list[dict]:
        log = tables.read(f"{MODEL}.predictions")
        return [row for row in log.to_pylist() if row["request"] == "kept"]

    def labels() -> list[dict]:
        if not tables.exists(f"{MODEL}.labels"):
            return []
        return [row for row in tables.read(f"{MODEL}.labels").to_pylist() if row["id"] == "kept/0"]

    until(lambda: bool(rows()) and bool(labels()), "rows and labels committed")
    assert [row["id"] for row in rows()] == ["kept/0", "kept/1"]
    assert rows()[0]["score"] == pytest.approx(EXPECTED[0], abs=1e-4)
    assert rows()[0]["features"]["hour"] == 10.0
    assert rows()[0]["as_of"].hour == 8
    assert labels()[0]["label"] == 1.0
    assert "distance" in feature_frame(tables.read(f"{MODEL}.predictions")).column_names
