"""Model cards (Mitchell et al. 2019, "Model Cards for Model Reporting"): facts, results and limits of a version."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from cluster.values import Check, Frozen, Snapshot, Stored, Task
from features.labeling.weak_estimate import WeakEstimate
from trainers.evaluation.assessment import Assessment
from trainers.selection.selection import Selection

CARD_JSON = "card.json"
CARD_PAGE = "card.html"
NOTABLE = 1.1
"""A slice is a limit of the model when the lower bound of its loss ratio is above this."""


class SplitFacts(Frozen):
    """Rows of a split: their number, period (ISO 8601, UTC) and mean label; None for a multiclass task.

    ``purged`` is how many other rows the split left out.
    """

    name: str
    rows: int
    start: str
    end: str
    label_mean: float | None = None
    purged: int = 0


class FeatureFacts(Frozen):
    """A feature: its kind, its origin, and the share of training rows in which it is missing."""

    name: str
    kind: str
    origin: str
    missing: float


class CardLineage(Frozen):
    """Identifiers of everything that this version was built from."""

    run_id: str
    snapshot: Snapshot
    feature_hash: str
    code_version: str
    fingerprint: str
    champion: str = ""


class ModelCard(Stored, stored_as="model card"):
    """Everything on the card.

    ``latency`` is in microseconds, ``size`` in bytes. ``override`` is the reason for registering a version that failed
    its gate; ``compression`` lists the compression steps that were applied, and those that were not, with the reason.
    """

    model: str
    name: str
    made_at: float
    purpose: str
    task: Task
    parts: tuple[SplitFacts, ...]
    features: tuple[FeatureFacts, ...]
    recipe: dict[str, dict[str, Any]]
    precision: str
    latency: dict[str, float]
    size: int
    train_metrics: dict[str, float]
    validation_metrics: dict[str, float]
    checks: tuple[Check, ...]
    assessment: Assessment
    curve: tuple[tuple[float, float, int], ...]
    limits: tuple[str, ...]
    lineage: CardLineage
    override: str = ""
    compression: str = ""
    synthetic_rows: int = Field(default=0, exclude_if=lambda rows: not rows)
    """Synthetic rows of rare classes that it was trained on, beside the rows of ``parts``."""
    weak_labels: WeakEstimate | None = None
    """Labeling functions whose weak labels it was trained on, beside the true labels of ``parts``."""
    selection: Selection | None = None
    """The race that chose the model; None if the project names its kind."""

    @property
    def passed(self) -> bool:
        """Whether all checks of the gate pass."""
        return all(check.passed for check in self.checks)


def derive_limits(
    parts: tuple[SplitFacts, ...], features: tuple[FeatureFacts, ...], assessment: Assessment
) -> tuple[str, ...]:
    """The limits that follow from the figures. The project adds its own.

    Args:
        parts: The splits of the frame, the held-out rows last.
        features: The features.
        assessment: The results on the held-out rows.
    """
    test = parts[-1]
    limits = [f"Evaluated on {test.rows:,} rows from {test.start} to {test.end}; other periods were not measured."]
    limits += [
        f"Worse where {s.name}: {s.ratio:.2f} times the loss of other rows ({s.rows:,} rows)."
        for s in (*assessment.slices, *assessment.discovered_slices)
        if s.low > NOTABLE
    ]
    if mostly_missing := [f"{f.name} ({f.missing:.0%})" for f in features if f.missing > 0.5]:
        limits.append(f"Mostly missing in training: {', '.join(mostly_missing)}.")
    for groups in assessment.fairness:
        if groups.left_out:
            limits.append(f"Too few rows to compare these groups of {groups.column}: {', '.join(groups.left_out)}.")
    return tuple(limits)
