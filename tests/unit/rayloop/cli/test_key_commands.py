"""`rayloop keys`: its output, and the stored keys."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cluster.errors import RayloopError, RequestError
from cluster.settings import Settings, load_settings
from deployments.auth.credentials import authenticate, extract_credential
from deployments.auth.key_store import KeyStore
from rayloop.cli.app import app
from rayloop.simulation.api_key import temporary_key
from rayloop.simulation.load_client import LoadClient
from tests.factories.errors import raises

DAY_S = 86400


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    for name in ("RAYLOOP_ACCESS", "RAYLOOP_ACCESS_STORE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def rayloop(*words: str) -> Result:
    return CliRunner().invoke(app, ["keys", *words])


def create(*words: str) -> str:
    result = rayloop("create", "shop", *words)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_create_key_prints_only_the_key_on_standard_output() -> None:
    now = time.time()
    result = rayloop(
        *[
            "create",
            "shop",
            "--model",
            "trips",
            "--model",
            "flights",
            "--scope",
            "infer",
            "--expires",
            "2d",
            "--rate",
            "3/minute",
        ]
    )
    [text] = result.stdout.splitlines()
    keys = KeyStore(load_settings().access_uri).read()
    [key] = keys.values()
    assert authenticate(text, keys, now) == key.grant
    assert (key.name, key.models, key.scopes, key.rate) == ("shop", ("trips", "flights"), ("infer",), "3/minute")
    assert key.expires_at == pytest.approx(now + 2 * DAY_S, abs=60)
    assert text not in result.stderr
    assert f"key {key.id} of shop: trips, flights (infer)" in result.stderr
    assert "RAYLOOP_ACCESS=on" in result.stderr


def test_create_key_without_options_has_all_scopes_and_no_expiry() -> None:
    create("--model", "*")
    [key] = KeyStore(load_settings().access_uri).read().values()
    assert (key.models, key.scopes, key.expires_at, key.rate) == (("*",), ("infer", "feedback", "read"), None, "")


def test_list_keys_shows_state_and_no_secret() -> None:
    texts = [create("--model", "trips") for _ in range(2)]
    first = texts[0].split("_")[1]
    assert f"key {first} of shop is revoked" in rayloop("revoke", first).stdout
    output = rayloop("list").stdout
    assert [line.split()[:3] for line in output.splitlines()] == [
        ["id", "state", "name"],
        [first, "revoked", "shop"],
        [texts[1].split("_")[1], "active", "shop"],
    ]
    assert not any(text.split("_", 2)[2] in output for text in texts)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("create shop --model trips --expires soon", "rayloop.invalid_duration"),
        ("create shop --model trips --rate often", "settings.invalid_rate"),
        ("create shop --model trips --scope root", "rayloop.unknown_scope"),
        ("revoke nobody", "data.api_key_not_found"),
    ],
)
def test_key_command_with_invalid_words_is_refused_and_stores_nothing(words: str, code: str) -> None:
    result = rayloop(*words.split())
    assert isinstance(result.exception, RayloopError)
    assert result.exception.code == code
    assert KeyStore(load_settings().access_uri).read() == {}


def test_create_key_without_a_model_is_refused() -> None:
    assert "--model" in rayloop("create", "shop").stderr


def test_temporary_key_is_revoked_at_the_end_of_its_block(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr("deployments.auth.authenticator.KEY_EFFECTIVE_WITHIN_S", 0.0)
    settings = Settings(home=home, access=True)
    store = KeyStore(settings.access_uri)
    with temporary_key(settings, "trips", "simulation") as headers:
        credential = extract_credential([(b"authorization", headers["authorization"].encode())])
        assert authenticate(credential, store.read(), time.time()).models == {"trips"}
    with raises(RequestError, "request.api_key_revoked"):
        authenticate(credential, store.read(), time.time())


def test_temporary_key_with_open_access_creates_none(home: Path) -> None:
    with temporary_key(Settings(home=home), "trips", "simulation") as headers:
        assert headers == {}
    assert list(home.iterdir()) == []


def test_load_client_sends_its_headers() -> None:
    credentials: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            credentials.append(self.headers["authorization"])
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not in a test's output."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        sent = LoadClient(endpoint, "trips", 1, {"authorization": "Bearer abc"}).label(["a"], [1], [0])
        thread.join()
    assert (sent.requests, sent.failed, credentials) == (1, 0, ["Bearer abc"])
