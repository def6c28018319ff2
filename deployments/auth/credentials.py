"""Who may call which model: API keys, grants, refusals. Pure.

An API key reads ``rayloop_<id>_<secret>``. The id (48 random bits) finds the key's row and may be shown to anyone; the
secret is 256 random bits, shown once and kept as a SHA-256 digest of the whole key. A slow password hash would add
nothing: it makes guessing what people choose expensive, and nobody guesses 256 random bits; it would only make each
request slow, and wrong keys a cheap way to keep a replica busy.

A caller without a valid credential gets 401 and learns how to bring one (RFC 6750, section 3), one whose credential
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
# What a path after /v2/models/{name} asks for; None: open to all, as are /v2 and /v2/health.
REQUIRED_SCOPES: dict[str, Scope | None] = {
    "": "read",
    "/ready": None,
    "/openapi.json": "read",
    "/infer": "infer",
    "/invocations": "infer",
    "/feedback": "feedback",
}
KEY_PREFIX = "rayloop_"
ID_BYTES = 6
SECRET_BYTES = 32

_REALM = 'Bearer realm="rayloop"'
_FIELD = "authorization"
_AUTHORIZATION = frozenset({b"authorization", "authorization"})
_API_KEY = frozenset({b"x-api-key", "x-api-key"})

HeaderPairs = Iterable[tuple[bytes, bytes] | tuple[str, str]]


class Grant(NamedTuple):
    """What a credential allows. ``subject`` names its bearer in limits and logs; ``rate`` is empty without one."""

    subject: str
    models: frozenset[str]
    scopes: frozenset[str]
    rate: str = ""


class ApiKey(Frozen):
    """An API key as it is stored. Times are seconds since the epoch; ``rate`` is a limit such as ``100/minute``."""

    id: str
    name: str = Field(min_length=1, max_length=200)
    digest: bytes
    models: tuple[str, ...]
    scopes: tuple[Scope, ...]
    rate: str = ""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    @field_validator("models", "scopes")
    @classmethod
    def _not_empty(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or "" in names:
            raise RayloopError("a key needs one model and one scope or more", f"{ANY_MODEL} stands for every model")
        return names

    @cached_property
    def grant(self) -> Grant:
        return Grant(f"key:{self.id}", frozenset(self.models), frozenset(self.scopes), self.rate)


def format_key(id_bytes: bytes, secret: bytes) -> tuple[str, str]:
    """A key's id and its text, from ID_BYTES and SECRET_BYTES random bytes."""
    if len(id_bytes) != ID_BYTES or len(secret) != SECRET_BYTES:
        raise ValueError("a key is made of ID_BYTES and SECRET_BYTES random bytes")
    return id_bytes.hex(), f"{KEY_PREFIX}{id_bytes.hex()}_{urlsafe_b64encode(secret).rstrip(b'=').decode()}"


def hash_key(text: str) -> bytes:
    """What is stored of a key's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def extract_credential(headers: HeaderPairs) -> str:
    """The credential of a request: ``Authorization: Bearer …``, else ``x-api-key``; empty when there is none.

    ``headers`` are pairs with lower-case names, as ASGI has them (bytes) and gRPC's metadata (text).
    """
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
    return credential.startswith(KEY_PREFIX)


def authenticate(credential: str, keys: Mapping[str, ApiKey], now: float) -> Grant:
    """What an API key grants. ``keys`` are by id, ``now`` is in seconds since the epoch. Raises RequestError, 401."""
    id, _, _ = credential[len(KEY_PREFIX) :].partition("_")
    key = keys.get(id)
    # The time this takes tells nothing about the secret. It may tell that an id exists, which is no secret.
    if key is None or not hmac.compare_digest(hash_key(credential), key.digest):
        raise invalid_credential("the API key is not known", "was it copied whole? A new one counts within seconds")
    if key.revoked_at is not None and now >= key.revoked_at:
        raise invalid_credential(f"the API key {key.id} was revoked", "ask for another")
    if key.expires_at is not None and now >= key.expires_at:
        raise invalid_credential(f"the API key {key.id} has expired", "ask for another")
    return key.grant


def authorize(grant: Grant, model: str, scope: Scope) -> None:
    """Raises RequestError, 403, when the grant does not cover the model or the scope."""
    if scope not in grant.scopes:
        raise _forbidden(f"this credential is not for {scope!r} requests", f"it is for {_listed(grant.scopes)}")
    if model not in grant.models and ANY_MODEL not in grant.models:
        raise _forbidden(f"this credential is not for model {model[:100]!r}", "ask for one that names it")


def invalid_credential(what: str, todo: str = "") -> RequestError:
    """The refusal of a credential that is wrong."""
    headers = {"www-authenticate": f'{_REALM}, error="invalid_token"'}
    return RequestError(what, field=_FIELD, status=401, todo=todo, headers=headers)


def missing_credential() -> RequestError:
    """The refusal of a request without a credential."""
    todo = "send `Authorization: Bearer <key or token>`, or `x-api-key: <key>`"
    return RequestError(
        "this model asks for an API key or a token",
        field=_FIELD,
        status=401,
        todo=todo,
        headers={"www-authenticate": _REALM},
    )


def _forbidden(what: str, todo: str) -> RequestError:
    headers = {"www-authenticate": f'{_REALM}, error="insufficient_scope"'}
    return RequestError(what, field=_FIELD, status=403, todo=todo, headers=headers)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
