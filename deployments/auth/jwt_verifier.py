"""JSON Web Tokens of an issuer whose public keys are published as a JWKS: what they grant.

Only RS256 and ES256 count: a token cannot choose `none`, nor an HMAC for which anyone knows the key. Headers that
point to keys elsewhere (`jku`, `x5u`, `jwk`) are not looked at.
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
_FETCH_WITHIN_S = 5.0
_MAX_JWKS_BYTES = 1 << 20
_OPTIONS: dict[str, Any] = {"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True}

PublicKeys = Mapping[str, PyJWK]


class Issuer(Frozen):
    """Whose tokens count, for whom they must be made out, and which claims say what they allow."""

    name: str
    audience: str
    algorithms: tuple[str, ...] = ALGORITHMS
    models_claim: str = "models"
    scopes_claim: str = "scope"
    leeway_s: float = 30.0


class JwtVerifier:
    """Checks tokens. A token that was found good is remembered until it expires or the keys are read anew."""

    def __init__(self, issuer: Issuer, keys: Callable[[], PublicKeys | None], unknown: Callable[[], None]) -> None:
        """``keys`` are the newest known, by id; ``unknown`` is told of a token that was signed by none of them."""
        self._issuer, self._keys, self._unknown = issuer, keys, unknown
        self._remembered: dict[str, tuple[Grant, float]] = {}
        self._remembered_of: PublicKeys | None = None

    def authenticate(self, token: str, now: float) -> Grant:
        """What a token grants. ``now`` is in seconds since the epoch. Raises RequestError: 401, or 503 without keys."""
        keys = self._keys()
        if keys is not self._remembered_of:
            self._remembered, self._remembered_of = {}, keys
        known = self._remembered.get(token)
        if known is not None and now < known[1]:
            return known[0]
        if keys is None:
            raise credentials_unavailable("the token issuer's keys")
        return self._remember(token, _claims(token, self._key(token, keys), self._issuer))

    def _key(self, token: str, keys: PublicKeys) -> PyJWK:
        try:
            id = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError as error:
            raise invalid_credential("this is neither an API key nor a token (JWT)") from error
        key = keys.get(id) if isinstance(id, str) else None
        if key is None:
            self._unknown()
            raise invalid_credential("the token is signed by a key that its issuer has not published")
        return key

    def _remember(self, token: str, claims: Mapping[str, Any]) -> Grant:
        if len(self._remembered) >= MAX_CACHED_TOKENS:
            del self._remembered[next(iter(self._remembered))]
        models = frozenset(_names(claims.get(self._issuer.models_claim)))
        scopes = frozenset(_names(claims.get(self._issuer.scopes_claim))) & frozenset(SCOPES)
        grant = Grant(f"jwt:{claims['sub']}", models, scopes)
        self._remembered[token] = grant, float(claims["exp"]) + self._issuer.leeway_s
        return grant


def parse_jwks(body: bytes, algorithms: tuple[str, ...]) -> dict[str, PyJWK]:
    """The usable signing keys of a JWKS by id. Raises DataError when there is none."""
    try:
        found = PyJWKSet.from_json(body.decode())
    except (jwt.PyJWTError, ValueError, AttributeError) as error:
        raise DataError(f"the JWKS cannot be used: {error}", "check RAYLOOP_JWKS_URL") from error
    keys = {
        key.key_id: key
        for key in found
        if key.key_id and key.algorithm_name in algorithms and key.public_key_use in (None, "sig")
    }
    if not keys:
        raise DataError(f"the JWKS has no key with an id for {' or '.join(algorithms)}", "check RAYLOOP_JWKS_URL")
    return keys


def fetch_jwks(url: str) -> bytes:
    """The JWKS document. Raises DataError when it cannot be had."""
    try:
        with httpx.stream("GET", url, timeout=_FETCH_WITHIN_S) as answer:
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > _MAX_JWKS_BYTES:
                    raise DataError(f"the JWKS at {url} is longer than {_MAX_JWKS_BYTES:,} bytes")
            if answer.status_code != httpx.codes.OK:
                raise DataError(f"{url} answers with status {answer.status_code}", "check RAYLOOP_JWKS_URL")
            return bytes(body)
    except httpx.HTTPError as error:
        raise DataError(f"no JWKS from {url}: {error or type(error).__name__}", "check RAYLOOP_JWKS_URL") from error


def credentials_unavailable(what: str) -> RequestError:
    """The refusal of a credential that cannot be checked, for which its bearer is not to blame."""
    return RequestError(
        f"{what} could not be read yet", status=503, todo="try again in a moment", headers={"retry-after": "2"}
    )


def _claims(token: str, key: PyJWK, issuer: Issuer) -> dict[str, Any]:
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
        raise invalid_credential(f"the token does not count: {reason}") from error


_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.InvalidAudienceError: "it is made out for somebody else (aud)",
    jwt.InvalidIssuerError: "it comes from another issuer (iss)",
    jwt.InvalidAlgorithmError: "its algorithm is not one of those that are taken (alg)",
}


def _names(claim: object) -> list[str]:
    """Names in a claim: a list, or text with spaces between them (RFC 8693, section 4.2)."""
    if isinstance(claim, str):
        return claim.split()
    return [name for name in claim if isinstance(name, str)] if isinstance(claim, list) else []
