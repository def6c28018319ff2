"""A model card (Mitchell et al. 2019, "Model Cards for Model Reporting"): what a version is, and what is known of it."""

from __future__ import annotations

from typing import Any, ClassVar

from cluster.values import Check, Frozen, Snapshot, Stored, Task
from trainers.evaluation.assessment import Assessment

CARD_JSON = "card.json"
CARD_PAGE = "card.html"
NOTABLE = 1.1
"""A slice whose loss is surely this many times that of other rows is a limit of the model."""


class SplitFacts(Frozen):
    """Rows of one part of the frame: how many, from when to when (ISO 8601, UTC), and the mean label.

    The mean label of a multiclass task is of no use and left out.
    """

    name: str
    rows: int
    start: str
    end: str
    label_mean: float | None = None


class FeatureFacts(Frozen):
    """A feature: its kind, where it comes from, and the share of training rows in which it is missing."""

    name: str
    kind: str
    origin: str
    missing: float


class CardLineage(Frozen):
    """What it takes to find everything that this version was made of."""

    run_id: str
    snapshot: Snapshot
    feature_hash: str
    code_version: str
    fingerprint: str
    champion: str = ""


class ModelCard(Stored):
    """Everything on the card. ``latency`` in microseconds, ``size`` in bytes; ``override`` says why a failed gate was passed over,
    ``compression`` which steps to a smaller model were taken, and which were not, with the reason.
    """

    stored_as: ClassVar[str] = "model card"

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

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def derive_limits(
    parts: tuple[SplitFacts, ...], features: tuple[FeatureFacts, ...], found: Assessment
) -> tuple[str, ...]:
    """What follows from the figures themselves; what else it must not be used for, its owner says."""
    test = parts[-1]
    told = [f"Judged on {test.rows:,} rows from {test.start} to {test.end}; of other times nothing was measured."]
    told += [
        f"Worse where {s.name}: {s.ratio:.2f} times the loss of other rows ({s.rows:,} rows)."
        for s in (*found.slices, *found.discovered_slices)
        if s.low > NOTABLE
    ]
    gappy = [f"{f.name} ({f.missing:.0%})" for f in features if f.missing > 0.5]
    if gappy:
        told.append(f"Mostly missing in training: {', '.join(gappy)}.")
    for groups in found.fairness:
        if groups.left_out:
            told.append(f"Too few rows to compare these groups of {groups.column}: {', '.join(groups.left_out)}.")
    return tuple(told)
