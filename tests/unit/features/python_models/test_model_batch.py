"""A Python model gets the same rows whether they come from a request's frame or from encoded reference rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.definitions import Column
from features.encoder import Encoder
from features.python_models.model_batch import (
    blank_batch,
    decoded_batch,
    frame_batch,
    from_ipc_batch,
    raw_encoder,
    to_ipc_batch,
)

COLUMNS = (
    Column(name="color", kind="category"),
    Column(name="size", kind="number"),
    Column(name="pixels", kind="tensor", shape=(2, 3)),
    Column(name="at", kind="timestamp"),
    Column(name="price", kind="number"),
)
FRAME = pa.table(
    {
        "price": pa.array([0.1, None, 3.0]),
        "color": pa.array(["?", None, "blue"]),
        "size": pa.array([1.0, 2.0, np.nan]),
        "pixels": pa.array([list(range(i, i + 6)) for i in range(3)], pa.list_(pa.float32())),
        "at": pa.array([0, 1, 2], pa.timestamp("us", "UTC")),
    }
)


def test_frame_and_encoded_rows_give_equal_batches() -> None:
    encoder = Encoder.fit(COLUMNS, FRAME)
    batch = frame_batch(raw_encoder(COLUMNS), FRAME)
    again = decoded_batch(encoder, encoder.encode(FRAME))
    assert batch.schema.names == ["color", "size", "pixels", "price"]
    assert batch.schema == again.schema
    assert batch.column("color").to_pylist() == again.column("color").to_pylist() == ["?", None, "blue"]
    for name in ("size", "price"):
        assert batch.schema.field(name).type == pa.float32()
        expected = FRAME[name].to_numpy().astype(np.float32)
        assert np.array_equal(batch.column(name).to_numpy(), expected, equal_nan=True)
        assert np.array_equal(again.column(name).to_numpy(), expected, equal_nan=True)
    images = batch.column("pixels").to_numpy_ndarray()
    assert images.shape == (3, 2, 3)
    assert images[2].tolist() == [[2, 3, 4], [5, 6, 7]]
    assert np.array_equal(images, again.column("pixels").to_numpy_ndarray())


def test_code_of_no_text_becomes_a_text_that_the_vocabulary_lacks() -> None:
    encoder = Encoder.fit(COLUMNS, FRAME)
    arrays = encoder.encode(FRAME)
    arrays["codes"][:] = 1
    assert decoded_batch(encoder, arrays).column("color").to_pylist() == ["??"] * 3


def test_batch_survives_its_way_over_a_socket() -> None:
    batch = frame_batch(raw_encoder(COLUMNS), FRAME.slice(0, 1))
    assert from_ipc_batch(to_ipc_batch(batch)).equals(batch)


def test_blank_rows_are_zeros_and_missing_texts() -> None:
    batch = blank_batch(raw_encoder(COLUMNS), 2)
    assert batch.column("price").to_pylist() == [0.0, 0.0]
    assert batch.column("color").to_pylist() == [None, None]
