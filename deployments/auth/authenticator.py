"""The gate in front of a model: is this caller known, may it do this, has it not asked too often.

It stands before anything else is done with a request, so that one without a valid credential never reaches a model. What
it asks is in memory: the keys and the issuer's public keys are read by threads of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from cluster.errors import SettingsError
from cluster.settings import Settings
from deployments.auth.cached_value import Refreshed
from deployments.auth.credentials import (
    Grant,
    Headers,
    Key,
    Scope,
    anonymous,
    is_key,
    permit,
    presented,
    recognise,
    unauthorised,
)
from deployments.auth.jwt_verifier import ALGORITHMS, Issuer, PublicKeys, Tokens, fetch, not_yet, public_keys
from deployments.auth.key_store import KeyStore
from deployments.auth.rate_limits import Windows, open_windows, parse_rate, take

# A key that was made or revoked is known everywhere after one reading and the time it may take.
REFRESH_KEYS_S = 2.0
COUNTS_WITHIN_S = 5.0
REFRESH_JWKS_S = 300.0
JWKS_GAP_S = 10.0


class Gate:
    """Admits requests. One for each process that answers callers."""

    def __init__(
        self,
        keys: Refreshed[dict[str, Key]],
        windows: Windows,
        *,
        tokens: Tokens | None = None,
        rate: str = "",
        clock: Callable[[], float] = time.time,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """``rate`` holds for a caller without a limit of its own; ``clock`` is in seconds since the epoch."""
        self._keys, self._windows, self._tokens = keys, windows, tokens
        self._rate, self._clock, self._close = rate, clock, close

    async def admit(self, headers: Headers, model: str, scope: Scope) -> str:
        """The name of the caller, if it may send ``model`` a request of this kind now.

        ``headers`` as ASGI's scope has them, or gRPC's metadata. Raises RequestError: 401, 403, 429, or 503 while it
        cannot be known; its ``headers`` belong to the answer.
        """
        grant = self._grant(presented(headers))
        permit(grant, model, scope)
        if rate := grant.rate or self._rate:
            await take(self._windows, rate, grant.subject)
        return grant.subject

    def close(self) -> None:
        """End the threads that read keys."""
        self._close()

    def _grant(self, credential: str) -> Grant:
        if not credential:
            raise anonymous()
        if not is_key(credential):
            if self._tokens is None:
                raise unauthorised("this is no API key", "keys begin with rayloop_")
            return self._tokens.recognise(credential, self._clock())
        if (keys := self._keys.value) is None:
            raise not_yet("the API keys")
        return recognise(credential, keys, self._clock())


def open_gate(settings: Settings) -> Gate | None:
    """The gate that the settings ask for; None when access is open. Raises SettingsError.

    Reads keys before it returns, and waits for the stores for some seconds at most.
    """
    if not settings.access:
        return None
    if settings.access_rate:
        parse_rate(settings.access_rate)
    issuer, windows = _issuer(settings), open_windows(settings.rate_store)
    store = KeyStore(settings.access_uri)
    keys = Refreshed("API keys", store.read, REFRESH_KEYS_S, REFRESH_KEYS_S)
    if issuer is None:
        return Gate(keys, windows, rate=settings.access_rate, close=keys.close)
    jwks = Refreshed("JWKS", _reader(settings.jwks_url, issuer), REFRESH_JWKS_S, JWKS_GAP_S)

    def close() -> None:
        keys.close()
        jwks.close()

    tokens = Tokens(issuer, lambda: jwks.value, jwks.want)
    return Gate(keys, windows, tokens=tokens, rate=settings.access_rate, close=close)


def _reader(url: str, issuer: Issuer) -> Callable[[], PublicKeys]:
    return lambda: public_keys(fetch(url), issuer.algorithms)


def _issuer(settings: Settings) -> Issuer | None:
    if not settings.jwks_url:
        return None
    for name in ("jwt_issuer", "jwt_audience"):
        if not getattr(settings, name):
            raise SettingsError(f"RAYLOOP_JWKS_URL is set, RAYLOOP_{name.upper()} is not", "set both, or neither")
    algorithms = tuple(name.strip() for name in settings.jwt_algorithms.split(","))
    if not set(algorithms) <= set(ALGORITHMS):
        raise SettingsError(
            f"RAYLOOP_JWT_ALGORITHMS={settings.jwt_algorithms!r} cannot be used", f"take of {', '.join(ALGORITHMS)}"
        )
    _check_transport(settings.jwks_url)
    return Issuer(
        name=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=algorithms,
        models_claim=settings.jwt_models_claim,
        scopes_claim=settings.jwt_scopes_claim,
        leeway_s=settings.jwt_leeway_s,
    )


def _check_transport(url: str) -> None:
    """Whoever stands between could put keys of his own into a JWKS that comes without TLS."""
    parsed = urlsplit(url)
    if parsed.scheme != "https" and not (parsed.scheme == "http" and _is_loopback(parsed.hostname or "")):
        raise SettingsError(f"RAYLOOP_JWKS_URL={url!r} cannot be trusted", "take an https:// address")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
