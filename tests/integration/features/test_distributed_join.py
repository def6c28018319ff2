"""The join on a cluster equals the join in one process, bit for bit, however events are partitioned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import polars as pl
import pyarrow as pa
import pytest

from cluster.errors import DataError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot, Task
from features.builders import category, derive
from features.definitions import FeatureSet
from features.derived_columns import joined_features
from features.events import entity_partition
from features.offline import point_in_time
from features.offline.purge import Purged, assign_parts, count_block, count_parts, keep_rows, straddling_groups
from features.sources.source import Examples
from features.sources.stored_rows import stored_parts
from features.split import PARTS, HashSplit, TimeSplit
from features.types import AS_OF, INSTANT
from tests.factories.errors import raises
from tests.factories.features.skewed_events import VIEWS, events, rows

pytestmark = pytest.mark.cluster

FEATURES = FeatureSet(
    name="set",
    request=category("a", "b"),
    views=VIEWS,
    derived=(
        derive("hours_since", (pl.col(AS_OF) - pl.col("a_at")).dt.total_hours(fractional=True)),
        derive("per_hour", pl.col("b_sum") / pl.col("hours_since")),
    ),
)
EXAMPLES = Examples(source="events", id="n", label=pl.col("x"), label_known_at="known", event_time="at")
TASK = Task(kind="regression", label="x")


def land_events(cluster: Settings, count: int, table: str) -> tuple[Tables, pl.DataFrame, dict[str, Snapshot]]:
    """Events with a number each, in a table."""
    tables, history = Tables(cluster), events(count).with_row_index("n").cast({"n": pl.String})
    return tables, history, {"events": tables.append(table, history.to_arrow().cast(_plain(history)))}


@pytest.mark.parametrize("comfortable", [100, entity_partition.PARTITION_EVENTS])
def test_point_in_time_join_on_cluster_equals_join_in_process(cluster: Settings, comfortable: int) -> None:
    import ray

    from features.offline.distributed_join import point_in_time_join

    history, request = events(3000), rows(500)
    tables = Tables(cluster)
    for part in history.iter_slices(1100):
        snapshot = tables.append(f"join{comfortable}.events", part.to_arrow().cast(_plain(part)))
    blocks = [ray.put(request.slice(start, 200).to_arrow()) for start in (0, 200, 400)]
    with patch.object(entity_partition, "PARTITION_EVENTS", comfortable):
        files = {"events": stored_parts(tables, snapshot)}
        result = pl.concat(
            [pl.DataFrame(ray.get(block)) for block in point_in_time_join(VIEWS, blocks, files, max_tasks=3)]
        )
    stored = pl.concat([pl.DataFrame(file.table(history.columns)) for file in files["events"]])
    assert result.select(request.columns).equals(request)
    for one in VIEWS:
        whole = point_in_time.join(one, stored, request)
        assert result.select(whole.columns).equals(whole, null_equal=True), one.name


def test_point_in_time_join_with_too_large_value_raises_when_read(cluster: Settings) -> None:
    import ray

    from features.offline.distributed_join import point_in_time_join

    tables, huge = Tables(cluster), events(10).with_columns(pl.lit(1e13).alias("x"))
    snapshot = tables.append("join.huge", huge.to_arrow().cast(_plain(huge)))
    (block,) = point_in_time_join(
        VIEWS[:1], [ray.put(rows(5).to_arrow())], {"events": stored_parts(tables, snapshot)}, max_tasks=2
    )
    with raises(DataError, "data.value_exceeds_resolution", column="x"):
        ray.get(block)


def test_point_in_time_join_of_source_without_rows_is_refused(cluster: Settings) -> None:
    from features.offline.distributed_join import point_in_time_join

    with raises(DataError, "data.source_empty", source="events"):
        point_in_time_join(VIEWS[:1], [], {"events": []}, max_tasks=2)


def test_build_frame_has_every_example_with_its_features(cluster: Settings) -> None:
    from features.offline.training_frame import build_frame

    tables, history, landed = land_events(cluster, 2000, "frame.events")
    snapshot = build_frame(FEATURES, EXAMPLES, TASK, HashSplit(), landed, tables, "frame.frame")
    assert snapshot == build_frame(FEATURES, EXAMPLES, TASK, HashSplit(), landed, tables, "frame.frame")
    frame = pl.DataFrame(tables.read(snapshot.table, snapshot.id)).sort(pl.col("id").cast(pl.Int64))
    assert frame.get_column("id").to_list() == history.get_column("n").to_list()
    request = history.select("a", "b", pl.col("at").alias(AS_OF))
    for one in VIEWS:
        whole = point_in_time.join(one, history, request)
        assert frame.select(whole.columns).equals(whole), one.name
    derived = ["hours_since", "per_hour"]
    assert joined_features(FEATURES, frame.drop(derived)).select(derived).equals(frame.select(derived))
    assert frame.get_column("per_hour").is_finite().sum() > history.height // 2


def test_build_frame_with_other_classes_or_event_time_is_another_frame(cluster: Settings) -> None:
    from features.offline.training_frame import build_frame

    tables, _, landed = land_events(cluster, 200, "frame.again")

    def labels(classes: tuple[str, str], dated: str) -> pl.DataFrame:
        label = pl.when(pl.col("x") > 0).then(pl.lit("more")).otherwise(pl.lit("less"))
        examples = Examples(source="events", id="n", label=label, label_known_at="known", event_time=dated)
        task = Task(kind="multiclass", label="x", classes=classes)
        snapshot = build_frame(FEATURES, examples, task, HashSplit(), landed, tables, "frame.classes")
        return pl.DataFrame(tables.read(snapshot.table, snapshot.id, ["id", "label", AS_OF])).sort("id")

    first, turned, later = (
        labels(("less", "more"), "at"),
        labels(("more", "less"), "at"),
        labels(("more", "less"), "known"),
    )
    assert first["label"].equals(1.0 - turned["label"])
    assert not turned[AS_OF].equals(later[AS_OF])


def test_build_frame_with_a_time_split_purges_late_labels_and_straddling_groups(cluster: Settings) -> None:
    from features.offline.example_rows import build_examples
    from features.offline.training_frame import build_frame, purged_rows

    tables, history, landed = land_events(cluster, 2000, "frame.purged")
    first, last = history.select(pl.col("at").min().alias("first"), pl.col("at").max().alias("last")).row(0)
    dates = [first + (last - first) * share for share in (0.0, 0.5, 0.75, 1.0)]
    names = ("start", "validate_from", "test_from", "end")
    for group in ((), ("a", "b")):
        split = TimeSplit(**dict(zip(names, dates, strict=True)), group=group)
        alone = build_examples(pl.DataFrame(history), FEATURES, EXAMPLES, TASK, None, split)
        counts = count_block(parts := assign_parts(alone, split))
        expected = keep_rows(parts, straddling_groups([counts]))
        snapshot = build_frame(FEATURES, EXAMPLES, TASK, split, landed, tables, "frame.by_time")
        frame = pl.DataFrame(tables.read(snapshot.table, snapshot.id, ["id", "split"]))
        assert frame.sort("id").equals(expected.select("id", "split").sort("id"))
        assert purged_rows(tables, snapshot) == Purged.between(counts.dated, counts.known, count_parts(expected))
        assert 0 < frame.height < parts.height


def test_build_frame_of_a_split_that_purges_a_part_is_refused_with_dates(cluster: Settings) -> None:
    from features.offline.training_frame import build_frame

    start, day = datetime(2024, 3, 1, tzinfo=UTC), timedelta(days=1)
    at = [start + i * timedelta(hours=1) for i in range(24 * 90)]
    rows = pl.DataFrame({"n": [str(i) for i in range(len(at))], "a": ["x"] * len(at), "x": [0.5] * len(at)})
    late = rows.with_columns(
        at=pl.Series(at, dtype=INSTANT), known=pl.Series([t + 10 * day for t in at], dtype=INSTANT)
    )
    tables = Tables(cluster)
    landed = {"events": tables.append("frame.late", late.to_arrow().cast(_plain(late)))}
    features = FeatureSet(name="set", request=category("a"))
    split = TimeSplit(start=start, validate_from=start + 60 * day, test_from=start + 65 * day, end=start + 90 * day)
    with raises(DataError, "data.split_purged", part="validation", test_from=split.test_from.isoformat()) as refused:
        build_frame(features, EXAMPLES, TASK, split, landed, tables, "frame.refused")
    named = datetime.fromisoformat(str(refused.value.fields["validate_from"]))
    working = split.model_copy(update={"validate_from": named})
    frame = build_frame(features, EXAMPLES, TASK, working, landed, tables, "frame.refused")
    assert set(tables.read(frame.table, frame.id, ["split"])["split"].to_pylist()) == set(PARTS)


def _plain(frame: pl.DataFrame) -> pa.Schema:
    """The types that landed tables have."""
    kinds = {pl.String: pa.string(), pl.Float64: pa.float64()}
    return pa.schema([(n, kinds.get(t, pa.timestamp("us", tz="UTC"))) for n, t in frame.schema.items()])
