"""The check in front of a model: who is the caller, may it do this, is it within its rate limit.

It runs before anything else is done with a request, so a call without a valid credential never reaches a model. All it
needs is in memory: background threads read the API keys and the issuer's public keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from cluster.errors import SettingsError
from cluster.settings import Settings
from deployments.auth import credentials, jwt_verifier
from deployments.auth.cached_value import CachedValue
from deployments.auth.credentials import ApiKey, Grant, HeaderPairs, Scope, invalid_credential
from deployments.auth.jwt_verifier import ALGORITHMS, Issuer, JwtVerifier, PublicKeys
from deployments.auth.key_store import KeyStore
from deployments.auth.rate_limits import RateLimiter, enforce_rate, open_rate_limiter, parse_rate

KEY_REFRESH_INTERVAL_S = 2.0
KEY_EFFECTIVE_WITHIN_S = 5.0
"""A new or revoked key is known to every replica after one refresh and the time that the refresh may take."""
JWKS_REFRESH_INTERVAL_S = 300.0
MIN_JWKS_REFRESH_INTERVAL_S = 10.0


class Authenticator:
    """Admits or refuses requests; one for each process that answers callers.

    Args:
        keys: API keys by id.
        rate_limiter: Counts the requests of each caller.
        tokens: Verifies JWTs; None when no issuer is configured.
        rate: Limit of callers without their own limit; empty: none.
        close: Ends the threads behind ``keys`` and ``tokens``.
    """

    def __init__(
        self,
        keys: CachedValue[dict[str, ApiKey]],
        rate_limiter: RateLimiter,
        *,
        tokens: JwtVerifier | None = None,
        rate: str = "",
        close: Callable[[], object],
    ) -> None:
        self._keys, self._rate_limiter, self._tokens, self._rate, self._close = keys, rate_limiter, tokens, rate, close

    async def admit(self, headers: HeaderPairs, model: str, scope: Scope) -> str:
        """Check one request.

        Args:
            headers: As in ASGI's scope, or gRPC's metadata.
            model: The model it addresses.
            scope: The scope it requires.

        Returns:
            The caller's subject.

        Raises:
            RequestError: 401, 403, 429, or 503 while keys are unknown. Its ``headers`` belong in the answer.
        """
        grant = self._find_grant(credentials.extract_credential(headers))
        credentials.authorize(grant, model, scope)
        if rate := grant.rate or self._rate:
            await enforce_rate(self._rate_limiter, rate, grant.subject)
        return grant.subject

    def close(self) -> None:
        """End the background threads."""
        self._close()

    def _find_grant(self, credential: str) -> Grant:
        if not credential:
            raise credentials.missing_credential()
        if not credentials.is_api_key(credential):
            if self._tokens is None:
                raise invalid_credential("request.not_an_api_key")
            return self._tokens.authenticate(credential, time.time())
        if (keys := self._keys.value) is None:
            raise jwt_verifier.credentials_unavailable("the API keys")
        return credentials.authenticate(credential, keys, time.time())


def open_authenticator(settings: Settings) -> Authenticator | None:
    """Build the authenticator that the settings describe; None when access is open.

    Reads the keys before it returns, which takes a few seconds at most.

    Raises:
        SettingsError: A setting has a value that cannot be used.
    """
    if not settings.access:
        return None
    if settings.access_rate:
        parse_rate(settings.access_rate)
    issuer, rate_limiter = _issuer(settings), open_rate_limiter(settings.rate_store)
    store = KeyStore(settings.access_uri)
    keys = CachedValue("API keys", store.read, KEY_REFRESH_INTERVAL_S, KEY_REFRESH_INTERVAL_S)
    if issuer is None:
        return Authenticator(keys, rate_limiter, rate=settings.access_rate, close=keys.close)

    def read_jwks() -> PublicKeys:
        return jwt_verifier.parse_jwks(jwt_verifier.fetch_jwks(settings.jwks_url), issuer.algorithms)

    jwks = CachedValue("JWKS", read_jwks, JWKS_REFRESH_INTERVAL_S, MIN_JWKS_REFRESH_INTERVAL_S)

    def close() -> None:
        keys.close()
        jwks.close()

    tokens = JwtVerifier(issuer, lambda: jwks.value, jwks.request_refresh)
    return Authenticator(keys, rate_limiter, tokens=tokens, rate=settings.access_rate, close=close)


def _issuer(settings: Settings) -> Issuer | None:
    if not settings.jwks_url:
        return None
    for name in ("jwt_issuer", "jwt_audience"):
        if not getattr(settings, name):
            raise SettingsError("settings.jwt_incomplete", variable=f"RAYLOOP_{name.upper()}")
    algorithms = tuple(name.strip() for name in settings.jwt_algorithms.split(","))
    if not set(algorithms) <= set(ALGORITHMS):
        raise SettingsError(
            "settings.invalid_jwt_algorithms", algorithms=algorithms, value=settings.jwt_algorithms, choices=ALGORITHMS
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
    """Without TLS, anyone on the network path could put keys into the JWKS."""
    parsed = urlsplit(url)
    if parsed.scheme != "https" and not (parsed.scheme == "http" and _is_loopback(parsed.hostname or "")):
        raise SettingsError("settings.insecure_jwks_url", url=url)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
