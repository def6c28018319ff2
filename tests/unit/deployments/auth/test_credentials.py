"""Credentials: keys, grants, headers, refusals."""

import hmac
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RayloopError, RequestError
from deployments.auth import credentials
from deployments.auth.credentials import ID_BYTES, SECRET_BYTES, ApiKey, Grant, Scope
from tests.factories.errors import raises

NOW = 1_700_000_000.0
ID, TEXT = credentials.format_key(bytes(range(ID_BYTES)), bytes(range(SECRET_BYTES)))


def build_key(**change: object) -> ApiKey:
    values = {
        "id": ID,
        "name": "shop",
        "digest": credentials.hash_key(TEXT),
        "models": ("trips",),
        "scopes": ("infer",),
        "created_at": NOW - 1,
    }
    return ApiKey.model_validate(values | change)


def authenticated(text: str, now: float = NOW, **change: object) -> Grant:
    return credentials.authenticate(text, {ID: build_key(**change)}, now)


def refusal(text: str, now: float = NOW, **change: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        authenticated(text, now, **change)
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"] == 'Bearer realm="rayloop", error="invalid_token"'
    return caught.value


def test_authenticate_with_a_valid_key_grants_its_models_and_scopes() -> None:
    assert authenticated(TEXT) == Grant(f"key:{ID}", frozenset({"trips"}), frozenset({"infer"}), "")
    assert authenticated(TEXT, rate="3/minute").rate == "3/minute"


def test_format_key_gives_unique_texts_that_are_not_stored() -> None:
    texts = {
        credentials.format_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))[1] for _ in range(100)
    }
    assert len(texts) == 100
    assert {len(text) for text in texts} == {len(TEXT)}
    assert TEXT.rpartition(f"{ID}_")[2].encode() not in build_key().digest
    with pytest.raises(ValueError, match="random bytes"):
        credentials.format_key(b"", b"too short")


@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_authenticate_with_one_character_changed_is_refused(at: int, other: str) -> None:
    tampered = TEXT[:at] + other + TEXT[at + 1 :]
    if tampered == TEXT:
        assert authenticated(tampered)
    else:
        assert refusal(tampered).code == "request.api_key_unknown"


@given(st.text())
def test_authenticate_with_any_text_is_refused(text: str) -> None:
    refusal(text)
    refusal(credentials.KEY_PREFIX + text)
    refusal(f"{credentials.KEY_PREFIX}{ID}_{text}")


def test_authenticate_compares_digests_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(credentials.hmac, "compare_digest", watched)
    authenticated(TEXT)
    refusal(TEXT + "x")
    assert compared == [
        (credentials.hash_key(TEXT),) * 2,
        (credentials.hash_key(TEXT + "x"), credentials.hash_key(TEXT)),
    ]


def test_authenticate_from_the_moment_of_expiry_or_revocation_is_refused() -> None:
    assert authenticated(TEXT, NOW - 1e-3, expires_at=NOW, revoked_at=NOW)
    assert refusal(TEXT, NOW, expires_at=NOW).code == "request.api_key_expired"
    assert refusal(TEXT, NOW, revoked_at=NOW).code == "request.api_key_revoked"


def test_authenticate_without_the_secret_hides_a_revocation() -> None:
    assert refusal(TEXT + "x", revoked_at=NOW).what == refusal(TEXT + "x").what


@pytest.mark.parametrize(
    ("models", "scopes", "model", "scope", "status"),
    [
        ({"trips"}, {"infer"}, "trips", "infer", None),
        ({"*"}, {"infer", "feedback"}, "trips", "feedback", None),
        ({"trips", "flights"}, {"read"}, "flights", "read", None),
        ({"trips"}, {"infer"}, "flights", "infer", 403),
        ({"trips"}, {"infer"}, "trip", "infer", 403),
        ({"trips"}, {"infer"}, "trips", "feedback", 403),
        (set(), {"infer"}, "trips", "infer", 403),
        ({"*"}, set(), "trips", "infer", 403),
    ],
)
def test_authorize_checks_model_and_scope(
    models: set[str], scopes: set[str], model: str, scope: Scope, status: int | None
) -> None:
    grant = Grant("key:a", frozenset(models), frozenset(scopes))
    if status is None:
        credentials.authorize(grant, model, scope)
        return
    with pytest.raises(RequestError) as caught:
        credentials.authorize(grant, model, scope)
    assert caught.value.status == status
    assert 'error="insufficient_scope"' in caught.value.headers["www-authenticate"]


def test_api_key_without_models_or_scopes_is_refused() -> None:
    for change in ({"models": ()}, {"scopes": ()}, {"models": ("",)}):
        with raises(RayloopError, "rayloop.api_key_without_grant"):
            build_key(**change)


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"bearer  abc ")], "abc"),
        ([(b"x-api-key", b"abc")], "abc"),
        ([(b"x-api-key", b"one"), (b"authorization", b"Bearer two")], "two"),
        ([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"abc")], "abc"),
        ([("authorization", "Bearer abc")], "abc"),
        ([("x-api-key", "abc")], "abc"),
        ([(b"authorization", b"abc")], ""),
        ([(b"authorization", b"Bearer \xff")], "ÿ"),
        ([(b"cookie", b"authorization=Bearer abc")], ""),
        ([], ""),
    ],
)
def test_extract_credential_reads_both_headers(headers: list, credential: str) -> None:
    assert credentials.extract_credential(headers) == credential


def test_missing_credential_says_how_to_send_one() -> None:
    error = credentials.missing_credential()
    assert (error.status, error.headers) == (401, {"www-authenticate": 'Bearer realm="rayloop"'})
    assert error.code == "request.credential_missing"
