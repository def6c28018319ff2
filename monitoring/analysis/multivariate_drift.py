"""Drift of several columns together: a domain classifier, compared with what is ordinary between windows. Pure.

By sampling alone any two days differ: a classifier recognizes them by their weather. So, as for single columns
(monitoring/statistics/null_distributions.py), the AUC must also exceed those of the training rows' own runs, each
against the rest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.errors import DataError
from cluster.values import Frozen
from features.definitions import Column
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from monitoring.samples.domain_classifier import DomainClassifier, Separability
from monitoring.samples.feature_matrix import build_matrices
from monitoring.samples.logged_rows import LoggedRows
from monitoring.statistics.null_distributions import MIN_RUNS, MIN_TAIL_SCALE, EmpiricalNull

MAX_RUNS = 20
"""Runs of training rows that are compared, spread evenly: each costs as much as the live one."""
RUN_ROWS = 500


class MultivariateDrift(Frozen):
    """Result of the domain classifier."""

    separation: Separability
    p_value: float
    """The larger of the p-values by sampling and by ordinary variation."""
    drifted: bool
    ordinary: tuple[float, ...]
    """AUCs of the training rows' own runs."""


def measure_multivariate_drift(
    train: LoggedRows,
    run: LoggedRows,
    columns: Sequence[Column],
    policy: DriftPolicy,
    settings: LogAnalysisPolicy,
    ordinary: tuple[float, ...] = (),
) -> MultivariateDrift:
    """Compare a live run with training rows.

    Args:
        train: Training rows.
        run: Live rows.
        columns: Features to compare.
        policy: Level, and windows of the training rows' own runs.
        settings: Sample size and smallest AUC.
        ordinary: AUCs of the training rows' own runs, where they are known.

    Raises:
        DataError: A sample has too few rows, or no number or category to compare.
    """
    separation = _compare(train.sample(settings.sample), run.sample(settings.sample), columns)
    ordinary = ordinary or _ordinary_aucs(train, columns, policy)
    # Both with equally many rows: a larger run is always easier to separate than the ordinary ones.
    small = _compare(train.sample(4 * RUN_ROWS), run.sample(RUN_ROWS), columns).auc if ordinary else 0.0
    p_value = max(separation.p_value, auc_p_value(small, ordinary))
    return MultivariateDrift(
        separation=separation,
        p_value=p_value,
        drifted=p_value <= policy.level("multivariate") and separation.auc >= settings.auc,
        ordinary=ordinary,
    )


def auc_p_value(auc: float, ordinary: Sequence[float]) -> float:
    """Probability of an AUC as large among ordinary runs; 0 while too few are known."""
    if len(ordinary) < MIN_RUNS:
        return 0.0
    null = EmpiricalNull(np.array(ordinary)[:, None], least_scale=MIN_TAIL_SCALE)
    return float(null.p_values(np.array([[auc]]))[0, 0])


def _ordinary_aucs(train: LoggedRows, columns: Sequence[Column], policy: DriftPolicy) -> tuple[float, ...]:
    index = np.floor(train.times / policy.window_s).astype(np.int64)
    firsts = np.unique(index)
    firsts = firsts[: len(firsts) - policy.span + 1]
    chosen = firsts[np.unique(np.linspace(0, len(firsts) - 1, MAX_RUNS).astype(int))] if len(firsts) else firsts
    aucs = []
    for first in chosen:
        inside = (index >= first) & (index < first + policy.span)
        if inside.sum() >= min(policy.min_rows, RUN_ROWS):
            run, rest = train.select(inside).sample(RUN_ROWS), train.select(~inside)
            if len(rest) >= RUN_ROWS:
                aucs.append(_compare(rest.sample(4 * RUN_ROWS), run, columns).auc)
    return tuple(aucs)


def _compare(reference: LoggedRows, live: LoggedRows, columns: Sequence[Column]) -> Separability:
    reference_matrix, live_matrix, names = build_matrices(reference.frame, live.frame, columns)
    if not names:
        raise DataError("data.no_comparable_column")
    return DomainClassifier(reference_matrix, live_matrix).test(names)
