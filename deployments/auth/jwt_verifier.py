"""JSON Web Tokens of an issuer that publishes its public keys as a JWKS: verification, and what the tokens grant.

Only RS256 and ES256 are accepted: a token can choose neither `none` nor an HMAC whose key everyone knows. Headers that
point to keys elsewhere (`jku`, `x5u`, `jwk`) are ignored.

PyJWT parses and verifies. Its PyJWKClient is not used: it fetches inside the request that meets an unknown key, without
a size limit; here a thread fetches (CachedValue), and requests read what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import jwt
from jwt import PyJWK, PyJWKSet

from cluster.errors import DataError, RequestError
from cluster.values import Frozen
from deployments.auth.credentials import SCOPES, Grant, invalid_credential

ALGORITHMS = ("RS256", "ES256")
MAX_CACHED_TOKENS = 4096
_FETCH_TIMEOUT_S = 5.0
_MAX_JWKS_BYTES = 1 << 20
_OPTIONS: dict[str, Any] = {"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True}

PublicKeys = Mapping[str, PyJWK]


class Issuer(Frozen):
    """The issuer whose tokens are accepted, and how to read them."""

    name: str
    """Expected ``iss``."""
    audience: str
    """Expected ``aud``."""
    algorithms: tuple[str, ...] = ALGORITHMS
    models_claim: str = "models"
    """Claim that lists the models a token may call."""
    scopes_claim: str = "scope"
    """Claim that lists the scopes a token has."""
    leeway_s: float = 30.0
    """Tolerated clock difference, in seconds."""


class JwtVerifier:
    """Verifies tokens. A valid token is cached until it expires or the keys change.

    Args:
        issuer: Whose tokens are accepted.
        keys: Returns the newest known public keys by id, or None before the first are known.
        on_unknown_key: Called when a token is signed with an unknown key.
    """

    def __init__(
        self, issuer: Issuer, keys: Callable[[], PublicKeys | None], on_unknown_key: Callable[[], None]
    ) -> None:
        self._issuer, self._keys, self._on_unknown_key = issuer, keys, on_unknown_key
        self._cache: dict[str, tuple[Grant, float]] = {}
        self._cache_keys: PublicKeys | None = None

    def authenticate(self, token: str, now: float) -> Grant:
        """Verify a token and return what it grants.

        Args:
            token: Its text.
            now: Seconds since the epoch.

        Raises:
            RequestError: 401 when the token is invalid, 503 before the issuer's keys are known.
        """
        keys = self._keys()
        if keys is not self._cache_keys:
            self._cache, self._cache_keys = {}, keys
        hit = self._cache.get(token)
        if hit is not None and now < hit[1]:
            return hit[0]
        if keys is None:
            raise credentials_unavailable("the token issuer's keys")
        return self._store(token, _verify(token, self._find_key(token, keys), self._issuer))

    def _find_key(self, token: str, keys: PublicKeys) -> PyJWK:
        try:
            id = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise invalid_credential("request.token_malformed") from error
        key = keys.get(id) if isinstance(id, str) else None
        if key is None:
            self._on_unknown_key()
            raise invalid_credential("request.token_key_unknown")
        return key

    def _store(self, token: str, claims: Mapping[str, Any]) -> Grant:
        if len(self._cache) >= MAX_CACHED_TOKENS:
            del self._cache[next(iter(self._cache))]
        models = frozenset(_names(claims.get(self._issuer.models_claim)))
        scopes = frozenset(_names(claims.get(self._issuer.scopes_claim))) & frozenset(SCOPES)
        grant = Grant(f"jwt:{claims['sub']}", models, scopes)
        self._cache[token] = grant, float(claims["exp"]) + self._issuer.leeway_s
        return grant


def parse_jwks(body: bytes, algorithms: tuple[str, ...]) -> dict[str, PyJWK]:
    """Select the usable signing keys of a JWKS, by id.

    Raises:
        DataError: The document is malformed, or has no usable key.
    """
    try:
        jwks = PyJWKSet.from_json(body.decode())
    except (jwt.PyJWTError, ValueError, AttributeError) as error:
        raise DataError("data.jwks_malformed", reason=str(error)) from error
    keys = {
        key.key_id: key
        for key in jwks
        if key.key_id and key.algorithm_name in algorithms and key.public_key_use in (None, "sig")
    }
    if not keys:
        raise DataError("data.jwks_without_keys", algorithms=algorithms)
    return keys


def fetch_jwks(url: str) -> bytes:
    """Download a JWKS document of at most 1 MiB.

    Raises:
        DataError: The issuer does not answer, answers with an error, or with too many bytes.
    """
    try:
        with httpx.stream("GET", url, timeout=_FETCH_TIMEOUT_S) as response:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > _MAX_JWKS_BYTES:
                    raise DataError("data.jwks_too_large", url=url, limit=_MAX_JWKS_BYTES)
            if response.status_code != httpx.codes.OK:
                status = response.status_code
                raise DataError("data.jwks_unavailable", url=url, status=status, reason=f"status {status}")
            return bytes(body)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise DataError("data.jwks_unavailable", url=url, status=None, reason=reason) from error


def credentials_unavailable(keys: str) -> RequestError:
    """The 503 for a credential that cannot be checked, through no fault of its bearer."""
    return RequestError("request.credentials_unavailable", keys=keys, headers={"retry-after": "2"})


def _verify(token: str, key: PyJWK, issuer: Issuer) -> dict[str, Any]:
    """Claims of a valid token."""
    try:
        return jwt.decode(
            token,
            key,
            algorithms=list(issuer.algorithms),
            audience=issuer.audience,
            issuer=issuer.name,
            leeway=issuer.leeway_s,
            options=_OPTIONS,  # type: ignore[arg-type]
        )
    except jwt.PyJWTError as error:
        reason = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), str(error))
        raise invalid_credential("request.token_invalid", reason=reason) from error


_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not valid yet",
    jwt.InvalidSignatureError: "wrong signature",
    jwt.InvalidAudienceError: "wrong audience (aud)",
    jwt.InvalidIssuerError: "wrong issuer (iss)",
    jwt.InvalidAlgorithmError: "algorithm not accepted (alg)",
}


def _names(claim: object) -> list[str]:
    """Names in a claim: a list, or text with spaces between them (RFC 8693, section 4.2)."""
    if isinstance(claim, str):
        return claim.split()
    return [name for name in claim if isinstance(name, str)] if isinstance(claim, list) else []
