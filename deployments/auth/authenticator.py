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
from deployments.auth.cached_value import CachedValue
from deployments.auth.credentials import (
    ApiKey,
    Grant,
    HeaderPairs,
    Scope,
    authenticate,
    authorize,
    extract_credential,
    invalid_credential,
    is_api_key,
    missing_credential,
)
from deployments.auth.jwt_verifier import (
    ALGORITHMS,
    Issuer,
    JwtVerifier,
    PublicKeys,
    credentials_unavailable,
    fetch_jwks,
    parse_jwks,
)
from deployments.auth.key_store import KeyStore
from deployments.auth.rate_limits import RateLimiter, enforce_rate, open_rate_limiter, parse_rate

# A key that was made or revoked is known everywhere after one reading and the time it may take.
KEY_REFRESH_INTERVAL_S = 2.0
KEY_EFFECTIVE_WITHIN_S = 5.0
JWKS_REFRESH_INTERVAL_S = 300.0
MIN_JWKS_REFRESH_INTERVAL_S = 10.0


class Authenticator:
    """Admits requests. One for each process that answers callers."""

    def __init__(
        self,
        keys: CachedValue[dict[str, ApiKey]],
        windows: RateLimiter,
        *,
        tokens: JwtVerifier | None = None,
        rate: str = "",
        clock: Callable[[], float] = time.time,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """``rate`` holds for a caller without a limit of its own; ``clock`` is in seconds since the epoch."""
        self._keys, self._windows, self._tokens = keys, windows, tokens
        self._rate, self._clock, self._close = rate, clock, close

    async def admit(self, headers: HeaderPairs, model: str, scope: Scope) -> str:
        """The name of the caller, if it may send ``model`` a request of this kind now.

        ``headers`` as ASGI's scope has them, or gRPC's metadata. Raises RequestError: 401, 403, 429, or 503 while it
        cannot be known; its ``headers`` belong to the answer.
        """
        grant = self._grant(extract_credential(headers))
        authorize(grant, model, scope)
        if rate := grant.rate or self._rate:
            await enforce_rate(self._windows, rate, grant.subject)
        return grant.subject

    def close(self) -> None:
        """End the threads that read keys."""
        self._close()

    def _grant(self, credential: str) -> Grant:
        if not credential:
            raise missing_credential()
        if not is_api_key(credential):
            if self._tokens is None:
                raise invalid_credential("this is no API key", "keys begin with rayloop_")
            return self._tokens.authenticate(credential, self._clock())
        if (keys := self._keys.value) is None:
            raise credentials_unavailable("the API keys")
        return authenticate(credential, keys, self._clock())


def open_authenticator(settings: Settings) -> Authenticator | None:
    """The gate that the settings ask for; None when access is open. Raises SettingsError.

    Reads keys before it returns, and waits for the stores for some seconds at most.
    """
    if not settings.access:
        return None
    if settings.access_rate:
        parse_rate(settings.access_rate)
    issuer, windows = _issuer(settings), open_rate_limiter(settings.rate_store)
    store = KeyStore(settings.access_uri)
    keys = CachedValue("API keys", store.read, KEY_REFRESH_INTERVAL_S, KEY_REFRESH_INTERVAL_S)
    if issuer is None:
        return Authenticator(keys, windows, rate=settings.access_rate, close=keys.close)
    jwks = CachedValue("JWKS", _reader(settings.jwks_url, issuer), JWKS_REFRESH_INTERVAL_S, MIN_JWKS_REFRESH_INTERVAL_S)

    def close() -> None:
        keys.close()
        jwks.close()

    tokens = JwtVerifier(issuer, lambda: jwks.value, jwks.request_refresh)
    return Authenticator(keys, windows, tokens=tokens, rate=settings.access_rate, close=close)


def _reader(url: str, issuer: Issuer) -> Callable[[], PublicKeys]:
    return lambda: parse_jwks(fetch_jwks(url), issuer.algorithms)


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
