"""Who gets in: keys, grants, headers, refusals."""

import hmac
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RayloopError, RequestError
from deployments.auth import credentials
from deployments.auth.credentials import ID_BYTES, SECRET_BYTES, ApiKey, Grant, Scope

NOW = 1_700_000_000.0
ID, TEXT = credentials.format_key(bytes(range(ID_BYTES)), bytes(range(SECRET_BYTES)))


def a_key(**change: object) -> ApiKey:
    values = {
        "id": ID,
        "name": "shop",
        "digest": credentials.hash_key(TEXT),
        "models": ("trips",),
        "scopes": ("infer",),
        "created_at": NOW - 1,
    }
    return ApiKey.model_validate(values | change)


def recognised(text: str, now: float = NOW, **change: object) -> Grant:
    return credentials.authenticate(text, {ID: a_key(**change)}, now)


def refused(text: str, now: float = NOW, **change: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        recognised(text, now, **change)
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"] == 'Bearer realm="rayloop", error="invalid_token"'
    return caught.value


def test_a_key_is_recognised_and_grants_what_it_names() -> None:
    assert recognised(TEXT) == Grant(f"key:{ID}", frozenset({"trips"}), frozenset({"infer"}), "")
    assert recognised(TEXT, rate="3/minute").rate == "3/minute"


def test_a_key_s_text_is_long_and_its_own_and_no_part_of_it_is_stored() -> None:
    texts = {
        credentials.format_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))[1] for _ in range(100)
    }
    assert len(texts) == 100
    assert {len(text) for text in texts} == {len(TEXT)}
    assert TEXT.rpartition(f"{ID}_")[2].encode() not in a_key().digest
    with pytest.raises(ValueError, match="random bytes"):
        credentials.format_key(b"", b"too short")


@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_key_with_one_other_character_is_refused(at: int, other: str) -> None:
    tampered = TEXT[:at] + other + TEXT[at + 1 :]
    if tampered == TEXT:
        assert recognised(tampered)
    else:
        assert "not known" in refused(tampered).what


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    refused(text)
    refused(credentials.KEY_PREFIX + text)
    refused(f"{credentials.KEY_PREFIX}{ID}_{text}")


def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(credentials.hmac, "compare_digest", watched)
    recognised(TEXT)
    refused(TEXT + "x")
    assert compared == [
        (credentials.hash_key(TEXT),) * 2,
        (credentials.hash_key(TEXT + "x"), credentials.hash_key(TEXT)),
    ]


def test_expiry_and_revocation_hold_from_their_moment_on() -> None:
    assert recognised(TEXT, NOW - 1e-3, expires_at=NOW, revoked_at=NOW)
    assert "expired" in refused(TEXT, NOW, expires_at=NOW).what
    assert "revoked" in refused(TEXT, NOW, revoked_at=NOW).what


def test_whoever_lacks_the_secret_does_not_learn_that_a_key_was_revoked() -> None:
    assert refused(TEXT + "x", revoked_at=NOW).what == refused(TEXT + "x").what


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
def test_grants_are_by_model_and_scope(
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


def test_a_key_for_nothing_cannot_be_made() -> None:
    for change in ({"models": ()}, {"scopes": ()}, {"models": ("",)}):
        with pytest.raises(RayloopError, match="one model and one scope"):
            a_key(**change)


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
def test_where_a_credential_is_looked_for(headers: list, credential: str) -> None:
    assert credentials.extract_credential(headers) == credential


def test_without_a_credential_the_caller_learns_how_to_bring_one() -> None:
    error = credentials.missing_credential()
    assert (error.status, error.headers) == (401, {"www-authenticate": 'Bearer realm="rayloop"'})
    assert "Authorization: Bearer" in str(error)
