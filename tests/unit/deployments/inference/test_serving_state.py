"""Which version a tester pins, by path and by header."""

import pytest

from cluster.errors import RequestError
from tests.factories.deployments.serving_state import build_split, build_state
from tests.factories.errors import raises


@pytest.mark.parametrize(
    ("path", "header", "expected"),
    [
        (None, None, None),
        (None, "champion", "1"),
        ("1", None, "1"),
        ("3", None, "3"),
        ("3", "challenger", "3"),
        ("1", "champion", "1"),
    ],
)
def test_pinned_version_with_several_challengers_follows_the_path(
    path: str | None, header: str | None, expected: str | None
) -> None:
    assert build_state("2", "3").pinned_version(path, header) == expected


@pytest.mark.parametrize(
    ("path", "header", "status", "code", "fields"),
    [
        (None, "challenger", 400, "request.ambiguous_variant", {"versions": ["2", "3"]}),
        ("9", None, 404, "request.version_not_served", {"version": "9"}),
        ("3", "champion", 400, "request.variant_mismatch", {"version": "3", "variant": "challenger"}),
        (None, "other", 400, "request.unknown_variant", {}),
    ],
)
def test_pinned_version_that_is_ambiguous_or_unknown_is_refused(
    path: str | None, header: str | None, status: int, code: str, fields: dict
) -> None:
    with raises(RequestError, code, **fields) as caught:
        build_state("2", "3").pinned_version(path, header)
    assert caught.value.status == status


def test_pinned_version_of_the_challenger_is_the_only_one_or_else_the_champion() -> None:
    assert build_state("2").pinned_version(None, "challenger") == "2"
    assert build_state().pinned_version(None, "challenger") == "1"


def test_champion_share_is_what_challengers_leave() -> None:
    split = build_split("2", "3", share=0.2)
    assert split is not None
    assert split.champion_share == pytest.approx(0.6)
