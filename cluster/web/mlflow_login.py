"""MLflow's web pages behind the cluster's token: `mlflow server --app-name rayloop`.

A browser asks for user and password: the password is the token, the user is not checked. Programs send the token as
Bearer, which MLflow's clients do with MLFLOW_TRACKING_TOKEN.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cluster.errors import SettingsError
from cluster.node.token import read_token, token_file

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

_CHALLENGE = [(b"www-authenticate", b'Basic realm="the password is the token of Ray"'), (b"content-length", b"0")]


class TokenLogin:
    """Passes requests with the token on to an application, and answers others with 401."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or hmac.compare_digest(_credential(scope["headers"]), self._token):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 401, "headers": _CHALLENGE})
            await send({"type": "http.response.body", "body": b""})


def create_app() -> ASGIApp:
    """Return MLflow's application behind the token of this user.

    Raises:
        SettingsError: There is no token.
    """
    token = read_token()
    if not token:
        raise SettingsError("settings.ray_token_missing", path=str(token_file()))
    from mlflow.server.fastapi_app import app

    return TokenLogin(app, token)


def _credential(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The token that a request presents; empty when there is none."""
    scheme, _, value = dict(headers).get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
