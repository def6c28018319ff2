"""Whether a model treats groups of rows alike, by fairlearn's metrics.

Demographic parity and equalised odds as in Hardt, Price & Srebro 2016, "Equality of Opportunity in Supervised Learning": the
difference between the groups with the largest and the smallest share of positive answers; the larger of the differences between
true and between false positive rates. What is a limit to hold is for the project to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster.errors import ProjectError
from cluster.values import Check, Frozen, Task
from trainers.evaluation import check_builders

MISSING = "missing"


class FairnessPolicy(Frozen):
    """Columns of the frame whose values are ``groups`` to be treated alike; they need not be features.

    A group has at least ``min_rows`` held-out rows. Differences between groups, at most: ``max_parity_difference`` and
    ``max_odds_difference`` of binary answers, positive from a score of ``threshold``; ``max_error_difference`` of the error rate,
    of a regression of the mean absolute error in standard deviations of the label. None is no limit.
    """

    groups: tuple[str, ...] = ()
    threshold: float = Field(default=0.5, gt=0, lt=1)
    min_rows: int = Field(default=200, ge=2)
    max_parity_difference: float | None = Field(default=None, ge=0, le=1)
    max_odds_difference: float | None = Field(default=None, ge=0, le=1)
    max_error_difference: float | None = Field(default=None, ge=0)


class Groups(Frozen):
    """A column's groups: what was measured in each, and the differences between them.

    ``left_out`` groups have too few rows. Differences that the task does not have, or that fewer than two groups define, are None.
    """

    column: str
    by_group: dict[str, dict[str, float]]
    parity_difference: float | None
    odds_difference: float | None
    error_difference: float | None
    left_out: tuple[str, ...] = ()


def measure(
    policy: FairnessPolicy, task: Task, table: pa.Table, scores: np.ndarray, labels: np.ndarray
) -> tuple[Groups, ...]:
    """One ``Groups`` for each declared column. Raises ProjectError for a column that the frame has not."""
    return tuple(_column(policy, task, name, _values(table, name), scores, labels) for name in policy.groups)


def judge(policy: FairnessPolicy, found: tuple[Groups, ...]) -> Iterator[Check]:
    """A declared limit on a difference that cannot be measured fails: nobody knows whether it holds."""
    for groups in found:
        for name, value, limit in (
            ("parity", groups.parity_difference, policy.max_parity_difference),
            ("equalised odds", groups.odds_difference, policy.max_odds_difference),
            ("error", groups.error_difference, policy.max_error_difference),
        ):
            large = "" if len(groups.by_group) > 1 else f" of min_rows={policy.min_rows} rows"
            what = f"difference of {name} between {len(groups.by_group)} groups of {groups.column}{large}"
            yield from check_builders.if_limited(
                f"{name} by {groups.column}", float("nan") if value is None else value, limit, what
            )


def _values(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        raise ProjectError(
            f"the gate compares groups of {name!r}, which the frame has not", f"it has {', '.join(table.column_names)}"
        )
    return np.asarray(table[name].cast(pa.string()).fill_null(MISSING).to_numpy(), dtype=object)


def _column(
    policy: FairnessPolicy, task: Task, name: str, groups: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> Groups:
    names, counts = np.unique(groups, return_counts=True)
    large = {str(group) for group, count in zip(names, counts, strict=True) if count >= policy.min_rows}
    here = np.isin(groups, sorted(large))
    answers, truth = _answers(policy, task, scores[here], labels[here])
    by_group = _by_group(task, groups[here], answers, truth)
    odds = _both_classes(by_group) if task.kind == "binary" else {}
    return Groups(
        column=name,
        by_group=by_group,
        parity_difference=_difference(by_group, "positive"),
        odds_difference=_larger(_difference(odds, "true_positive"), _difference(odds, "false_positive")),
        error_difference=_difference(by_group, "error"),
        left_out=tuple(str(group) for group in names if str(group) not in large),
    )


def _answers(
    policy: FairnessPolicy, task: Task, scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if task.kind == "regression":
        spread = float(labels.std()) or 1.0 if len(labels) else 1.0
        return scores / spread, labels / spread
    if task.kind == "multilabel":
        wrong = ((scores >= policy.threshold) != (labels == 1)).mean(axis=1)
        return wrong, np.zeros(len(wrong))
    chosen = scores >= policy.threshold if task.kind == "binary" else scores.argmax(axis=1)
    return chosen.astype(int), labels.astype(int)


def _by_group(task: Task, groups: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
    if not len(labels):
        return {}
    # It brings pandas and scikit-learn along, seconds of import that only a project with groups shall pay.
    from fairlearn.metrics import MetricFrame

    found = MetricFrame(metrics=_metrics(task), y_true=labels, y_pred=answers, sensitive_features=groups).by_group
    return {
        str(group): {name: float(value) for name, value in row.items()} for group, row in found.to_dict("index").items()
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


def _both_classes(by_group: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Rates of true and false positives need rows of both classes."""
    return {group: values for group, values in by_group.items() if 0 < values["base_rate"] < 1}


def _difference(by_group: dict[str, dict[str, float]], metric: str) -> float | None:
    values = [found[metric] for found in by_group.values() if metric in found]
    return max(values) - min(values) if len(values) > 1 else None


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)
