"""Rows with versions: the join is the naive one, bit for bit, which looks at the versions known by then row by row."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import HealthCheck, given, settings

from features.offline import entity_timeline, point_in_time
from tests.factories.effort import examples
from tests.factories.features.oracle import bits
from tests.factories.features.version_cases import VersionedCase, naive_join, versioned_cases


def check(case: VersionedCase) -> None:
    joined = point_in_time.join(*case)
    assert bits(joined.to_dicts()) == bits(naive_join(case).to_dicts())


@given(versioned_cases(2))
@settings(max_examples=examples(300), suppress_health_check=list(HealthCheck))
def test_join_of_versions_is_the_naive_join_bit_for_bit(case: VersionedCase) -> None:
    check(case)


@given(versioned_cases(2))
@settings(max_examples=examples(100), suppress_health_check=list(HealthCheck))
def test_join_of_versions_in_small_parts_is_the_naive_join(case: VersionedCase) -> None:
    with patch.object(point_in_time, "MAX_PAIRS", 1), patch.object(entity_timeline, "MAX_BITS", 30):
        check(case)
