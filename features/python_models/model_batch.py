"""Rows as a Python model gets them: one Arrow batch, with a column for each feature. Pure.

A number is float32, NaN where it is missing; a category is text, null where it is missing; a tensor is float32 of the
declared shape (``to_numpy_ndarray``). Numbers are those of every model of rayloop (features/encoder.py).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.definitions import Column
from features.encoder import MISSING_CODE, Arrays, Encoder, tensor_slices


def raw_encoder(columns: tuple[Column, ...]) -> Encoder:
    """Return an encoder that knows no category: for rows whose categories stay texts."""
    return Encoder(columns=columns, vocabularies={c.name: () for c in columns if c.kind == "category"})


def frame_batch(encoder: Encoder, frame: pa.Table) -> pa.RecordBatch:
    """Return the rows of a feature frame.

    Raises:
        DataError: A column is missing or has an unsuitable type.
    """
    texts = {name: frame.column(name).cast(pa.string()).combine_chunks() for name in encoder.categories}
    return _batch(encoder, encoder.encode(frame)["numbers"], texts)


def decoded_batch(encoder: Encoder, arrays: Arrays) -> pa.RecordBatch:
    """Return encoded rows; a code of no known text becomes a text that the vocabulary does not have."""
    texts = {}
    for position, name in enumerate(encoder.categories):
        known = encoder.vocabularies[name]
        unknown = "?"
        while unknown in known:
            unknown += "?"
        codes = arrays["codes"][:, position]
        values = pa.array([None, unknown, *known], pa.string())
        texts[name] = values.take(pa.array(codes, mask=codes == MISSING_CODE))
    return _batch(encoder, arrays["numbers"], texts)


def blank_batch(encoder: Encoder, rows: int) -> pa.RecordBatch:
    """Return rows of zeros and missing texts."""
    codes = np.full((rows, len(encoder.categories)), MISSING_CODE)
    return decoded_batch(encoder, {"numbers": np.zeros((rows, encoder.width), np.float32), "codes": codes})


def to_ipc_batch(batch: pa.RecordBatch) -> bytes:
    """Encode a batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_ipc_batch(data: bytes) -> pa.RecordBatch:
    """Decode the batch in an Arrow IPC stream."""
    return pa.ipc.open_stream(data).read_next_batch()


def _batch(encoder: Encoder, numbers: np.ndarray, texts: dict[str, pa.Array]) -> pa.RecordBatch:
    places = {column.name: place for column, place in tensor_slices(encoder.tensors, len(encoder.numbers))}
    columns: dict[str, pa.Array] = {}
    for column in encoder.columns:
        if column.kind == "number":
            columns[column.name] = pa.array(numbers[:, encoder.numbers.index(column.name)])
        elif column.kind == "category":
            columns[column.name] = texts[column.name]
        elif column.kind == "tensor":
            values = np.ascontiguousarray(numbers[:, places[column.name]]).reshape(len(numbers), *column.shape)
            columns[column.name] = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    return pa.RecordBatch.from_pydict(columns)
