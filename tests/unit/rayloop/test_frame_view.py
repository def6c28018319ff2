"""The rows that a version trains on: those of the training frame, and those with a weak label."""

from __future__ import annotations

import pyarrow as pa

from cluster.values import Snapshot
from features.types import WEIGHT
from tests.factories.rayloop.projects import InMemoryFrame


def test_training_rows_with_weak_labels_have_weights_and_other_parts_do_not() -> None:
    frame = InMemoryFrame()
    train, test = frame.rows_of("train"), frame.rows_of("test")
    assert frame.training_rows().equals(train)
    frame.weak_rows = train.slice(0, 3).append_column(WEIGHT, pa.array([0.2, 0.8, 0.5]))
    rows = frame.training_rows()
    assert rows[WEIGHT].to_pylist() == [1.0] * train.num_rows + [0.2, 0.8, 0.5]
    assert rows.drop_columns(WEIGHT).equals(pa.concat_tables([train, train.slice(0, 3)]))
    assert frame.rows_of("train").equals(train)
    assert frame.rows_of("test").equals(test)


def test_fingerprints_name_the_weak_frame_where_there_is_one() -> None:
    frame = InMemoryFrame()
    assert frame.weights_key == {}
    frame.weak_snapshot = Snapshot(table="late.frame_weak", id=7, rows=3)
    assert frame.weights_key == {"weak": "late.frame_weak@7"}
    frame.reweighed_by = "sex, age, 200 rows"
    assert frame.weights_key == {"weak": "late.frame_weak@7", "reweighed_by": "sex, age, 200 rows"}
