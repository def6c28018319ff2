"""The table of keys, on SQLite; what a reader keeps when the table is away."""

import logging
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from cluster.errors import DataError, SettingsError
from deployments.auth import credentials
from deployments.auth.cached_value import CachedValue
from deployments.auth.key_store import KeyStore
from tests.factories.until import until

NOW = 1_700_000_000.0


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'home' / 'access.db'}"


def test_before_the_first_key_there_is_none(uri: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert KeyStore(uri).read() == {}


def test_a_key_comes_back_as_it_was_made(uri: str) -> None:
    key, secret = KeyStore(uri).issue(
        "shop", ("trips", "*"), ("infer", "read"), NOW, rate="3/minute", expires_at=NOW + 9
    )
    found = KeyStore(uri).read()
    assert found == {key.id: key}
    assert credentials.authenticate(secret, found, NOW) == key.grant


def test_only_a_digest_is_at_rest(uri: str, tmp_path: Path) -> None:
    key, secret = KeyStore(uri).issue("shop", ("trips",), ("infer",), NOW)
    stored = (tmp_path / "home" / "access.db").read_bytes()
    assert key.digest in stored
    assert secret.encode() not in stored
    assert secret.split("_", 2)[2].encode() not in stored


def test_a_revoked_key_stays_in_the_list_and_counts_no_longer(uri: str) -> None:
    store = KeyStore(uri)
    key, _ = store.issue("shop", ("trips",), ("infer",), NOW)
    other, _ = store.issue("other", ("trips",), ("infer",), NOW + 1)
    assert store.revoke(key.id, NOW + 2).revoked_at == NOW + 2
    # The first moment stays.
    assert store.revoke(key.id, NOW + 3).revoked_at == NOW + 2
    assert [k.revoked_at for k in store.read().values()] == [NOW + 2, None]
    assert list(store.read()) == [key.id, other.id]
    with pytest.raises(DataError, match="rayloop keys list"):
        store.revoke("nobody", NOW)


def test_a_spoilt_row_lets_nobody_in_and_hides_no_other(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore(uri)
    spoilt, _ = store.issue("spoilt", ("trips",), ("infer",), NOW)
    sound, _ = store.issue("sound", ("trips",), ("infer",), NOW)
    engine = create_engine(uri)
    with engine.begin() as connection:
        connection.execute(text("update rayloop_keys set scopes = '[\"root\"]' where id = :id"), {"id": spoilt.id})
    engine.dispose()
    with caplog.at_level(logging.ERROR):
        assert set(store.read()) == {sound.id}
    assert spoilt.id in caplog.text


def test_an_unchanged_table_gives_the_same_keys(uri: str) -> None:
    store = KeyStore(uri)
    store.issue("shop", ("trips",), ("infer",), NOW)
    before = store.read()
    assert store.read() is before
    KeyStore(uri).issue("other", ("trips",), ("infer",), NOW)
    assert store.read() is not before
    assert len(store.read()) == 2


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("nonsense", "no known kind"),
        ("nosuch://host/db", "no known kind"),
        ("oracle://host/db", "needs the Python package"),
    ],
)
def test_an_address_of_no_known_kind_is_refused(uri: str, part: str) -> None:
    with pytest.raises(SettingsError, match=part):
        KeyStore(uri)


def test_a_store_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not answer") as caught:
        KeyStore(f"sqlite:///{tmp_path}").read()
    assert str(tmp_path) in str(caught.value)
    assert "RAYLOOP_ACCESS_STORE" in str(caught.value)


class Source:
    """What a Refreshed reads: values in turn, an exception in between."""

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


def test_the_last_known_value_stays_while_its_owner_is_away(caplog: pytest.LogCaptureFixture) -> None:
    source = Source("first", OSError("gone"), OSError("gone"), "second")
    with caplog.at_level(logging.WARNING):
        refreshed = CachedValue("keys", source, period_s=0.01, gap_s=0.01)
        seen = {refreshed.value}
        until(lambda: bool(seen.add(refreshed.value)) or refreshed.value == "second", "read again")
        refreshed.close()
    assert seen == {"first", "second"}
    # Once an outage, not once a try.
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "keys cannot be read",
        "keys can be read again",
    ]


def test_what_was_never_read_has_no_value() -> None:
    refreshed = CachedValue("keys", Source(OSError("gone")), period_s=60.0, gap_s=60.0)
    refreshed.close()
    assert refreshed.value is None


def test_wanting_it_sooner_reads_sooner_but_not_more_often_than_the_gap() -> None:
    source = Source("value")
    refreshed = CachedValue("keys", source, period_s=3600.0, gap_s=0.2)
    ended = threading.Event()
    timer = threading.Timer(0.7, ended.set)
    timer.start()
    while not ended.is_set():
        refreshed.request_refresh()
    refreshed.close()
    timer.join()
    assert 2 <= source.readings <= 5
