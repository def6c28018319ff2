"""Tokens: which count, which do not, and how the issuer's keys come and go."""

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cluster.errors import DataError, RequestError
from deployments.auth.credentials import Grant
from deployments.auth.jwt_verifier import MAX_CACHED_TOKENS, Issuer, JwtVerifier, fetch_jwks, parse_jwks
from tests.factories.deployments.issuer import AUDIENCE, NAME, Publisher, SigningKey, claims, jwks

ISSUER = Issuer(name=NAME, audience=AUDIENCE)
EC, RSA = SigningKey("ec"), SigningKey("rsa", "RS256")
PUBLISHED = parse_jwks(jwks(EC, RSA), ISSUER.algorithms)


def checker(issuer: Issuer = ISSUER) -> JwtVerifier:
    return JwtVerifier(issuer, lambda: PUBLISHED, lambda: None)


def recognised(token: str, issuer: Issuer = ISSUER) -> Grant:
    return checker(issuer).authenticate(token, time.time())


def refused(token: str, issuer: Issuer = ISSUER) -> str:
    with pytest.raises(RequestError) as caught:
        recognised(token, issuer)
    assert caught.value.status == 401
    assert "\n" not in str(caught.value)
    return str(caught.value)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES256", "RS256"])
def test_a_token_grants_what_its_claims_say(key: SigningKey) -> None:
    assert recognised(key.token()) == Grant("jwt:anna", frozenset({"trips"}), frozenset({"infer"}))


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
def test_models_are_a_list_or_text(claim: object, names: set[str]) -> None:
    assert recognised(EC.token(models=claim)).models == names


def test_claims_have_the_names_that_the_settings_give() -> None:
    issuer = ISSUER.model_copy(update={"models_claim": "https://example/models", "scopes_claim": "permissions"})
    token = EC.token(**{"https://example/models": ["flights"], "permissions": ["feedback", "read", "root"]})
    assert recognised(token, issuer) == Grant("jwt:anna", frozenset({"flights"}), frozenset({"feedback", "read"}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exp": 1_000_000_000}, "it has expired"),
        ({"nbf": 10_000_000_000}, "it is not valid yet"),
        ({"aud": "somebody"}, "for somebody else (aud)"),
        ({"iss": "https://evil.example"}, "another issuer (iss)"),
        ({"exp": None}, '"exp"'),
        ({"aud": None}, '"aud"'),
        ({"iss": None}, '"iss"'),
        ({"sub": None}, '"sub"'),
        ({"exp": "soon"}, "exp"),
        ({"sub": 7}, "ubject"),
    ],
)
def test_wrong_claims_are_named(change: dict, reason: str) -> None:
    assert reason in refused(EC.token(**change))


def test_leeway_forgives_clocks_that_differ() -> None:
    just_expired = EC.token(exp=int(time.time()) - 5)
    assert recognised(just_expired)
    assert "expired" in refused(just_expired, ISSUER.model_copy(update={"leeway_s": 0.0}))


def test_a_token_that_was_tampered_with_is_refused() -> None:
    head, body, signature = EC.token().split(".")
    richer = part(claims(models="*"))
    assert "signature is wrong" in refused(f"{head}.{richer}.{signature}")
    assert "signature is wrong" in refused(f"{head}.{body}.{EC.token(sub='eve').split('.')[2]}")


@pytest.mark.parametrize("algorithm", ["none", "None", "", None])
def test_a_token_cannot_choose_no_signature(algorithm: str | None) -> None:
    head = {"typ": "JWT", "kid": "ec", "alg": algorithm}
    refused(f"{part(head)}.{part(claims())}.")


def test_a_public_key_is_no_secret_to_sign_with() -> None:
    """The confusion of RS256 with HS256: an HMAC whose key is the published one."""
    pem = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body = part({"alg": "HS256", "typ": "JWT", "kid": "rsa"}), part(claims())
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), pem)
    text = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    assert "algorithm is not one of those" in refused(f"{head}.{body}.{text}")


def test_a_token_cannot_bring_its_own_key_or_name_an_algorithm_that_its_key_is_not_for() -> None:
    stranger = SigningKey("ec")
    token = jwt.encode(claims(), stranger.private, "ES256", {"kid": "ec", "jwk": stranger.public, "jku": "http://x"})
    assert "signature is wrong" in refused(token)
    crossed = jwt.encode(claims(), EC.private, "ES256", {"kid": "rsa"})
    assert "algorithm is not one of those" in refused(crossed)
    only_rsa = ISSUER.model_copy(update={"algorithms": ("RS256",)})
    assert "algorithm is not one of those" in refused(EC.token(), only_rsa)


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "ey.ey.ey", "\x00.\x00.\x00", "é.é.é", "." * 5000])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert "neither an API key nor a token" in refused(token)


def test_of_a_key_that_is_not_published_the_keeper_of_keys_hears() -> None:
    told: list[None] = []
    tokens = JwtVerifier(ISSUER, lambda: PUBLISHED, lambda: told.append(None))
    for head in ({"kid": "other"}, None):
        with pytest.raises(RequestError, match="not published"):
            tokens.authenticate(jwt.encode(claims(), EC.private, "ES256", head), time.time())
    tokens.authenticate(EC.token(), time.time())
    assert len(told) == 2


def test_before_the_keys_were_read_nobody_gets_in_and_nobody_is_blamed() -> None:
    with pytest.raises(RequestError) as caught:
        JwtVerifier(ISSUER, lambda: None, lambda: None).authenticate(EC.token(), time.time())
    assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "2"})


def test_a_remembered_token_is_forgotten_when_it_expires_and_when_its_key_goes() -> None:
    published = [PUBLISHED]
    tokens = JwtVerifier(ISSUER, lambda: published[0], lambda: None)
    token, now = EC.token(), time.time()
    assert tokens.authenticate(token, now) is tokens.authenticate(token, now)
    # PyJWT judges by the real clock, by which the token is still good: what is checked is that it is asked again.
    assert tokens.authenticate(token, now + 3600) is not None
    assert len(tokens._remembered) == 1
    published[0] = parse_jwks(jwks(RSA), ISSUER.algorithms)
    with pytest.raises(RequestError, match="not published"):
        tokens.authenticate(token, now)


def test_no_more_tokens_are_remembered_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.auth.jwt_verifier.MAX_CACHED_TOKENS", 3)
    tokens = checker()
    for i in range(5):
        tokens.authenticate(EC.token(sub=str(i)), time.time())
    assert [grant.subject for grant, _ in tokens._remembered.values()] == ["jwt:2", "jwt:3", "jwt:4"]
    assert MAX_CACHED_TOKENS > 3


def test_a_jwks_gives_its_usable_signing_keys() -> None:
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
def test_a_jwks_without_keys_is_refused(body: bytes) -> None:
    with pytest.raises(DataError, match="RAYLOOP_JWKS_URL"):
        parse_jwks(body, ISSUER.algorithms)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_weak_rsa_key_signs_nothing() -> None:
    weak = SigningKey("weak", "RS256", bits=1024)
    tokens = JwtVerifier(ISSUER, lambda: parse_jwks(jwks(weak), ISSUER.algorithms), lambda: None)
    with pytest.raises(RequestError, match="1024 bits"):
        tokens.authenticate(weak.token(), time.time())


def test_a_jwks_is_fetched_and_what_is_wrong_with_it_told() -> None:
    with Publisher(EC) as publisher:
        assert fetch_jwks(publisher.url) == publisher.body
        publisher.status = 404
        with pytest.raises(DataError, match="status 404"):
            fetch_jwks(publisher.url)
        publisher.status, publisher.body = 200, b" " * (2 << 20)
        with pytest.raises(DataError, match="longer than"):
            fetch_jwks(publisher.url)
        gone = publisher.url
    with pytest.raises(DataError, match=f"no JWKS from {gone}"):
        fetch_jwks(gone)
