"""Drift of what columns have in common: a domain classifier, held against what is ordinary between windows. Pure.

By sampling alone any two days differ: a classifier knows them by their weather. So, as for single columns
(monitoring/statistics/calibration.py), the AUC must also be beyond those of the training rows' own runs, each against the rest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.errors import DataError
from cluster.values import Frozen
from features.definitions import Column
from monitoring.drift_policy import DriftPolicy, LookPolicy
from monitoring.samples.domain_classifier import Separation, tell_apart
from monitoring.samples.feature_matrix import matrices
from monitoring.samples.logged_rows import Rows
from monitoring.statistics.calibration import MIN_RUNS
from monitoring.statistics.null_distributions import Tail

MAX_RUNS = 20
"""Runs of training rows that are compared, spread evenly: each costs as much as the live one."""
RUN_ROWS = 500
MIN_TAIL_SCALE = 0.01


class Multivariate(Frozen):
    """``p_value`` is the larger of chance by sampling and by ordinary variation; ``ordinary`` the AUCs of the latter."""

    separation: Separation
    p_value: float
    drifted: bool
    ordinary: tuple[float, ...]


def compare(
    train: Rows,
    run: Rows,
    columns: Sequence[Column],
    policy: DriftPolicy,
    asked: LookPolicy,
    ordinary: tuple[float, ...] = (),
) -> Multivariate:
    """Tell ``run`` from ``train``. Raises DataError when either has too few rows, or no column to tell them by."""
    found = _apart(train.thinned(asked.sample), run.thinned(asked.sample), columns)
    ordinary = ordinary or _ordinary(train, columns, policy)
    # Both are taken at as many rows, or a larger run would always be told more easily than the ordinary ones.
    small = _apart(train.thinned(4 * RUN_ROWS), run.thinned(RUN_ROWS), columns).auc if ordinary else 0.0
    p_value = max(found.p_value, by_variation(small, ordinary))
    return Multivariate(
        separation=found,
        p_value=p_value,
        drifted=p_value <= asked.alpha and found.auc >= asked.auc,
        ordinary=ordinary,
    )


def by_variation(auc: float, ordinary: Sequence[float]) -> float:
    """Chance of an AUC as large among ordinary runs; 0 while too few are known."""
    if len(ordinary) < MIN_RUNS:
        return 0.0
    tail = Tail(np.array(ordinary)[:, None], least_scale=MIN_TAIL_SCALE)
    return float(tail.p_values(np.array([[auc]]))[0, 0])


def _ordinary(train: Rows, columns: Sequence[Column], policy: DriftPolicy) -> tuple[float, ...]:
    index = np.floor(train.when / policy.window_s).astype(np.int64)
    firsts = np.unique(index)
    firsts = firsts[: len(firsts) - policy.span + 1]
    chosen = firsts[np.unique(np.linspace(0, len(firsts) - 1, MAX_RUNS).astype(int))] if len(firsts) else firsts
    found = []
    for first in chosen:
        inside = (index >= first) & (index < first + policy.span)
        if inside.sum() >= min(policy.min_rows, RUN_ROWS):
            run, rest = train.of(inside).thinned(RUN_ROWS), train.of(~inside)
            if len(rest) >= RUN_ROWS:
                found.append(_apart(rest.thinned(4 * RUN_ROWS), run, columns).auc)
    return tuple(found)


def _apart(ours: Rows, theirs: Rows, columns: Sequence[Column]) -> Separation:
    reference, live, names = matrices(ours.frame, theirs.frame, columns)
    if not names:
        raise DataError("no number and no category among the features", "a domain classifier needs one")
    return tell_apart(reference, live, names)
