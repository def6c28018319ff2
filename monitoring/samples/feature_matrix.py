"""Two frames as matrices that a classifier can compare. Pure.

Numbers stay; other values in a number column become NaN. A category becomes the rank of its value by frequency in the
reference, and values that the reference lacks come last: a tree can split rare and new ones off together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import Column


def build_matrices(
    reference: pa.Table, live: pa.Table, columns: Sequence[Column]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Build feature matrices of two frames.

    Args:
        reference: Reference rows.
        live: Live rows.
        columns: Columns to use; timestamps and tensors are left out.

    Returns:
        Float64 matrices [rows, names] of reference and live rows, and the names: numbers and categories that at least
        one frame has. A column that one frame lacks is missing in all its rows.
    """
    present = set(reference.column_names) | set(live.column_names)
    used = [c for c in columns if c.kind in ("number", "category") and c.name in present]
    pairs = [(_numbers if c.kind == "number" else _ranks)(_cells(reference, c), _cells(live, c)) for c in used]
    reference_matrix, live_matrix = (
        np.column_stack([np.empty((frame.num_rows, 0)), *(pair[side] for pair in pairs)])
        for side, frame in enumerate((reference, live))
    )
    return reference_matrix, live_matrix, tuple(c.name for c in used)


def _cells(frame: pa.Table, column: Column) -> pa.ChunkedArray:
    if column.name in frame.column_names:
        return frame.column(column.name)
    return pa.chunked_array([pa.nulls(frame.num_rows)])


def _numbers(*sides: pa.ChunkedArray) -> list[np.ndarray]:
    return [_number(cells) for cells in sides]


def _number(cells: pa.ChunkedArray) -> np.ndarray:
    kind = cells.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.asarray(cells.cast(pa.float64(), safe=False).to_numpy())
    return np.full(len(cells), np.nan)


def _ranks(*sides: pa.ChunkedArray) -> list[np.ndarray]:
    reference, live = (_text(cells) for cells in sides)
    counted = pc.value_counts(reference.drop_null())
    order = pc.sort_indices(counted, sort_keys=[("counts", "descending"), ("values", "ascending")])
    known = counted.field("values").take(order)
    return [_rank(cells, known) for cells in (reference, live)]


def _rank(cells: pa.Array, known: pa.Array) -> np.ndarray:
    ranks = pc.fill_null(pc.index_in(cells, known), len(known)).to_numpy(zero_copy_only=False).astype(float)
    ranks[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return np.asarray(ranks)


def _text(cells: pa.ChunkedArray) -> pa.Array:
    kind = cells.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return pa.nulls(len(cells), pa.string())
    return cells.cast(pa.string()).combine_chunks()
