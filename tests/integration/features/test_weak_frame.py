"""The weak frame on a cluster: training rows without a label, with features as of their time and a weak label."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pyarrow as pa
import pytest

from cluster.errors import DataError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot, Task
from features.builders import category
from features.definitions import FeatureSet
from features.labeling.labeling_functions import WeakLabels, labeling_function
from features.offline import point_in_time
from features.sources.source import Examples
from features.split import HashSplit
from features.types import AS_OF, ID, LABEL, WEIGHT
from tests.factories.errors import raises
from tests.factories.features.skewed_events import VIEWS, events

pytestmark = pytest.mark.cluster

TASK = Task(kind="binary", label="high")
FEATURES = FeatureSet(name="set", request=category("a", "b"), views=VIEWS[:1])
WEAK = WeakLabels(
    functions=(
        labeling_function("many", pl.when(pl.col("a_count") > 5).then(1)),
        labeling_function("sum", pl.when(pl.col("a_sum").abs() > 0.5).then((pl.col("a_sum") > 0).cast(pl.Int8))),
        labeling_function("x", pl.when(pl.col("b") == "x").then(0)),
    ),
    weight=0.5,
)
LABELED = pl.col("n").cast(pl.Int64) % 4 == 0
EXAMPLES = Examples(
    source="events", id="n", label=pl.when(LABELED).then(pl.col("x") > 0), label_known_at="known", event_time="at",
    weak=WEAK,
)  # fmt: skip


def _land(cluster: Settings, table: str) -> tuple[Tables, pl.DataFrame, dict[str, Snapshot]]:
    tables, history = Tables(cluster), events(2000).with_row_index("n").cast({"n": pl.String})
    rows, text = history.to_arrow(), {name for name, kind in history.schema.items() if kind == pl.String}
    schema = pa.schema([(field.name, pa.string() if field.name in text else field.type) for field in rows.schema])
    return tables, history, {"events": tables.append(table, rows.cast(schema))}


def test_weak_frame_has_the_unlabeled_training_rows_with_their_features(cluster: Settings) -> None:
    from features.offline.training_frame import build_frame
    from features.offline.weak_frame import build_weak_frame, weak_estimate

    tables, history, landed = _land(cluster, "weak.events")
    what = FEATURES, EXAMPLES, TASK, HashSplit(), landed, tables
    snapshot = build_frame(*what, "weak.frame")
    weak = build_weak_frame(*what, snapshot)
    assert build_weak_frame(*what, snapshot) == weak
    assert weak.table == "weak.frame_weak"
    frame, rows = (pl.DataFrame(tables.read(each.table, each.id)) for each in (snapshot, weak))
    unlabeled = history.filter(~LABELED).select(pl.col("n").alias(ID)).filter(HashSplit().part_expr() == "train")
    assert set(rows[ID]) <= set(unlabeled[ID])
    assert frame[ID].is_in(rows[ID].implode()).sum() == 0
    estimate = weak_estimate(tables, weak)
    assert (estimate.rows, estimate.unlabeled) == (rows[ID].n_unique(), unlabeled.height)
    assert estimate.true_rows == frame.filter(split="train").height
    weights = rows.group_by(ID).agg(pl.col(WEIGHT).sum())[WEIGHT]
    assert weights.min() >= 0.5 * 0.98
    assert weights.max() == pytest.approx(0.5)
    assert set(rows[LABEL]) == {0.0, 1.0}
    once = rows.unique(ID, keep="first", maintain_order=True)
    request = (
        once.select(ID)
        .join(history, left_on=ID, right_on="n", maintain_order="left")
        .select("a", "b", pl.col("at").alias(AS_OF))
    )
    joined = point_in_time.join(VIEWS[0], history, request)
    assert once.select(joined.columns).equals(joined)


def test_weak_frame_whose_accuracies_do_not_follow_is_refused_and_nothing_is_written(cluster: Settings) -> None:
    from features.offline.training_frame import build_frame
    from features.offline.weak_frame import build_weak_frame

    tables, _, landed = _land(cluster, "weak.again")
    # It votes on rows without a label alone, and no other function does.
    lonely = labeling_function("lonely", pl.when(pl.col("a") == "7").then(1))
    examples = replace(
        EXAMPLES,
        label=pl.when(LABELED & (pl.col("a") != "7")).then(pl.col("x") > 0),
        weak=WeakLabels(functions=(lonely,)),
    )
    what = FEATURES, examples, TASK, HashSplit(), landed, tables
    snapshot = build_frame(*what, "weak.frame_again")
    with raises(DataError, "data.weak_labels_unidentified", functions=["lonely"]):
        build_weak_frame(*what, snapshot)
    assert not tables.exists("weak.frame_again_weak")
