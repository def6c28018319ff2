"""Limits of live traffic get their groups from the training frame, and reach the policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from cluster.values import Snapshot
from deployments.rollout_policy import RolloutPolicy
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from rayloop.live_limits import MAX_GROUPS, compare_limits, live_limits, watch_limits
from trainers.evaluation.fairness import FairnessPolicy


class Frames:
    """A training frame in two parts; none without columns."""

    def __init__(self, columns: dict[str, list[str | None]]) -> None:
        self._table = pa.table(columns)

    def latest(self, name: str) -> Snapshot | None:
        return Snapshot(table=name, id=1, rows=len(self._table)) if self._table.num_columns else None

    def stream(self, name: str, snapshot: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        half = len(self._table) // 2
        yield from (self._table.select(columns)[:half], self._table.select(columns)[half:])


def context(fairness: FairnessPolicy, **columns: list[str | None]) -> Any:
    project = SimpleNamespace(gate=SimpleNamespace(fairness=fairness))
    return SimpleNamespace(project=project, tables=Frames(columns), frame_table="p.frame")


LIVE = FairnessPolicy(groups=("sex", "age"), min_rows=3, max_parity_difference=0.1, max_odds_difference=0.2, live=True)
SEX = ["f"] * 4 + ["m"] * 3 + ["x"] * 2 + [None] * 3
AGE = ["old"] * 12


def test_limits_have_the_groups_with_enough_training_rows() -> None:
    limits = live_limits(context(LIVE, sex=SEX, age=AGE))
    # Columns of one group have nothing to compare.
    assert [(each.name, each.max_difference) for each in limits] == [
        ("positive rate by sex", 0.1),
        ("true positive rate by sex", 0.2),
        ("false positive rate by sex", 0.2),
    ]
    assert {each.groups for each in limits} == {("f", "m", "missing")}
    many = [f"v{i}" for i in range(MAX_GROUPS + 5) for _ in range(3 + (i < MAX_GROUPS))]
    (limit, *_) = live_limits(context(LIVE, sex=many, age=["old"] * len(many)))
    assert sorted(limit.groups) == sorted(f"v{i}" for i in range(MAX_GROUPS))


def test_there_are_no_limits_unless_live_and_before_the_first_frame() -> None:
    assert live_limits(context(LIVE.model_copy(update={"live": False}), sex=SEX, age=AGE)) == ()
    assert live_limits(context(LIVE)) == ()


def test_drift_policy_watches_limits_in_addition_to_its_own() -> None:
    limits = live_limits(context(LIVE, sex=SEX, age=AGE))
    own = LogAnalysisPolicy(disparity=limits[:1])
    watched = watch_limits(DriftPolicy(log_analysis=own), limits[1:])
    assert watched.log_analysis is not None
    assert watched.log_analysis.disparity == limits
    assert watch_limits(DriftPolicy(log_analysis=None), limits).log_analysis is None
    assert watch_limits(DriftPolicy(), ()) == DriftPolicy()


def test_rollout_policy_compares_by_limits_in_addition_to_its_own() -> None:
    limits = live_limits(context(LIVE, sex=SEX, age=AGE))
    assert compare_limits(RolloutPolicy(disparity=limits[:1]), limits[1:]).disparity == limits
    assert compare_limits(RolloutPolicy(), ()) == RolloutPolicy()
