"""Tokens: valid and invalid ones, and rotation of the issuer's keys."""

import base64
import json
import time
from typing import NoReturn

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cluster.errors import DataError, RequestError
from deployments.auth.credentials import Grant
from deployments.auth.jwt_verifier import MAX_CACHED_TOKENS, Issuer, JwtVerifier, fetch_jwks, parse_jwks
from tests.factories.deployments.issuer import AUDIENCE, NAME, Publisher, SigningKey, claims, jwks
from tests.factories.errors import raises

ISSUER = Issuer(name=NAME, audience=AUDIENCE)
EC, RSA = SigningKey("ec"), SigningKey("rsa", "RS256")
PUBLISHED = parse_jwks(jwks(EC, RSA), ISSUER.algorithms)


def checker(issuer: Issuer = ISSUER) -> JwtVerifier:
    return JwtVerifier(issuer, lambda: PUBLISHED, lambda: None)


def authenticated(token: str, issuer: Issuer = ISSUER) -> Grant:
    return checker(issuer).authenticate(token, time.time())


def refusal(token: str, issuer: Issuer = ISSUER) -> RequestError:
    with pytest.raises(RequestError) as caught:
        authenticated(token, issuer)
    assert caught.value.status == 401
    assert "\n" not in str(caught.value)
    return caught.value


def reason(token: str, issuer: Issuer = ISSUER) -> str:
    error = refusal(token, issuer)
    assert error.code == "request.token_invalid"
    return str(error.fields["reason"])


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES256", "RS256"])
def test_authenticate_with_a_valid_token_grants_its_claims(key: SigningKey) -> None:
    assert authenticated(key.token()) == Grant("jwt:anna", frozenset({"trips"}), frozenset({"infer"}))


@pytest.mark.parametrize(
    ("claim", "names"),
    [
        ("trips flights", {"trips", "flights"}),
        (["trips", 3], {"trips"}),
        ("*", {"*"}),
        (None, set()),
        (7, set()),
        ({}, set()),
    ],
)
def test_authenticate_reads_models_from_list_or_text(claim: object, names: set[str]) -> None:
    assert authenticated(EC.token(models=claim)).models == names


def test_authenticate_reads_the_configured_claims() -> None:
    issuer = ISSUER.model_copy(update={"models_claim": "https://example/models", "scopes_claim": "permissions"})
    token = EC.token(**{"https://example/models": ["flights"], "permissions": ["feedback", "read", "root"]})
    assert authenticated(token, issuer) == Grant("jwt:anna", frozenset({"flights"}), frozenset({"feedback", "read"}))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"exp": 1_000_000_000}, "expired"),
        ({"nbf": 10_000_000_000}, "not valid yet"),
        ({"aud": "somebody"}, "(aud)"),
        ({"iss": "https://evil.example"}, "(iss)"),
        ({"exp": None}, '"exp"'),
        ({"aud": None}, '"aud"'),
        ({"iss": None}, '"iss"'),
        ({"sub": None}, '"sub"'),
        ({"exp": "soon"}, "exp"),
        ({"sub": 7}, "ubject"),
    ],
)
def test_authenticate_with_a_wrong_claim_names_it(change: dict, part: str) -> None:
    assert part in reason(EC.token(**change))


def test_authenticate_within_leeway_accepts_expired_token() -> None:
    just_expired = EC.token(exp=int(time.time()) - 5)
    assert authenticated(just_expired)
    assert "expired" in reason(just_expired, ISSUER.model_copy(update={"leeway_s": 0.0}))


def test_authenticate_with_a_tampered_token_is_refused() -> None:
    head, body, signature = EC.token().split(".")
    richer = part(claims(models="*"))
    assert "signature" in reason(f"{head}.{richer}.{signature}")
    assert "signature" in reason(f"{head}.{body}.{EC.token(sub='eve').split('.')[2]}")


@pytest.mark.parametrize("algorithm", ["none", "None", "", None])
def test_authenticate_with_no_signature_algorithm_is_refused(algorithm: str | None) -> None:
    head = {"typ": "JWT", "kid": "ec", "alg": algorithm}
    refusal(f"{part(head)}.{part(claims())}.")


def test_authenticate_with_hmac_of_the_public_key_is_refused() -> None:
    """The confusion of RS256 with HS256: an HMAC whose key is the published one."""
    pem = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body = part({"alg": "HS256", "typ": "JWT", "kid": "rsa"}), part(claims())
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), pem)
    text = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    assert "(alg)" in reason(f"{head}.{body}.{text}")


def test_authenticate_with_own_key_or_wrong_algorithm_is_refused() -> None:
    stranger = SigningKey("ec")
    token = jwt.encode(claims(), stranger.private, "ES256", {"kid": "ec", "jwk": stranger.public, "jku": "http://x"})
    assert "signature" in reason(token)
    crossed = jwt.encode(claims(), EC.private, "ES256", {"kid": "rsa"})
    assert "(alg)" in reason(crossed)
    only_rsa = ISSUER.model_copy(update={"algorithms": ("RS256",)})
    assert "(alg)" in reason(EC.token(), only_rsa)


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "ey.ey.ey", "\x00.\x00.\x00", "é.é.é", "." * 5000])
def test_authenticate_with_no_token_is_refused(token: str) -> None:
    assert refusal(token).code == "request.token_malformed"


def test_authenticate_with_an_unknown_key_calls_back() -> None:
    calls: list[None] = []
    tokens = JwtVerifier(ISSUER, lambda: PUBLISHED, lambda: calls.append(None))
    for head in ({"kid": "other"}, None):
        with raises(RequestError, "request.token_key_unknown"):
            tokens.authenticate(jwt.encode(claims(), EC.private, "ES256", head), time.time())
    tokens.authenticate(EC.token(), time.time())
    assert len(calls) == 2


def test_authenticate_before_keys_are_known_gives_503() -> None:
    with pytest.raises(RequestError) as caught:
        JwtVerifier(ISSUER, lambda: None, lambda: None).authenticate(EC.token(), time.time())
    assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "2"})


def test_authenticate_verifies_a_cached_token_again_when_it_expires_or_keys_change() -> None:
    published = [PUBLISHED]
    tokens = JwtVerifier(ISSUER, lambda: published[0], lambda: None)
    token, now = EC.token(), time.time()
    first = tokens.authenticate(token, now)
    assert tokens.authenticate(token, now) is first
    # PyJWT uses the real clock, by which the token is still valid: this checks only that it verifies again.
    again = tokens.authenticate(token, now + 3600)
    assert again is not first
    assert tokens.authenticate(token, now) is again
    published[0] = parse_jwks(jwks(RSA), ISSUER.algorithms)
    with raises(RequestError, "request.token_key_unknown"):
        tokens.authenticate(token, now)


def test_cache_beyond_its_size_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.auth.jwt_verifier.MAX_CACHED_TOKENS", 3)
    tokens = checker()
    texts = [EC.token(sub=str(i)) for i in range(5)]
    grants = [tokens.authenticate(text, time.time()) for text in texts]
    for text, grant in zip(texts[2:], grants[2:], strict=True):
        assert tokens.authenticate(text, time.time()) is grant
    assert tokens.authenticate(texts[0], time.time()) is not grants[0]
    assert MAX_CACHED_TOKENS > 3


def test_parse_jwks_selects_usable_signing_keys() -> None:
    other = SigningKey("other")
    encryption = SigningKey("encryption")
    encryption.public["use"] = "enc"
    nameless = SigningKey("nameless")
    del nameless.public["kid"]
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "secret", "alg": "HS256"}
    body = json.loads(jwks(EC, RSA, other, encryption, nameless))
    body["keys"] += [secret, {"kty": "new", "kid": "future"}, 7]
    assert set(parse_jwks(json.dumps(body).encode(), ISSUER.algorithms)) == {"ec", "rsa", "other"}
    assert set(parse_jwks(jwks(EC, RSA), ("RS256",))) == {"rsa"}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": 1}', b"\xff", jwks(RSA)[:-9]])
def test_parse_jwks_without_keys_is_refused(body: bytes) -> None:
    with pytest.raises(DataError) as caught:
        parse_jwks(body, ISSUER.algorithms)
    assert caught.value.code in ("data.jwks_malformed", "data.jwks_without_keys")


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_authenticate_with_a_weak_rsa_key_is_refused() -> None:
    weak = SigningKey("weak", "RS256", bits=1024)
    tokens = JwtVerifier(ISSUER, lambda: parse_jwks(jwks(weak), ISSUER.algorithms), lambda: None)
    with raises(RequestError, "request.token_invalid") as caught:
        tokens.authenticate(weak.token(), time.time())
    assert "1024 bits" in str(caught.value.fields["reason"])


def test_fetch_jwks_reports_what_is_wrong() -> None:
    with Publisher(EC) as publisher:
        assert fetch_jwks(publisher.url) == publisher.body
        publisher.status = 404
        with raises(DataError, "data.jwks_unavailable", url=publisher.url, status=404):
            fetch_jwks(publisher.url)
        publisher.status, publisher.body = 200, b" " * (2 << 20)
        with raises(DataError, "data.jwks_too_large", url=publisher.url):
            fetch_jwks(publisher.url)
        gone = publisher.url
    with raises(DataError, "data.jwks_unavailable", url=gone):
        fetch_jwks(gone)


@pytest.mark.parametrize(
    ("error", "reason"), [(httpx.ConnectError("refused"), "refused"), (httpx.ReadTimeout(""), "ReadTimeout")]
)
def test_fetch_jwks_from_a_silent_issuer_says_why(
    monkeypatch: pytest.MonkeyPatch, error: httpx.HTTPError, reason: str
) -> None:
    def fail(*args: object, **options: object) -> NoReturn:
        raise error

    monkeypatch.setattr(httpx, "stream", fail)
    with raises(DataError, "data.jwks_unavailable", status=None, reason=reason):
        fetch_jwks("https://issuer.example/jwks.json")
