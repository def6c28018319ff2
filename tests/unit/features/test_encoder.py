"""Encoded categories and numbers, row by row and in bulk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError
from features.builders import category, number, tensor
from features.encoder import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE, Encoder
from tests.factories.errors import raises

COLUMNS = (*category("color"), *number("weight"), *tensor("image", 2, 2))
TRAINING = pa.table({
    "color": ["red", "blue", "red", None],
    "weight": [1.0, 2.0, None, 4.0],
    "image": pa.array([[0.0] * 4] * 4, pa.list_(pa.float32())),
})  # fmt: skip
ENCODER = Encoder.fit(COLUMNS, TRAINING)


def frame(colors: list[str | None], weights: list[float | None]) -> pa.Table:
    images = [[float(i)] * 4 for i in range(len(colors))]
    kinds = [pa.string(), pa.float64(), pa.list_(pa.float32())]
    return pa.table(
        [pa.array(v, k) for v, k in zip((colors, weights, images), kinds, strict=True)], ["color", "weight", "image"]
    )


def test_encode_separates_missing_unknown_and_known_categories() -> None:
    arrays = ENCODER.encode(frame([None, "green", "blue", "red"], [None, 1.5, float("nan"), -1.0]))
    assert arrays["codes"][:, 0].tolist() == [MISSING_CODE, UNKNOWN_CODE, FIRST_CODE, FIRST_CODE + 1]
    assert np.isnan(arrays["numbers"][[0, 2], 0]).all()
    assert arrays["numbers"][1].tolist() == [1.5, 1, 1, 1, 1]
    assert ENCODER.cardinalities == (2 + FIRST_CODE,)


@given(
    st.lists(
        st.tuples(st.sampled_from(["red", "blue", "green", None]), st.one_of(st.none(), st.floats(width=32))),
        max_size=9,
    )
)
def test_encode_of_batch_equals_encode_of_its_rows(cells: list[tuple]) -> None:
    rows = frame([c for c, _ in cells], [w for _, w in cells])
    bulk = ENCODER.encode(rows)
    for i in range(rows.num_rows):
        one = ENCODER.encode(rows.slice(i, 1))
        assert np.array_equal(one["numbers"][0], bulk["numbers"][i], equal_nan=True)
        assert np.array_equal(one["codes"][0], bulk["codes"][i])


def test_fit_leaves_out_rare_values() -> None:
    assert Encoder.fit(COLUMNS, TRAINING, min_count=2).vocabularies == {"color": ("red",)}


def test_encode_of_missing_or_mistyped_column_is_refused() -> None:
    with raises(DataError, "data.missing_columns", columns=["weight"]):
        ENCODER.encode(frame(["red"], [1.0]).drop(["weight"]))
    with raises(DataError, "data.not_a_number", column="weight", type="string"):
        ENCODER.encode(frame(["red"], [1.0]).set_column(1, "weight", pa.array(["heavy"])))
    short = pa.array([[1.0]], pa.list_(pa.float32()))
    with raises(DataError, "data.tensor_shape", column="image"):
        ENCODER.encode(frame(["red"], [1.0]).set_column(2, "image", short))


def test_encode_of_dictionaries_equals_encode_of_their_values() -> None:
    encoder = Encoder(columns=category("c"), vocabularies={"c": ("1", "2")})
    chunks = [pa.array([1, None, 3]).dictionary_encode(), pa.array([2, 1]).dictionary_encode()]
    gap = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int64()), pa.array([2, None]))
    alone = encoder.encode(pa.table({"c": pa.chunked_array([gap])}))["codes"][:, 0]
    assert alone.tolist() == [3, 0, 0]
    coded = pa.chunked_array(chunks)
    codes = encoder.encode(pa.table({"c": coded}))["codes"][:, 0]
    assert codes.tolist() == [2, 0, 1, 3, 2]
    assert codes.tolist() == encoder.encode(pa.table({"c": coded.cast(pa.int64())}))["codes"][:, 0].tolist()


def test_encode_rounds_integers_to_float32() -> None:
    encoder = Encoder(columns=number("n"), vocabularies={})
    numbers = encoder.encode(pa.table({"n": [2**24 + 1, None, -3]}))["numbers"][:, 0]
    assert numbers[[0, 2]].tolist() == [2.0**24, -3.0]
    assert np.isnan(numbers[1])


def test_encode_of_tensor_with_missing_element_gives_nan() -> None:
    encoder = Encoder(columns=tensor("image", 2), vocabularies={})
    images = pa.array([[1.0, None], [3.0, 4.0]], pa.list_(pa.float32()))
    numbers = encoder.encode(pa.table({"image": images}))["numbers"]
    assert np.array_equal(numbers, [[1.0, np.nan], [3.0, 4.0]], equal_nan=True)
