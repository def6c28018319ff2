"""How labels came before the rollout, and whether they still come: a comparison that needs no second variant. Pure.

Labels often come in batches, of a night or a week. So the history must span a week, and a row counts only when it is
older than nearly all labels have ever taken.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.values import Frozen
from deployments.analysis.sequential_tests import log_e_below

MAX_ROWS, MIN_ROWS = 20_000, 1_000
"""Rows of the log that the history is computed from: at most, evenly spaced in their order, and at least."""
MIN_SPAN_US = 7 * 86_400_000_000
MIN_SHARE = 0.02
"""Share of labeled rows below which nothing is expected."""
LATEST, SLACK = 0.99, 1.5
"""Quantile of the delays, and by how much longer a label may take."""
FEWEST = 1.0 / 3.0
"""Part of the labels of before that must still come."""


class LabelHistory(Frozen):
    """How labels came before the rollout."""

    within_us: float
    """Age of a row, microseconds, by which its label has come if it ever comes."""
    share: float
    """Share of rows that have a label by then."""


def label_history(rows: pa.Table, labels: pa.Table) -> LabelHistory | None:
    """Compute the history of labels; None where the log is too short to know.

    Args:
        rows: Rows of the prediction log from before the rollout: ``id`` and ``at``.
        labels: Rows of the label log: ``id`` and ``received``.
    """
    rows = rows.take(np.arange(0, rows.num_rows, max(rows.num_rows // MAX_ROWS, 1)))
    labels = labels.filter(pc.is_in(labels.column("id"), value_set=rows.column("id").combine_chunks()))
    received = dict(zip(labels.column("id").to_pylist(), _microseconds(labels, "received"), strict=True))
    at_us = _microseconds(rows, "at")
    delays = np.array([received.get(id, np.nan) for id in rows.column("id").to_pylist()], np.float64) - at_us
    labeled = np.isfinite(delays)
    if not labeled.any():
        return None
    within = SLACK * float(np.quantile(delays[labeled], LATEST))
    old = at_us <= at_us.max() - within
    share = float((delays[old] <= within).mean()) if old.any() else 0.0
    enough = old.sum() >= MIN_ROWS and at_us[old].max() - at_us.min() >= MIN_SPAN_US
    return LabelHistory(within_us=within, share=share) if enough and share >= MIN_SHARE else None


def log_e_fewer_labels(history: LabelHistory, at_us: np.ndarray, received_us: np.ndarray, effect: float) -> float:
    """Log e-value against "at least FEWEST of the labels still come, and as early as nearly all did".

    Args:
        history: How labels came before.
        at_us: When rows of the rollout were answered, microseconds.
        received_us: When their labels came; NaN without one.
        effect: Design effect, by which counts are divided.
    """
    now = max(float(at_us.max()), float(np.nanmax(received_us, initial=0.0)))
    old = at_us <= now - history.within_us
    count = int((received_us[old] - at_us[old] <= history.within_us).sum())
    return float(log_e_below(count / effect, int(old.sum()) / effect, FEWEST * history.share))


def _microseconds(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table.column(name).cast(pa.int64()).to_numpy())
