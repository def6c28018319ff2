"""The authenticator as a whole: its settings, the stores behind it, its answers to requests."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import RequestError, SettingsError
from cluster.node.ports import free_port
from cluster.settings import Settings
from deployments.auth.authenticator import Authenticator, open_authenticator
from deployments.auth.credentials import ApiKey, Scope
from deployments.auth.key_store import KeyStore
from tests.factories.deployments.issuer import AUDIENCE, NAME, Publisher, SigningKey, jwks
from tests.factories.errors import raises
from tests.factories.until import until

QUICK_S = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.auth.authenticator.KEY_REFRESH_INTERVAL_S", QUICK_S)
    monkeypatch.setattr("deployments.auth.authenticator.MIN_JWKS_REFRESH_INTERVAL_S", QUICK_S)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, access=True)


@pytest.fixture
def store(settings: Settings) -> KeyStore:
    return KeyStore(settings.access_uri)


@pytest.fixture
def authenticator(settings: Settings, store: KeyStore) -> Iterator[Authenticator]:
    opened = open_authenticator(settings)
    assert opened is not None
    yield opened
    opened.close()


def issue(store: KeyStore, rate: str = "") -> tuple[ApiKey, str]:
    return store.issue("shop", ("trips",), ("infer",), time.time(), rate=rate)


def status(authenticator: Authenticator, credential: str, model: str = "trips", scope: Scope = "infer") -> int:
    """200 when the caller is admitted, else the status of the refusal."""
    headers = [(b"host", b"x"), (b"authorization", f"Bearer {credential}".encode("latin-1"))]
    try:
        asyncio.run(authenticator.admit(headers, model, scope))
    except RequestError as error:
        return error.status
    return 200


def test_open_authenticator_by_default_is_none(tmp_path: Path) -> None:
    assert open_authenticator(Settings(home=tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_admit_with_a_key_checks_model_and_scope(authenticator: Authenticator, store: KeyStore) -> None:
    key, text = issue(store)
    until(lambda: status(authenticator, text) == 200, "the new key counts")
    assert asyncio.run(authenticator.admit([(b"x-api-key", text.encode())], "trips", "infer")) == f"key:{key.id}"
    assert status(authenticator, text, model="flights") == 403
    assert status(authenticator, text, scope="feedback") == 403
    assert status(authenticator, text[:-1]) == 401
    assert status(authenticator, "ey.ey.ey") == 401
    with raises(RequestError, "request.credential_missing"):
        asyncio.run(authenticator.admit([], "trips", "infer"))


def test_admit_with_a_revoked_key_is_refused(authenticator: Authenticator, store: KeyStore) -> None:
    key, text = issue(store)
    until(lambda: status(authenticator, text) == 200, "the new key counts")
    store.revoke(key.id, time.time())
    until(lambda: status(authenticator, text) == 401, "the revocation holds")


def test_admit_during_an_outage_of_the_store_uses_the_last_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "store"
    settings = Settings(home=tmp_path, access=True, access_store=f"sqlite:///{folder}/access.db")
    store = KeyStore(settings.access_uri)
    _, text = issue(store)
    opened = open_authenticator(settings)
    assert opened is not None
    until(lambda: status(opened, text) == 200, "the keys were read once")
    # The folder, not the file: where only the file is gone, SQLite's next reader creates an empty one, and two files
    # of one name share a journal.
    aside = folder.rename(tmp_path / "aside")
    until(lambda: "API keys" in caplog.text, "the outage is logged")
    assert status(opened, text) == 200
    assert status(opened, text[:-1]) == 401
    aside.rename(folder)
    _, later = issue(store)
    until(lambda: status(opened, later) == 200, "the store is found again")
    opened.close()


def test_admit_before_keys_are_known_gives_503(tmp_path: Path) -> None:
    opened = open_authenticator(Settings(home=tmp_path, access=True, access_store=f"sqlite:///{tmp_path}"))
    assert opened is not None
    assert status(opened, "rayloop_aaaaaaaaaaaa_secret") == 503
    assert status(opened, "") == 401
    opened.close()


def test_admit_prefers_the_rate_of_the_key(settings: Settings, store: KeyStore) -> None:
    _, slow = issue(store, rate="1/hour")
    _, common = issue(store)
    opened = open_authenticator(settings.model_copy(update={"access_rate": "2/hour"}))
    assert opened is not None
    assert [status(opened, slow) for _ in range(2)] == [200, 429]
    assert [status(opened, common) for _ in range(3)] == [200, 200, 429]
    # What is refused for another reason does not count.
    assert status(opened, slow, model="flights") == 403
    opened.close()


def test_admit_with_tokens_follows_new_keys_of_the_issuer(settings: Settings) -> None:
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


def test_admit_with_tokens_of_unknown_keys_does_not_flood_the_issuer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.auth.authenticator.MIN_JWKS_REFRESH_INTERVAL_S", 3600.0)
    with Publisher(SigningKey("first")) as publisher:
        jwt = {"jwks_url": publisher.url, "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
        opened = open_authenticator(settings.model_copy(update=jwt))
        assert opened is not None
        stranger = SigningKey("stranger").token()
        assert {status(opened, stranger) for _ in range(200)} == {401}
        opened.close()
        assert publisher.requests == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"jwks_url": "https://x/jwks"}, "settings.jwt_incomplete"),
        ({"jwks_url": "https://x/jwks", "jwt_issuer": "x"}, "settings.jwt_incomplete"),
        ({"jwks_url": "http://x/jwks", "jwt_issuer": "x", "jwt_audience": "y"}, "settings.insecure_jwks_url"),
        ({"jwks_url": "file:///etc/jwks", "jwt_issuer": "x", "jwt_audience": "y"}, "settings.insecure_jwks_url"),
        (
            {"jwks_url": "https://x", "jwt_issuer": "x", "jwt_audience": "y", "jwt_algorithms": "HS256"},
            "settings.invalid_jwt_algorithms",
        ),
        (
            {"jwks_url": "https://x", "jwt_issuer": "x", "jwt_audience": "y", "jwt_algorithms": "none"},
            "settings.invalid_jwt_algorithms",
        ),
        ({"access_rate": "often"}, "settings.invalid_rate"),
        ({"rate_store": "memcached://x"}, "settings.invalid_rate_store"),
        ({"access_store": "nonsense"}, "settings.invalid_key_store"),
    ],
)
def test_open_authenticator_with_unusable_settings_is_refused(settings: Settings, change: dict, code: str) -> None:
    with raises(SettingsError, code):
        open_authenticator(settings.model_copy(update=change))


def test_admit_after_the_issuer_starts_late_succeeds(settings: Settings) -> None:
    port, key = free_port(), SigningKey("key")
    jwt = {"jwks_url": f"http://127.0.0.1:{port}/jwks.json", "jwt_issuer": NAME, "jwt_audience": AUDIENCE}
    opened = open_authenticator(settings.model_copy(update=jwt))
    assert opened is not None
    assert status(opened, key.token()) == 503
    with Publisher(key, port=port):
        until(lambda: status(opened, key.token()) == 200, "the issuer is found")
    opened.close()
