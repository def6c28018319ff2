"""How long a project's labels take, and the policies that follow from it."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from deployments.label_delay import follow_label_delay
from deployments.rollout_policy import RolloutPolicy
from features.offline.split_dates import RowTimes
from features.outcomes import LabelWithin
from features.types import AS_OF, LABEL_KNOWN_AT
from monitoring.drift_policy import DAY_S, DriftPolicy
from rayloop.project import Project

if TYPE_CHECKING:
    # Imports Iceberg and MLflow, which take seconds.
    from rayloop.context import ProjectContext

MOST = 0.95
"""The delay within which this share of the labels is known decides."""
_ROWS = 1_000_000
"""Rows of the training frame that are measured at most."""


class LabelDelay(NamedTuple):
    """Time from a row to its label."""

    median: timedelta
    most: timedelta
    """Within which 95% of the labels are known."""
    origin: Literal["declared", "measured"]

    def __str__(self) -> str:
        if self.origin == "declared":
            return f"labels take {_format(self.most)} (declared)"
        return (
            f"labels take {_format(self.median)} (median), {MOST:.0%} of them at most {_format(self.most)} (measured)"
        )


def find_label_delay(context: ProjectContext) -> LabelDelay | None:
    """Return how long labels take: as the project declares it, or measured; None before the first training frame."""
    return declared_delay(context.project) or _measure(context)


def declared_delay(project: Project) -> LabelDelay | None:
    """Return how long labels take by the project's own declaration; None: it has none."""
    label, declared = project.examples.label, project.label_delay
    if declared is None and isinstance(label, LabelWithin):
        declared = label.delay
    return None if declared is None else LabelDelay(declared, declared, "declared")


def measure_delay(times: RowTimes) -> LabelDelay:
    """Return how long labels take, from the times of rows and of their labels."""
    return LabelDelay(times.delay_at(0.5), times.delay_at(MOST), "measured")


def rollout_policy(project: Project, delay: LabelDelay | None) -> RolloutPolicy:
    """Return the project's rollout policy, with what follows from the label delay."""
    return follow_label_delay(project.rollout, delay.most.total_seconds() if delay else None)


def drift_policy(context: ProjectContext, delay: LabelDelay | None) -> DriftPolicy:
    """Return the project's drift policy; unless it says otherwise, windows wait as long for labels as these take."""
    policy, delay_s = context.project.drift, delay.most.total_seconds() if delay else 0.0
    analysis = policy.log_analysis
    if analysis is None or delay_s <= analysis.label_wait_s or "label_wait_s" in analysis.model_fields_set:
        return policy
    # In whole days: a delay that is measured differs a little each time, and the monitor should not see a new policy.
    wait_s = analysis.label_wait_s + DAY_S * math.ceil(delay_s / DAY_S)
    return policy.model_copy(update={"log_analysis": analysis.model_copy(update={"label_wait_s": wait_s})})


def describe_path(policy: RolloutPolicy, delay: LabelDelay | None) -> str:
    """Say which path a project's rollouts take, for the console and the report."""
    if policy.path == "health":
        because = f"{delay}: longer than a rollout" if delay else "declared"
        return f"health, then labels after the promotion ({because})"
    return f"labels ({delay})" if delay else "labels"


def _measure(context: ProjectContext) -> LabelDelay | None:
    snapshot = context.tables.latest(context.frame_table)
    if snapshot is None or not snapshot.rows:
        return None
    step = -(-snapshot.rows // _ROWS)
    parts = [
        RowTimes(_microseconds(part[AS_OF]), _microseconds(part[LABEL_KNOWN_AT])).thinned(len(part) // step or 1)
        for part in context.tables.stream(snapshot.table, snapshot.id, columns=(AS_OF, LABEL_KNOWN_AT))
    ]
    times = RowTimes(np.concatenate([part.as_of for part in parts]), np.concatenate([part.known_at for part in parts]))
    return measure_delay(times)


def _microseconds(times: pa.ChunkedArray) -> np.ndarray:
    return times.cast(pa.int64()).to_numpy()


def _format(delay: timedelta) -> str:
    days = delay / timedelta(days=1)
    return f"{days:.3g} days" if days >= 1.0 else f"{delay / timedelta(hours=1):.2g} hours"
