"""Labels as arrays, and the rows of each part."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DataError
from features.definitions import Column
from features.encoder import Encoder
from tests.factories.errors import raises
from trainers.data.encoding_task import EncodeRows, label_array, select_part


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.float64()])
def test_label_array_of_any_numbers_is_float32(kind: pa.DataType) -> None:
    labels = label_array(pa.chunked_array([[1, 2], [3]], kind))
    assert labels.dtype == np.float32
    assert labels.tolist() == [1.0, 2.0, 3.0]


def test_label_array_of_lists_has_a_column_per_label() -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array([0.0, 1.0, 1.0, 0.0]), 2)
    assert label_array(pa.chunked_array([lists])).tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("values", [["1"], [True]])
def test_label_array_of_other_types_raises(values: list[object]) -> None:
    with raises(DataError, "data.label_type"):
        label_array(pa.chunked_array([values]))


@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_label_array_with_a_label_that_is_not_finite_raises(value: float | None) -> None:
    with raises(DataError, "data.label_not_finite"):
        label_array(pa.chunked_array([pa.array([1.0, value], pa.float64())]))


def test_encode_rows_weighted_gives_one_to_rows_without_a_weight() -> None:
    encoder = Encoder(columns=(Column(name="x", kind="number"),), vocabularies={})
    columns = {"x": [1.0, 2.0, 3.0], "label": [0.0, 1.0, 0.0], "split": ["train", "test", "validation"]}
    plain, weak = pa.table(columns), pa.table(columns | {"weight": [0.25, 9.0, 0.5]})
    assert EncodeRows(encoder, weighted=True)(plain)["weights"].tolist() == [1.0, 1.0]
    assert EncodeRows(encoder, weighted=True)(weak)["weights"].tolist() == [0.25, 0.5]
    assert "weights" not in EncodeRows(encoder)(plain)


def test_select_part_keeps_its_rows_only() -> None:
    encoded = {"part": np.array([0, 1, 0], np.int8), "labels": np.array([1.0, 2.0, 3.0])}
    assert {name: values.tolist() for name, values in select_part(encoded, "train").items()} == {"labels": [1.0, 3.0]}
    assert select_part(encoded, "validation")["labels"].tolist() == [2.0]
