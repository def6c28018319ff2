"""Access to a model over real HTTP: accepted and refused requests; no refused request reaches the model."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
import ray

from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import ModelVersion
from deployments.auth.authenticator import KEY_EFFECTIVE_WITHIN_S
from deployments.auth.credentials import SCOPES, Scope
from deployments.auth.key_store import KeyStore
from deployments.rollout import serve_config
from tests.factories.deployments.bundles import Slope, add_explainer, register, write_bundle
from tests.factories.deployments.issuer import AUDIENCE, NAME, Publisher, SigningKey
from tests.factories.deployments.request_load import infer_body
from tests.factories.until import until

pytestmark = pytest.mark.cluster

GUARDED = "guarded"
SIGNING = SigningKey("signing")
ROW = {"distance": 0.5, "carrier": "AA", "departs": "2024-05-01T10:00:00Z"}
LABELS = {"labels": [{"id": "nobody-s", "label": 1}]}
REQUESTS: dict[str, tuple[str, str, object]] = {
    "infer": ("POST", "/infer", infer_body([0.5])),
    "invocations": ("POST", "/invocations", {"instances": [ROW]}),
    "explain": ("POST", "/explain", {"instances": [ROW]}),
    "feedback": ("POST", "/feedback", LABELS),
    "metadata": ("GET", "", None),
    "openapi": ("GET", "/openapi.json", None),
}
NEEDED: dict[str, Scope] = {
    "infer": "infer",
    "invocations": "infer",
    "explain": "infer",
    "feedback": "feedback",
    "metadata": "read",
    "openapi": "read",
}


@pytest.fixture(scope="module")
def guarded(
    cluster: Settings, served: ModelVersion, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """An application with access on, next to those of other tests with access off. ``served`` comes up first: it
    brings the front, which these settings are not for."""
    with Publisher(SIGNING) as publisher:
        jwt = {"jwks_url": publisher.url, "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
        settings = cluster.model_copy(update={"access": True, **jwt})
        bundle = add_explainer(write_bundle(tmp_path_factory.mktemp("guarded") / "bundle", Slope(1.0)))
        version = register(registry, GUARDED, bundle)
        # Not the cluster's writer, whose settings leave access open. It takes that writer's place for this module.
        writer = ray.remote(serve_config.ServeConfigWriter).options(num_cpus=0).remote(settings)
        ray.get(writer.deploy.remote(version, serve_config.ServingOptions()))
        yield settings
        ray.get(writer.remove.remote(GUARDED))
        ray.kill(writer)
        # The cluster's own was replaced, and would end at its next write; the one that starts next is the newest again.
        ray.kill(serve_config.connect_config_writer(cluster))


@pytest.fixture(scope="module")
def caller(guarded: Settings) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{guarded.endpoint}/v2/models/{GUARDED}", timeout=30.0) as client:
        yield client


@pytest.fixture(scope="module")
def store(guarded: Settings) -> KeyStore:
    return KeyStore(guarded.access_uri)


@pytest.fixture(scope="module")
def keys(store: KeyStore, caller: httpx.Client) -> dict[str, str]:
    """Keys by what they are for; all of them count already, or count no longer."""
    now = time.time()
    issued = {scope: store.issue(scope, (GUARDED,), (scope,), now)[1] for scope in SCOPES}
    issued["stranger"] = store.issue("stranger", ("other",), SCOPES, now)[1]
    issued["expired"] = store.issue("expired", (GUARDED,), SCOPES, now - 10, expires_at=now - 5)[1]
    issued["slow"] = store.issue("slow", (GUARDED,), SCOPES, now, rate="3/hour")[1]
    issued["spent"] = store.issue("spent", (GUARDED,), SCOPES, now, rate="1/hour")[1]
    revoked, issued["revoked"] = store.issue("revoked", (GUARDED,), SCOPES, now)
    store.revoke(revoked.id, now)
    last = store.issue("last", ("*",), SCOPES, now)[1]
    issued["all"] = last
    until(lambda: send(caller, "metadata", last).status_code == 200, "the newest key counts")
    return issued


def send(caller: httpx.Client, kind: str, credential: str, id: str = "") -> httpx.Response:
    method, path, body = REQUESTS[kind]
    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    return caller.request(method, path, json=body, headers=headers | ({"x-request-id": id} if id else {}))


@pytest.mark.parametrize("kind", REQUESTS)
def test_request_of_each_kind_requires_its_scope(caller: httpx.Client, keys: dict[str, str], kind: str) -> None:
    for scope in SCOPES:
        answer = send(caller, kind, keys[scope])
        assert answer.status_code == (200 if scope == NEEDED[kind] else 403), answer.text
    assert send(caller, kind, keys["all"]).status_code == 200
    assert caller.request(*REQUESTS[kind][:2], json=REQUESTS[kind][2], headers={"x-api-key": keys["all"]}).is_success


REFUSALS = {
    "request.credential_missing",
    "request.api_key_unknown",
    "request.api_key_expired",
    "request.api_key_revoked",
    "request.token_invalid",
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_request_without_a_valid_credential_gets_401(caller: httpx.Client, keys: dict[str, str], kind: str) -> None:
    altered = keys["all"][:-1] + ("A" if keys["all"][-1] != "A" else "B")
    for credential in ("", altered, keys["expired"], keys["revoked"], SIGNING.token(aud="other")):
        answer = send(caller, kind, credential)
        assert answer.status_code == 401, answer.text
        assert answer.headers["www-authenticate"].startswith('Bearer realm="rayloop"')
        assert answer.json()["field"] == "authorization"
        assert answer.json()["code"] in REFUSALS
        assert answer.headers["x-request-id"]


def test_ready_without_a_credential_answers(caller: httpx.Client) -> None:
    assert caller.get("/ready").json() == {"name": GUARDED, "ready": True}


def test_key_of_another_model_gets_403(caller: httpx.Client, keys: dict[str, str]) -> None:
    answer = send(caller, "infer", keys["stranger"])
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def test_tokens_are_admitted_by_their_claims(caller: httpx.Client, keys: dict[str, str]) -> None:
    assert send(caller, "infer", SIGNING.token(models=[GUARDED])).status_code == 200
    assert send(caller, "infer", SIGNING.token(models=["other"])).status_code == 403
    assert send(caller, "metadata", SIGNING.token(models=[GUARDED])).status_code == 403
    assert send(caller, "infer", SIGNING.token(models=[GUARDED], exp=1_000_000_000)).status_code == 401


def test_key_beyond_its_rate_gets_retry_after(caller: httpx.Client, keys: dict[str, str]) -> None:
    answers = [send(caller, "infer", keys["slow"]) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 3500 < int(answers[-1].headers["retry-after"]) <= 3600
    assert send(caller, "infer", keys["infer"]).status_code == 200


def test_body_of_a_refused_request_is_not_read(caller: httpx.Client, keys: dict[str, str]) -> None:
    assert caller.post("/infer", content=b"{").status_code == 401
    assert caller.post("/infer", content=b"{", headers={"x-api-key": keys["infer"]}).status_code == 400


def test_refused_requests_never_reach_the_model(guarded: Settings, caller: httpx.Client, keys: dict[str, str]) -> None:
    """The prediction log holds each request that a model has seen."""
    until(lambda: send(caller, "infer", keys["spent"]).status_code == 429, "the rate is used up")
    for i, name in enumerate(("", "revoked", "expired", "stranger", "feedback", "spent") * 5):
        for kind in ("infer", "invocations"):
            assert not send(caller, kind, keys.get(name, ""), id=f"refused-{i}-{kind}").is_success
    assert send(caller, "infer", keys["infer"], id="let-in").is_success
    tables = Tables(guarded)

    def logged() -> set[str]:
        table = f"{GUARDED}.predictions"
        if not tables.exists(table):
            return set()
        return set(tables.read(table, columns=["request"]).column("request").to_pylist())

    until(lambda: "let-in" in logged(), "the one that was let in is logged")
    assert not {id for id in logged() if id.startswith("refused")}


def test_revocation_takes_effect_in_time(caller: httpx.Client, store: KeyStore) -> None:
    key, text = store.issue("brief", (GUARDED,), SCOPES, time.time())
    until(lambda: send(caller, "infer", text).status_code == 200, "the new key counts", KEY_EFFECTIVE_WITHIN_S)
    store.revoke(key.id, time.time())
    until(lambda: send(caller, "infer", text).status_code == 401, "the key counts no longer", KEY_EFFECTIVE_WITHIN_S)
