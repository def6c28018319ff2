"""The explanation of one row: contributions that add up, and the reasons that they amount to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.values import Frozen, Stored, Task
from features.attributions.contributions import Contributions, Method, Unit
from features.attributions.explainer_file import Explainer
from features.encoder import Arrays

MAX_REASONS = 4
"""As many as a notice of adverse action usually lists (12 CFR 1002.9, official interpretation 9(b)(2))."""
_SIGNIFICANT = 2.0
"""Standard errors that a reason's contribution must exceed."""


class Reason(Frozen):
    """A feature that moved the score, in the project's words."""

    feature: str
    text: str
    contribution: float


class RowExplanation(Stored, stored_as="explanation"):
    """Why a row has its score: ``base`` and ``contributions`` add up to ``total``, in ``unit``."""

    output: str
    """Label or class whose score is explained; of a multiclass task, the likeliest class."""
    score: float
    method: Method
    unit: Unit
    base: float
    """Mean over the training rows."""
    total: float
    contributions: dict[str, float]
    """By feature."""
    errors: dict[str, float] | None = None
    """Standard errors of sampled contributions."""
    reasons: tuple[Reason, ...] = ()
    """Features that moved the score farthest to the side of the base on which it is, at most MAX_REASONS."""


def explain_row(explainer: Explainer, task: Task, row: Arrays, scores: np.ndarray) -> RowExplanation:
    """Explain one row.

    Args:
        explainer: The version's explainer.
        task: Its task.
        row: The encoded row.
        scores: The version's scores of the row, [outputs].
    """
    output = int(scores.argmax())
    contributions = explainer.rows.explain(row, output)
    errors = None
    if contributions.errors is not None:
        errors = dict(zip(explainer.features, contributions.errors.tolist(), strict=True))
    return RowExplanation(
        output=task.classes[output] if task.wide else task.label,
        score=float(scores[output]),
        method=explainer.record.method,
        unit=explainer.unit,
        base=contributions.base,
        total=contributions.total,
        contributions=dict(zip(explainer.features, contributions.parts.tolist(), strict=True)),
        errors=errors,
        reasons=choose_reasons(contributions, explainer.features, explainer.record.reasons),
    )


def choose_reasons(
    contributions: Contributions, features: tuple[str, ...], words: Mapping[str, str]
) -> tuple[Reason, ...]:
    """The features that moved a score farthest to the side of the base on which it is.

    Args:
        contributions: Contributions to the score.
        features: Names of the features.
        words: Words of a reason, by feature; by default the feature's name.
    """
    moved = contributions.parts * (1.0 if contributions.total >= contributions.base else -1.0)
    least = 0.0 if contributions.errors is None else _SIGNIFICANT * contributions.errors
    chosen = [i for i in np.argsort(-moved, kind="stable").tolist() if (moved > least)[i]][:MAX_REASONS]
    names = [(features[i], float(contributions.parts[i])) for i in chosen]
    return tuple(Reason(feature=name, text=words.get(name, name), contribution=part) for name, part in names)
