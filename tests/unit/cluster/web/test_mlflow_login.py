"""MLflow's pages answer requests with the token only."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import SettingsError
from cluster.web import mlflow_login
from cluster.web.mlflow_login import Message, Receive, Send, TokenLogin
from tests.factories.errors import raises

TOKEN = "a-token"


async def pages(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(authorization: str | None, kind: str = "http") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("a refused request's body is not read")

    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    asyncio.run(TokenLogin(pages, TOKEN)({"type": kind, "headers": headers}, receive, send))
    return sent


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", basic(f"anyone:{TOKEN}"), basic(f":{TOKEN}")])
def test_request_with_the_token_is_passed_on(authorization: str) -> None:
    assert ask(authorization)[0]["status"] == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", basic("anyone:wrong"), basic(TOKEN), "Basic §", TOKEN],
)
def test_other_request_is_refused_with_a_challenge(authorization: str | None) -> None:
    start, body = ask(authorization)
    assert (start["status"], body["body"]) == (401, b"")
    assert dict(start["headers"])[b"www-authenticate"].startswith(b"Basic ")


def test_websocket_without_the_token_is_closed() -> None:
    assert [message["type"] for message in ask(None, "websocket")] == ["websocket.close"]


def test_pages_without_a_token_do_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    started: list[Any] = []
    with raises(SettingsError, "settings.ray_token_missing"):
        started.append(mlflow_login.create_app())
