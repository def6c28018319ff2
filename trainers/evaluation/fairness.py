"""Differences of a model's results between groups of rows, by fairlearn's metrics.

Demographic parity and equalized odds as in Hardt, Price & Srebro 2016, "Equality of Opportunity in Supervised
Learning": the difference between the groups with the largest and the smallest share of positive predictions; the larger
of the differences between true and between false positive rates. The project decides which of these have a limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster.row_losses import DECISION_THRESHOLD
from cluster.values import Check, Frozen, Task
from features.disparity import DisparityLimit, Rate, group_names
from trainers.evaluation import check_builders
from trainers.evaluation.binning import gate_column


class FairnessPolicy(Frozen):
    """Which groups of held-out rows are compared, and how far their results may differ. A limit of None is no limit."""

    groups: tuple[str, ...] = ()
    """Columns of the training frame whose values are the groups. They need not be features."""
    threshold: float = Field(default=DECISION_THRESHOLD, gt=0, lt=1)
    """Score from which a binary prediction is positive."""
    min_rows: int = Field(default=200, ge=2)
    """Held-out rows that a group needs to be compared."""
    max_parity_difference: float | None = Field(default=None, ge=0, le=1)
    """Largest difference of the share of positive predictions; binary tasks only."""
    max_odds_difference: float | None = Field(default=None, ge=0, le=1)
    """Largest difference of true or false positive rates; binary tasks only."""
    max_error_difference: float | None = Field(default=None, ge=0)
    """Largest difference of the error rate; of a regression, of the mean absolute error in label deviations."""
    mitigate: Literal["none", "reweigh"] = "none"
    """With "reweigh", training rows are weighted so that labels do not depend on groups: those of ``groups`` together,
    with at least ``min_rows`` training rows (trainers/data/group_weights.py)."""
    compare: bool = True
    """With mitigation, whether the same model is also trained without it, for the card. It doubles the training."""
    live: bool = False
    """Whether the limits hold for live traffic, too: the monitor raises the alarm "fairness", and rollouts compare the
    challenger's differences with the champion's. Columns must be categories."""

    def live_limits(self, groups: Mapping[str, tuple[str, ...]]) -> tuple[DisparityLimit, ...]:
        """The limits of live traffic, of columns with several groups.

        Args:
            groups: Groups of each column.
        """
        limits: dict[Rate, float | None] = {
            "positive": self.max_parity_difference,
            "true_positive": self.max_odds_difference,
            "false_positive": self.max_odds_difference,
            "error": self.max_error_difference,
        }
        settings: dict[str, Any] = {"threshold": self.threshold, "min_rows": self.min_rows}
        return tuple(
            DisparityLimit(column=column, rate=rate, max_difference=limit, groups=groups[column], **settings)
            for column in self.groups
            for rate, limit in limits.items()
            if self.live and limit is not None and len(groups[column]) > 1
        )


class GroupComparison(Frozen):
    """Metrics of a column's groups and the differences between them.

    ``left_out`` groups have too few rows. A difference is None when the task does not define it or fewer than two
    groups do.
    """

    column: str
    by_group: dict[str, dict[str, float]]
    parity_difference: float | None
    odds_difference: float | None
    error_difference: float | None
    left_out: tuple[str, ...] = ()


class MitigationResult(Frozen):
    """A mitigation, and the same recipe without it, on the same held-out rows."""

    method: str
    groups: tuple[GroupComparison, ...] = ()
    """Of the model without mitigation; empty if none was trained."""
    metrics: dict[str, float] = Field(default={})
    """Of the model without mitigation; empty if none was trained."""


def measure(
    policy: FairnessPolicy, task: Task, table: pa.Table, scores: np.ndarray, labels: np.ndarray
) -> tuple[GroupComparison, ...]:
    """Compare the groups of each column that the policy declares.

    Args:
        policy: Columns, thresholds and minimum sizes.
        task: The model's task.
        table: Rows of the training frame [n].
        scores: The model's scores of the rows.
        labels: Labels of the rows.

    Raises:
        ProjectError: The frame has no such column.
    """
    return tuple(_compare(policy, task, name, _groups(table, name), scores, labels) for name in policy.groups)


def check(policy: FairnessPolicy, comparisons: tuple[GroupComparison, ...]) -> Iterator[Check]:
    """Check the differences that have a limit. A difference that cannot be measured fails its limit."""
    for comparison in comparisons:
        count = len(comparison.by_group)
        for name, value, limit in (
            ("parity", comparison.parity_difference, policy.max_parity_difference),
            ("equalized odds", comparison.odds_difference, policy.max_odds_difference),
            ("error", comparison.error_difference, policy.max_error_difference),
        ):
            large = "" if count > 1 else f" of min_rows={policy.min_rows} rows"
            what = f"difference of {name} between {count} groups of {comparison.column}{large}"
            yield from check_builders.at_most(
                f"{name} by {comparison.column}", float("nan") if value is None else value, limit, what
            )


def _groups(table: pa.Table, name: str) -> np.ndarray:
    return group_names(gate_column(table, name, "fairness group column"))


def _compare(
    policy: FairnessPolicy, task: Task, name: str, groups: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> GroupComparison:
    names, counts = np.unique(groups, return_counts=True)
    large = {str(group) for group, count in zip(names, counts, strict=True) if count >= policy.min_rows}
    here = np.isin(groups, sorted(large))
    predictions, truth = _predictions(policy, task, scores[here], labels[here])
    by_group = _by_group(task, groups[here], predictions, truth)
    # Rates of true and false positives need rows of both classes.
    odds = {group: rates for group, rates in by_group.items() if 0 < rates.get("base_rate", 0.0) < 1}
    return GroupComparison(
        column=name,
        by_group=by_group,
        parity_difference=_difference(by_group, "positive"),
        odds_difference=_larger(_difference(odds, "true_positive"), _difference(odds, "false_positive")),
        error_difference=_difference(by_group, "error"),
        left_out=tuple(str(group) for group in names if str(group) not in large),
    )


def _predictions(
    policy: FairnessPolicy, task: Task, scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels whose difference is the error; multilabel: the share of wrong labels, and zeros."""
    if task.kind == "regression":
        spread = float(labels.std()) or 1.0 if len(labels) else 1.0
        return scores / spread, labels / spread
    if task.kind == "multilabel":
        wrong = ((scores >= policy.threshold) != (labels == 1)).mean(axis=1)
        return wrong, np.zeros(len(wrong))
    chosen = scores >= policy.threshold if task.kind == "binary" else scores.argmax(axis=1)
    return chosen.astype(int), labels.astype(int)


def _by_group(
    task: Task, groups: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> dict[str, dict[str, float]]:
    if not len(labels):
        return {}
    # fairlearn imports pandas and scikit-learn: seconds that only a project with groups should pay.
    from fairlearn.metrics import MetricFrame

    frame = MetricFrame(metrics=_metrics(task), y_true=labels, y_pred=predictions, sensitive_features=groups)
    return {
        str(group): {name: float(value) for name, value in row.items()}
        for group, row in frame.by_group.to_dict("index").items()
    }


def _metrics(task: Task) -> dict[str, Any]:
    from fairlearn.metrics import count, false_positive_rate, selection_rate, true_positive_rate
    from sklearn.metrics import mean_absolute_error, zero_one_loss

    if task.kind in ("regression", "multilabel"):
        return {"rows": count, "error": mean_absolute_error}
    common = {"rows": count, "error": zero_one_loss}
    if task.kind == "multiclass":
        return common
    return common | {
        "positive": selection_rate,
        "base_rate": lambda y_true, y_pred: float(np.mean(y_true)),
        "true_positive": true_positive_rate,
        "false_positive": false_positive_rate,
    }


def _difference(by_group: dict[str, dict[str, float]], metric: str) -> float | None:
    values = [measured[metric] for measured in by_group.values() if metric in measured]
    return max(values) - min(values) if len(values) > 1 else None


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)
