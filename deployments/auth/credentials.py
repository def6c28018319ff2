"""Who may call which model: API keys, grants, refusals. Pure.

An API key reads ``rayloop_<id>_<secret>``. The id (48 random bits) finds the key's row and is not secret. The secret is
256 random bits, shown once and stored as a SHA-256 digest of the whole key. A slow password hash would add nothing: it
makes guessing human-chosen passwords expensive, and 256 random bits cannot be guessed. It would slow down each request,
and make wrong keys a cheap way to keep a replica busy.

A caller without a valid credential gets 401 and the way to send one (RFC 6750, section 3). A caller whose credential
does not cover the model or the kind of request gets 403.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from cluster.errors import RayloopError, RequestError
from cluster.values import Frozen

Scope = Literal["infer", "feedback", "read"]
SCOPES: tuple[Scope, ...] = ("infer", "feedback", "read")
ANY_MODEL = "*"
REQUIRED_SCOPES: dict[str, Scope | None] = {
    "": "read",
    "/ready": None,
    "/openapi.json": "read",
    "/infer": "infer",
    "/invocations": "infer",
    "/explain": "infer",
    "/feedback": "feedback",
}
"""The scope that a path after /v2/models/{name} requires. None: open to all, as are /v2 and /v2/health."""
KEY_PREFIX = "rayloop_"
ID_BYTES = 6
SECRET_BYTES = 32

_REALM = 'Bearer realm="rayloop"'
_FIELD = "authorization"
_AUTHORIZATION = frozenset({b"authorization", "authorization"})
_API_KEY = frozenset({b"x-api-key", "x-api-key"})

HeaderPairs = Iterable[tuple[bytes, bytes] | tuple[str, str]]
"""Headers with lower-case names, as in ASGI's scope (bytes) and in gRPC's metadata (text)."""


class Grant(NamedTuple):
    """What a credential allows. ``subject`` identifies its bearer in rate limits and logs; ``rate`` may be empty."""

    subject: str
    models: frozenset[str]
    scopes: frozenset[str]
    rate: str = ""


class ApiKey(Frozen):
    """An API key as it is stored. Times are seconds since the epoch."""

    id: str
    name: str = Field(min_length=1, max_length=200)
    digest: bytes
    models: tuple[str, ...]
    scopes: tuple[Scope, ...]
    rate: str = ""
    """Rate limit such as ``100/minute``; empty: the common one."""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    @field_validator("models", "scopes")
    @classmethod
    def _require_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or "" in names:
            raise RayloopError("rayloop.api_key_without_grant")
        return names

    @cached_property
    def grant(self) -> Grant:
        """What the key allows."""
        return Grant(f"key:{self.id}", frozenset(self.models), frozenset(self.scopes), self.rate)


def format_key(id_bytes: bytes, secret: bytes) -> tuple[str, str]:
    """Build a key's id and its text from ID_BYTES and SECRET_BYTES random bytes."""
    if len(id_bytes) != ID_BYTES or len(secret) != SECRET_BYTES:
        raise ValueError("a key is made of ID_BYTES and SECRET_BYTES random bytes")
    return id_bytes.hex(), f"{KEY_PREFIX}{id_bytes.hex()}_{urlsafe_b64encode(secret).rstrip(b'=').decode()}"


def hash_key(text: str) -> bytes:
    """SHA-256 digest of a key's text; the only trace of the secret that is stored."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def extract_credential(headers: HeaderPairs) -> str:
    """The credential of a request: ``Authorization: Bearer …``, else ``x-api-key``, else an empty string."""
    api_key = ""
    for name, value in headers:
        if name in _AUTHORIZATION:
            scheme, _, credential = _text(value).partition(" ")
            if scheme.lower() == "bearer":
                return credential.strip()
        elif name in _API_KEY:
            api_key = _text(value).strip()
    return api_key


def is_api_key(credential: str) -> bool:
    """Whether a credential has the form of an API key."""
    return credential.startswith(KEY_PREFIX)


def authenticate(credential: str, keys: Mapping[str, ApiKey], now: float) -> Grant:
    """Find what an API key grants.

    Args:
        credential: Text of the key.
        keys: All keys, by id.
        now: Seconds since the epoch.

    Raises:
        RequestError: 401, when the key is unknown, expired or revoked.
    """
    id, _, _ = credential[len(KEY_PREFIX) :].partition("_")
    key = keys.get(id)
    # The time that this takes reveals nothing about the secret. It may reveal that an id exists, which is not secret.
    if key is None or not hmac.compare_digest(hash_key(credential), key.digest):
        raise invalid_credential("request.api_key_unknown")
    if key.revoked_at is not None and now >= key.revoked_at:
        raise invalid_credential("request.api_key_revoked", key=key.id)
    if key.expires_at is not None and now >= key.expires_at:
        raise invalid_credential("request.api_key_expired", key=key.id)
    return key.grant


def authorize(grant: Grant, model: str, scope: Scope) -> None:
    """Check that a grant covers a model and a scope.

    Raises:
        RequestError: 403, when it does not.
    """
    if scope not in grant.scopes:
        raise _forbidden("request.scope_not_granted", scope=scope, scopes=sorted(grant.scopes))
    if model not in grant.models and ANY_MODEL not in grant.models:
        raise _forbidden("request.model_not_granted", model=model[:100])


def invalid_credential(code: str, /, **fields: object) -> RequestError:
    """The 401 for a credential that is wrong."""
    headers = {"www-authenticate": f'{_REALM}, error="invalid_token"'}
    return RequestError(code, field=_FIELD, headers=headers, **fields)


def missing_credential() -> RequestError:
    """The 401 for a request without a credential."""
    return RequestError("request.credential_missing", field=_FIELD, headers={"www-authenticate": _REALM})


def _forbidden(code: str, /, **fields: object) -> RequestError:
    headers = {"www-authenticate": f'{_REALM}, error="insufficient_scope"'}
    return RequestError(code, field=_FIELD, headers=headers, **fields)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
