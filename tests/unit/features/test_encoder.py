"""Codes and numbers: missing, unknown and known stay apart, row by row as in bulk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError
from features.builders import category, number, tensor
from features.encoder import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE, Encoder

COLUMNS = (*category("colour"), *number("weight"), *tensor("image", 2, 2))
TRAINING = pa.table({
    "colour": ["red", "blue", "red", None],
    "weight": [1.0, 2.0, None, 4.0],
    "image": pa.array([[0.0] * 4] * 4, pa.list_(pa.float32())),
})  # fmt: skip
ENCODER = Encoder.fit(COLUMNS, TRAINING)


def frame(colours: list[str | None], weights: list[float | None]) -> pa.Table:
    images = [[float(i)] * 4 for i in range(len(colours))]
    kinds = [pa.string(), pa.float64(), pa.list_(pa.float32())]
    return pa.table(
        [pa.array(v, k) for v, k in zip((colours, weights, images), kinds, strict=True)], ["colour", "weight", "image"]
    )


def test_missing_unknown_and_known_have_codes_of_their_own() -> None:
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
def test_a_batch_is_its_rows(cells: list[tuple]) -> None:
    rows = frame([c for c, _ in cells], [w for _, w in cells])
    bulk = ENCODER.encode(rows)
    for i in range(rows.num_rows):
        one = ENCODER.encode(rows.slice(i, 1))
        assert np.array_equal(one["numbers"][0], bulk["numbers"][i], equal_nan=True)
        assert np.array_equal(one["codes"][0], bulk["codes"][i])


def test_rare_values_stay_unknown() -> None:
    assert Encoder.fit(COLUMNS, TRAINING, min_count=2).vocabularies == {"colour": ("red",)}


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(DataError, match="'weight' is missing"):
        ENCODER.encode(frame(["red"], [1.0]).drop(["weight"]))
    with pytest.raises(DataError, match="'weight' is string, not a number"):
        ENCODER.encode(frame(["red"], [1.0]).set_column(1, "weight", pa.array(["heavy"])))
    short = pa.array([[1.0]], pa.list_(pa.float32()))
    with pytest.raises(DataError, match="shape"):
        ENCODER.encode(frame(["red"], [1.0]).set_column(2, "image", short))


def test_dictionaries_of_several_chunks_encode_as_their_values_do() -> None:
    encoder = Encoder(columns=category("c"), vocabularies={"c": ("1", "2")})
    chunks = [pa.array([1, None, 3]).dictionary_encode(), pa.array([2, 1]).dictionary_encode()]
    gap = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int64()), pa.array([2, None]))
    alone = encoder.encode(pa.table({"c": pa.chunked_array([gap])}))["codes"][:, 0]
    assert alone.tolist() == [3, 0, 0]
    coded = pa.chunked_array(chunks)
    codes = encoder.encode(pa.table({"c": coded}))["codes"][:, 0]
    assert codes.tolist() == [2, 0, 1, 3, 2]
    assert codes.tolist() == encoder.encode(pa.table({"c": coded.cast(pa.int64())}))["codes"][:, 0].tolist()
