"""What the checks of evidence need to know of a rollout's rows, as small values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import Field

from cluster.values import Frozen, Task
from deployments.analysis.validity.contrasts import Estimate

MAX_NAMED = 5
"""Rows that a check names."""


class Suspects(Frozen):
    """Rows that contradict something that holds for every sound row."""

    rows: int = 0
    ids: tuple[str, ...] = ()
    """Ids of the first few."""

    def add(self, ids: list[str]) -> Suspects:
        """Add rows."""
        return Suspects(rows=self.rows + len(ids), ids=(*self.ids, *ids)[:MAX_NAMED])


class Assignment(NamedTuple):
    """How the split assigned a request."""

    rollout: str
    share: float
    """Each challenger's share at the time."""
    champion_share: float
    assigned: str
    """Variant."""
    challenger_version: str | None


class Rate(Frozen):
    """How many of so many units, counted by key; not whole numbers where keys repeat."""

    count: float = 0.0
    units: float = 0.0


class HeldOut(Frozen):
    """What the registry says of the champion and its labels."""

    squared_error: float | None = None
    """Mean squared error of a regression on rows that it was not trained on; None where the registry does not say."""
    class_shares: tuple[float, ...] = ()
    """Share of each class among the labels that it was trained on; of a binary task, that of positive ones."""

    @classmethod
    def from_manifest(cls, task: Task, metrics: Mapping[str, float], class_shares: tuple[float, ...]) -> HeldOut:
        """Read what a version's manifest has: its task, metrics, and shares of all classes."""
        error = metrics.get("rmse")
        shares = class_shares[1:] if task.kind == "binary" else class_shares
        return cls(squared_error=error**2 if error else None, class_shares=shares)


NOTHING_HELD_OUT = HeldOut()


class LabelEvidence(Frozen):
    """Labels against the scores of one version, on the rows that both variants scored."""

    slope: Estimate = Estimate()
    """Of labels on scores, with the variance that it has where it is a half."""
    relation: Estimate = Estimate()
    """The same slope, with the variance that it has where labels and scores are unrelated."""
    log_e_copied: float = 0.0
    """Log e-value against "labels happened, and were not made from these scores" (copied_labels.py)."""
    far_off: Rate | None = None
    """Regression: rows whose squared error is beyond FAR times the champion's held-out one."""
    class_shares: tuple[tuple[Rate, float], ...] = ()
    """Classification: labels of each class, and the mean probability that the version gave it."""


class ValidityEvidence(Frozen):
    """Evidence about the evidence on one challenger."""

    rows: int = 0
    """Rows in the sample."""
    labeled: int = 0
    """Those that have a label."""
    misassigned: Suspects = Suspects()
    """Rows whose key belongs to the other variant."""
    inconsistent: Suspects = Suspects()
    """Rows whose answer is not the score of the variant that answered."""
    rescored: int = 0
    """Rows of a sample that were scored again."""
    differing: Suspects = Suspects()
    """Those of them whose scores are not the logged ones."""
    first_keys: dict[float, tuple[int, int]] = Field(default_factory=dict)
    """Keys that appeared for the first time in the rollout, by share: the champion's, the challenger's."""
    lost: dict[float, tuple[int, int]] = Field(default_factory=dict)
    """Requests that were answered and not logged, by share: the champion's, the challenger's."""
    coverage: tuple[Estimate, ...] = ()
    """Difference of the share of labeled rows: of all rows, and of those with low, middle and high scores."""
    log_e_fewer_labels: float = 0.0
    """Log e-value against "labels still come as they did before the rollout" (label_history.py)."""
    delay: Estimate = Estimate()
    """Difference of the rank of the labels' delay."""
    labels: tuple[Estimate, ...] = ()
    """Difference of the rank of labels, or of the share of each class."""
    champion_loss: Estimate = Estimate()
    """Difference of the rank of the champion's loss, which both variants' rows have."""
    champion_scores: tuple[Estimate, ...] = ()
    """Differences of the rank of the champion's scores, and of its distance from the middle."""
    trained_shares: tuple[float, ...] = ()
    """Share of each class among the labels that the champion was trained on (HeldOut.class_shares)."""
    champion_labels: LabelEvidence = LabelEvidence()
    challenger_labels: LabelEvidence = LabelEvidence()
    repeated_rows: Suspects = Suspects()
    """Rows with the id of another one."""
    changed_labels: Suspects = Suspects()
    """Labels that contradict an earlier one of the same row."""
    named: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Ids of rows to look at, by check."""
