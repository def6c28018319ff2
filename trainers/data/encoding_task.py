"""Frame rows to arrays, as a Ray Data task does it. Imports no torch: each worker process would wait for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError
from features.encoder import Encoder

PART = "part"
PARTS = ("train", "validation")


class Encode:
    """Rows to train and validate on, as columns "numbers", "codes" (each unless it has no column), "labels" and "part".

    "part" indexes PARTS; rows of another split are left out.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __call__(self, frame: pa.Table) -> dict[str, np.ndarray]:
        for column in ("split", "label"):
            if column not in frame.column_names:
                raise DataError(
                    f"the training frame has no column {column!r}", f"present are {', '.join(frame.column_names)}"
                )
        part = pc.index_in(frame["split"], value_set=pa.array(PARTS))
        frame, part = frame.filter(part.is_valid()), part.drop_null()
        arrays = self._encoder.encode(frame)
        # Arrow has no tensors of width 0.
        kept = {name: values for name, values in arrays.items() if values.shape[1]}
        return {**kept, "labels": label_array(frame["label"]), PART: np.asarray(part, np.int8)}


class Only:
    """Keeps the encoded rows of one part."""

    def __init__(self, name: str) -> None:
        self._part = PARTS.index(name)

    def __call__(self, encoded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        mine = encoded[PART] == self._part
        return {name: values[mine] for name, values in encoded.items() if name != PART}


def label_array(column: pa.ChunkedArray) -> np.ndarray:
    """Float32 [n]; of a column of lists [n, labels]."""
    if pa.types.is_fixed_size_list(column.type):
        flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
        return label_array(flat).reshape(-1, column.type.list_size)
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise DataError(
            f"column 'label' is {column.type}, not a number",
            "multiclass labels are positions in 'classes', multilabel ones lists of 0 and 1 of one length",
        )
    labels = np.asarray(column.cast(pa.float64()), np.float32)
    if not np.isfinite(labels).all():
        raise DataError("the training frame has rows without a finite label", "leave them out")
    return labels
