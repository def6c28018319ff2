"""The limits of ``FairnessPolicy(live=True)`` in the policies of the monitor and of rollouts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from deployments.rollout_policy import RolloutPolicy
from features.disparity import DisparityLimit, group_names
from monitoring.drift_policy import DriftPolicy

if TYPE_CHECKING:
    # Imports Iceberg and MLflow, which take seconds.
    from rayloop.context import ProjectContext

MAX_GROUPS = 20
"""Groups of a column that are compared: each has a part of the error rate."""


def live_limits(context: ProjectContext) -> tuple[DisparityLimit, ...]:
    """Return the project's limits of live traffic, with the groups that have enough rows in its newest training frame.

    The largest MAX_GROUPS of a column count; there are no limits before the first frame, nor for a column of one group.
    """
    fair = context.project.gate.fairness
    snapshot = context.tables.latest(context.frame_table) if fair.live else None
    if snapshot is None:
        return ()
    rows: dict[str, Counter[str]] = {column: Counter() for column in fair.groups}
    for part in context.tables.stream(snapshot.table, snapshot.id, columns=fair.groups):
        for column, counter in rows.items():
            counter.update(group_names(part[column]).tolist())
    return fair.live_limits({column: _groups(counter, fair.min_rows) for column, counter in rows.items()})


def watch_limits(policy: DriftPolicy, limits: tuple[DisparityLimit, ...]) -> DriftPolicy:
    """Return a drift policy that watches limits in addition to its own; without a log analysis, it watches none."""
    analysis = policy.log_analysis
    if analysis is None or not limits:
        return policy
    both = analysis.model_copy(update={"disparity": (*analysis.disparity, *limits)})
    return policy.model_copy(update={"log_analysis": both})


def compare_limits(policy: RolloutPolicy, limits: tuple[DisparityLimit, ...]) -> RolloutPolicy:
    """Return a rollout policy that compares by limits in addition to its own."""
    return policy.model_copy(update={"disparity": (*policy.disparity, *limits)}) if limits else policy


def _groups(rows: Counter[str], least: int) -> tuple[str, ...]:
    """Values with enough rows, in the order of their names: the same for every reading of a frame."""
    ordered = sorted(rows.items(), key=lambda item: (-item[1], item[0]))[:MAX_GROUPS]
    return tuple(sorted(name for name, count in ordered if count >= least))
