"""The gate as a whole: the settings that open it, the stores behind it, what a request is told."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import RequestError, SettingsError
from cluster.local_cluster import free_port
from cluster.settings import Settings
from deployments.auth import authenticator as gates
from deployments.auth.authenticator import Authenticator, open_authenticator
from deployments.auth.credentials import ApiKey, Scope
from deployments.auth.key_store import KeyStore
from tests.factories.deployments.issuer import AUDIENCE, NAME, Publisher, SigningKey, jwks
from tests.factories.until import until

QUICK_S = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "KEY_REFRESH_INTERVAL_S", QUICK_S)
    monkeypatch.setattr(gates, "MIN_JWKS_REFRESH_INTERVAL_S", QUICK_S)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, access=True)


@pytest.fixture
def store(settings: Settings) -> KeyStore:
    return KeyStore(settings.access_uri)


@pytest.fixture
def gate(settings: Settings, store: KeyStore) -> Iterator[Authenticator]:
    opened = open_authenticator(settings)
    assert opened is not None
    yield opened
    opened.close()


def issue(store: KeyStore, rate: str = "") -> tuple[ApiKey, str]:
    return store.issue("shop", ("trips",), ("infer",), time.time(), rate=rate)


def status(gate: Authenticator, credential: str, model: str = "trips", scope: Scope = "infer") -> int:
    """200 when the caller may pass, else what it is told."""
    headers = [(b"host", b"x"), (b"authorization", f"Bearer {credential}".encode("latin-1"))]
    try:
        asyncio.run(gate.admit(headers, model, scope))
    except RequestError as error:
        return error.status
    return 200


def test_access_is_open_by_default(tmp_path: Path) -> None:
    assert open_authenticator(Settings(home=tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_key_passes_where_it_may(gate: Authenticator, store: KeyStore) -> None:
    key, text = issue(store)
    until(lambda: status(gate, text) == 200, "the new key counts")
    assert asyncio.run(gate.admit([(b"x-api-key", text.encode())], "trips", "infer")) == f"key:{key.id}"
    assert status(gate, text, model="flights") == 403
    assert status(gate, text, scope="feedback") == 403
    assert status(gate, text[:-1]) == 401
    assert status(gate, "ey.ey.ey") == 401
    with pytest.raises(RequestError, match="asks for an API key"):
        asyncio.run(gate.admit([], "trips", "infer"))


def test_a_revoked_key_stops_counting(gate: Authenticator, store: KeyStore) -> None:
    key, text = issue(store)
    until(lambda: status(gate, text) == 200, "the new key counts")
    store.revoke(key.id, time.time())
    until(lambda: status(gate, text) == 401, "the revocation holds")


def test_known_keys_count_while_the_store_is_away_and_unknown_ones_do_not(
    settings: Settings, store: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = issue(store)
    opened = open_authenticator(settings)
    assert opened is not None
    until(lambda: status(opened, text) == 200, "the keys were read once")
    path = settings.home / "access.db"
    aside = path.rename(path.with_suffix(".aside"))
    path.mkdir()
    until(lambda: "cannot be read" in caplog.text, "the store is missed")
    assert status(opened, text) == 200
    assert status(opened, text[:-1]) == 401
    path.rmdir()
    aside.rename(path)
    _, later = issue(store)
    until(lambda: status(opened, later) == 200, "the store is found again")
    opened.close()


def test_before_keys_were_ever_read_callers_are_asked_to_wait(tmp_path: Path) -> None:
    opened = open_authenticator(Settings(home=tmp_path, access=True, access_store=f"sqlite:///{tmp_path}"))
    assert opened is not None
    assert status(opened, "rayloop_aaaaaaaaaaaa_secret") == 503
    assert status(opened, "") == 401
    opened.close()


def test_a_key_s_own_rate_goes_before_the_common_one(settings: Settings, store: KeyStore) -> None:
    _, slow = issue(store, rate="1/hour")
    _, common = issue(store)
    opened = open_authenticator(settings.model_copy(update={"access_rate": "2/hour"}))
    assert opened is not None
    assert [status(opened, slow) for _ in range(2)] == [200, 429]
    assert [status(opened, common) for _ in range(3)] == [200, 200, 429]
    # What is refused for another reason does not count.
    assert status(opened, slow, model="flights") == 403
    opened.close()


def test_tokens_pass_and_new_keys_of_the_issuer_are_found(settings: Settings) -> None:
    first, second = SigningKey("first"), SigningKey("second")
    with Publisher(first) as publisher:
        jwt = {"jwks_url": publisher.url, "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
        opened = open_authenticator(settings.model_copy(update=jwt))
        assert opened is not None
        assert status(opened, first.token()) == 200
        assert status(opened, first.token(), model="flights") == 403
        assert status(opened, first.token(), scope="read") == 403
        assert status(opened, first.token(aud="other")) == 401
        assert status(opened, second.token()) == 401
        publisher.body = jwks(first, second)
        until(lambda: status(opened, second.token()) == 200, "the second key is found")
        opened.close()


def test_tokens_of_unknown_keys_cannot_make_the_gate_hammer_the_issuer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "MIN_JWKS_REFRESH_INTERVAL_S", 3600.0)
    with Publisher(SigningKey("first")) as publisher:
        jwt = {"jwks_url": publisher.url, "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
        opened = open_authenticator(settings.model_copy(update=jwt))
        assert opened is not None
        stranger = SigningKey("stranger").token()
        assert {status(opened, stranger) for _ in range(200)} == {401}
        opened.close()
        assert publisher.asked == 1


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"jwks_url": "https://x/jwks"}, "RAYLOOP_JWT_ISSUER"),
        ({"jwks_url": "https://x/jwks", "jwt_issuer": "x"}, "RAYLOOP_JWT_AUDIENCE"),
        ({"jwks_url": "http://x/jwks", "jwt_issuer": "x", "jwt_audience": "y"}, "https://"),
        ({"jwks_url": "file:///etc/jwks", "jwt_issuer": "x", "jwt_audience": "y"}, "https://"),
        ({"jwks_url": "https://x", "jwt_issuer": "x", "jwt_audience": "y", "jwt_algorithms": "HS256"}, "RS256, ES256"),
        ({"jwks_url": "https://x", "jwt_issuer": "x", "jwt_audience": "y", "jwt_algorithms": "none"}, "RS256, ES256"),
        ({"access_rate": "often"}, "rate limit"),
        ({"rate_store": "memcached://x"}, "RAYLOOP_RATE_STORE"),
        ({"access_store": "nonsense"}, "RAYLOOP_ACCESS_STORE"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_once(settings: Settings, change: dict, part: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_authenticator(settings.model_copy(update=change))
    assert part in str(caught.value)


def test_an_issuer_that_is_away_at_the_start_is_found_later(settings: Settings) -> None:
    port, key = free_port(), SigningKey("key")
    jwt = {"jwks_url": f"http://127.0.0.1:{port}/jwks.json", "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
    opened = open_authenticator(settings.model_copy(update=jwt))
    assert opened is not None
    assert status(opened, key.token()) == 503
    with Publisher(key, port=port):
        until(lambda: status(opened, key.token()) == 200, "the issuer is found")
    opened.close()
