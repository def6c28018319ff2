"""Ray Data tasks that encode rows of a training frame. Imports no torch, which would delay each worker process."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError
from features.definitions import require_present
from features.encoder import Encoder
from features.split import TRAIN
from features.types import WEIGHT
from trainers.data.group_weights import GroupWeights
from trainers.worker_errors import attach_details

PART = "part"
PARTS = ("train", "validation")


class EncodeRows:
    """Encodes rows to columns "numbers", "codes" (each unless it is empty), "labels" and "part".

    "part" indexes PARTS; rows of other splits are dropped. With ``weighted`` there is a column "weights" too, 1 for a
    row without a weight; ``groups`` multiplies those of training rows.
    """

    def __init__(self, encoder: Encoder, *, weighted: bool = False, groups: GroupWeights | None = None) -> None:
        self._encoder, self._weighted, self._groups = encoder, weighted or groups is not None, groups

    @attach_details
    def __call__(self, frame: pa.Table) -> dict[str, np.ndarray]:
        require_present(("split", "label"), frame.column_names, "the training frame")
        part = pc.index_in(frame["split"], value_set=pa.array(PARTS))
        frame, part = frame.filter(part.is_valid()), part.drop_null()
        # Arrow has no tensors of width 0.
        inputs = {name: values for name, values in self._encoder.encode(frame).items() if values.shape[1]}
        weights = {"weights": weight_array(frame)} if self._weighted else {}
        if self._groups is not None:
            training = np.asarray(part) == PARTS.index(TRAIN)
            weights["weights"] *= np.where(training, self._groups.of(frame), 1.0).astype(np.float32)
        return {**inputs, "labels": label_array(frame["label"]), **weights, PART: np.asarray(part, np.int8)}


def select_part(encoded: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """Select the encoded rows of one part."""
    selected = encoded[PART] == PARTS.index(part)
    return {name: values[selected] for name, values in encoded.items() if name != PART}


def weight_array(frame: pa.Table) -> np.ndarray:
    """Weights of the rows of a frame, float32 [n]; 1 for each if it has no weights."""
    weights = frame[WEIGHT] if WEIGHT in frame.column_names else np.ones(frame.num_rows)
    return np.asarray(weights, np.float32)


def label_array(column: pa.ChunkedArray) -> np.ndarray:
    """Labels as an array.

    Args:
        column: Numbers, or lists of equal length for multi-label.

    Returns:
        float32 [n], or [n, labels] for lists.

    Raises:
        DataError: A label is not a finite number.
    """
    if pa.types.is_fixed_size_list(column.type):
        flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
        return label_array(flat).reshape(-1, column.type.list_size)
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise DataError("data.label_type", label="column 'label' of the training frame", type=str(column.type))
    labels = np.asarray(column.cast(pa.float64()), np.float32)
    if not np.isfinite(labels).all():
        raise DataError("data.label_not_finite")
    return labels
