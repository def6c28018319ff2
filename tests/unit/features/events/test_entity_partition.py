"""The join by partitions equals the join of all events and rows."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.definitions import Aggregate, Entity, FeatureView, Latest
from features.events import entity_partition
from features.events.event_history import EVENT_TIME, KNOWN_AT, build_history
from features.offline import point_in_time
from tests.factories.effort import examples
from tests.factories.features.join_cases import Case, cases
from tests.factories.features.oracle import bits
from tests.factories.features.version_cases import VersionedCase, versioned_cases

FEW = 3
"""Events that make a comfortable part, here."""


@given(cases(2), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=examples(150))
def test_join_by_partitions_equals_join(case: Case, count: int, files: int) -> None:
    view, events, rows = case
    size = max(1, -(-events.height // files))
    with patch.object(entity_partition, "PARTITION_EVENTS", FEW):
        result = join_by_partitions(view, list(events.iter_slices(size)) or [events], rows, count)
    assert bits(result.to_dicts()) == bits(point_in_time.join(*case).to_dicts())


@given(versioned_cases(2), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=examples(150), suppress_health_check=list(HealthCheck))
def test_join_of_versions_by_partitions_equals_join(case: VersionedCase, count: int, files: int) -> None:
    view, versions, rows = case
    size = max(1, -(-versions.height // files))
    with patch.object(entity_partition, "PARTITION_EVENTS", FEW):
        result = join_by_partitions(view, list(versions.iter_slices(size)) or [versions], rows, count)
    assert bits(result.to_dicts()) == bits(point_in_time.join(*case).to_dicts())


def join_by_partitions(view: FeatureView, files: list[pl.DataFrame], rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """What features/offline/distributed_join.py does, without Ray."""
    keys = view.entity.keys
    dealt_files = [
        entity_partition.split_rows(known, entity_partition.assign_buckets(known, keys, count), count)
        for known in (build_history(view, file) for file in files)
    ]
    by_bucket = list(zip(*dealt_files, strict=True))
    samples = {
        b: np.concatenate([entity_partition.sample_known_times(p) for p in pieces])
        for b, pieces in enumerate(by_bucket)
    }
    plan = entity_partition.plan_partitions(keys, [sum(p.height for p in pieces) for pieces in by_bucket], samples)
    buckets = entity_partition.split_rows(rows, entity_partition.assign_buckets(rows, keys, count), count)
    answers = []
    for part in plan.partitions:
        prepared = point_in_time.build_index(
            view, entity_partition.select_events(view, part, iter(by_bucket[part.bucket]))
        )
        answers.append(
            point_in_time.look_up_features(view, prepared, entity_partition.select_rows(part, buckets[part.bucket]))
        )
    return entity_partition.concat(answers, entity_partition.assign_partitions(plan, rows))


def test_hot_key_is_partitioned_by_time(hot: pl.DataFrame) -> None:
    with patch.object(entity_partition, "PARTITION_EVENTS", 100):
        plan = entity_partition.plan_partitions(("a",), [hot.height], {0: entity_partition.sample_known_times(hot)})
    assert len(plan.partitions) == 10
    view = _view()
    heights = [entity_partition.select_events(view, part, iter([hot])).height for part in plan.partitions]
    assert max(heights) <= 100 + 60 + 5, "a part has its stretch, one look-back, and what is carried over"
    assert sum(heights) >= hot.height


@pytest.fixture
def hot() -> pl.DataFrame:
    """A thousand events of one key, one a minute."""
    at = np.arange(1000) * 60_000_000
    return pl.DataFrame(
        {"a": ["p"] * 1000, KNOWN_AT: at, EVENT_TIME: at, "value x": np.arange(1000.0), "latest x": 1.0}
    )


def _view() -> FeatureView:
    return FeatureView(
        name="view", entity=Entity(name="a", keys=("a",)), source="s", event_time="t",
        aggregates=(Aggregate(column="x", op="sum", window=timedelta(hours=1), name="sum"),),
        latest=(Latest(column="x", name="x"),),
    )  # fmt: skip


def test_few_events_stay_together_and_many_are_spread() -> None:
    assert entity_partition.bucket_count(1000, views=1, cpus=8) == 1
    assert entity_partition.bucket_count(entity_partition.PARTITION_EVENTS, views=1, cpus=8) == 8
    assert entity_partition.bucket_count(10 * entity_partition.PARTITION_EVENTS, views=20, cpus=2) == 10


def test_a_key_is_in_one_bucket_whatever_its_type() -> None:
    numbers = pl.DataFrame({"k": [1, 2, 30, 400]})
    texts = numbers.cast(pl.String)
    assert (
        entity_partition.assign_buckets(numbers, ["k"], 7) == entity_partition.assign_buckets(texts, ["k"], 7)
    ).all()
    assert len(set(entity_partition.assign_buckets(pl.DataFrame({"k": range(500)}), ["k"], 7))) == 7


def test_bucket_is_large_above_twice_a_comfortable_partition() -> None:
    assert not entity_partition.is_large(2 * entity_partition.PARTITION_EVENTS)
    assert entity_partition.is_large(2 * entity_partition.PARTITION_EVENTS + 1)
