"""The table of keys, on SQLite; what a cached value keeps while its owner is unavailable."""

import logging
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from cluster.errors import DataError, SettingsError
from deployments.auth import credentials
from deployments.auth.cached_value import CachedValue
from deployments.auth.key_store import KeyStore
from tests.factories.errors import raises
from tests.factories.until import until

NOW = 1_700_000_000.0


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'home' / 'access.db'}"


def test_read_before_the_first_key_is_empty(uri: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert KeyStore(uri).read() == {}


def test_read_after_issue_returns_the_key(uri: str) -> None:
    key, secret = KeyStore(uri).issue(
        "shop", ("trips", "*"), ("infer", "read"), NOW, rate="3/minute", expires_at=NOW + 9
    )
    keys = KeyStore(uri).read()
    assert keys == {key.id: key}
    assert credentials.authenticate(secret, keys, NOW) == key.grant


def test_issue_stores_only_a_digest(uri: str, tmp_path: Path) -> None:
    key, secret = KeyStore(uri).issue("shop", ("trips",), ("infer",), NOW)
    stored = (tmp_path / "home" / "access.db").read_bytes()
    assert key.digest in stored
    assert secret.encode() not in stored
    assert secret.split("_", 2)[2].encode() not in stored


def test_revoke_of_a_key_keeps_the_first_time(uri: str) -> None:
    store = KeyStore(uri)
    key, _ = store.issue("shop", ("trips",), ("infer",), NOW)
    other, _ = store.issue("other", ("trips",), ("infer",), NOW + 1)
    assert store.revoke(key.id, NOW + 2).revoked_at == NOW + 2
    # The first moment stays.
    assert store.revoke(key.id, NOW + 3).revoked_at == NOW + 2
    assert [k.revoked_at for k in store.read().values()] == [NOW + 2, None]
    assert list(store.read()) == [key.id, other.id]
    with raises(DataError, "data.api_key_not_found", id="unlisted"):
        store.revoke("unlisted", NOW)


def test_read_with_a_corrupt_row_skips_it_alone(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore(uri)
    corrupt, _ = store.issue("corrupt", ("trips",), ("infer",), NOW)
    intact, _ = store.issue("intact", ("trips",), ("infer",), NOW)
    engine = create_engine(uri)
    with engine.begin() as connection:
        connection.execute(text("update rayloop_keys set scopes = '[\"root\"]' where id = :id"), {"id": corrupt.id})
    engine.dispose()
    with caplog.at_level(logging.ERROR):
        assert set(store.read()) == {intact.id}
    assert corrupt.id in caplog.text


@pytest.mark.parametrize("column", ["name", "digest", "models", "scopes", "rate", "created_at"])
def test_table_of_keys_refuses_a_row_without(uri: str, column: str) -> None:
    KeyStore(uri).issue("shop", ("trips",), ("infer",), NOW)
    engine = create_engine(uri)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(f"update rayloop_keys set {column} = null"))
    engine.dispose()


def test_read_of_unchanged_table_returns_the_same_dict(uri: str) -> None:
    store = KeyStore(uri)
    store.issue("shop", ("trips",), ("infer",), NOW)
    before = store.read()
    assert store.read() is before
    KeyStore(uri).issue("other", ("trips",), ("infer",), NOW)
    assert store.read() is not before
    assert len(store.read()) == 2


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("nonsense", "settings.invalid_key_store"),
        ("nosuch://host/db", "settings.invalid_key_store"),
        ("oracle://host/db", "settings.key_store_driver_missing"),
    ],
)
def test_key_store_of_unusable_address_is_refused(uri: str, code: str) -> None:
    with raises(SettingsError, code):
        KeyStore(uri)


def test_read_of_unavailable_store_names_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}"
    with raises(DataError, "data.key_store_unavailable", store=uri):
        KeyStore(uri).read()


class Source:
    """What a CachedValue reads: values in turn, exceptions in between."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.readings = 0
        self.read_again = threading.Event()

    def __call__(self) -> object:
        answer = self._answers[min(self.readings, len(self._answers) - 1)]
        self.readings += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_cached_value_during_an_outage_keeps_the_last_value(caplog: pytest.LogCaptureFixture) -> None:
    source = Source("first", OSError("gone"), OSError("gone"), "second")
    with caplog.at_level(logging.WARNING):
        cached = CachedValue("keys", source, interval_s=0.01, min_interval_s=0.01)
        values = {cached.value}
        until(lambda: bool(values.add(cached.value)) or cached.value == "second", "read again")
        cached.close()
    assert values == {"first", "second"}
    # Once an outage, not once a try; then that it is over.
    levels = [record.levelno for record in caplog.records if record.name == CachedValue.__module__]
    assert levels == [logging.ERROR, logging.WARNING]


def test_cached_value_never_read_is_none() -> None:
    cached = CachedValue("keys", Source(OSError("gone")), interval_s=60.0, min_interval_s=60.0)
    cached.close()
    assert cached.value is None


def test_request_refresh_in_a_flood_respects_the_minimum_interval() -> None:
    source = Source("value")
    cached = CachedValue("keys", source, interval_s=3600.0, min_interval_s=0.2)
    ended = threading.Event()
    timer = threading.Timer(0.7, ended.set)
    timer.start()
    while not ended.is_set():
        cached.request_refresh()
    cached.close()
    timer.join()
    assert 2 <= source.readings <= 5
