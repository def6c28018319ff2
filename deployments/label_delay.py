"""What follows from the time that labels take: the path of a rollout, its deadlines, and how long rows wait. Pure.

Where labels arrive within a step's deadline, they decide each step. Where they take longer, no step can wait for them:
health carries the steps, and labels decide after the promotion (docs/evidence.md, docs/decisions/0072).
"""

from __future__ import annotations

from typing import Any

from deployments.rollout_policy import DAY_S, RolloutPolicy

LONGEST_STEP_S = DAY_S
"""A label that takes longer is not waited for at a step, unless the policy's own deadline is longer."""
_HEALTH_BAKE_S = 3600.0
_HEALTH_DEADLINE_S = 7.0 * DAY_S
"""Where labels take days, a step may take days to be shown to be healthy."""


def follow_label_delay(policy: RolloutPolicy, delay_s: float | None) -> RolloutPolicy:
    """Derive the settings that the policy does not give from the time that labels take.

    Args:
        policy: The project's policy; what it gives stays, its own ``label_delay_s`` included.
        delay_s: Seconds within which 95% of the labels are known; None: unknown, the policy stays as it is.
    """
    delay_s = delay_s if policy.label_delay_s is None else policy.label_delay_s
    if delay_s is None:
        return policy
    is_given = policy.model_fields_set - {"label_delay_s"}
    longest_s = policy.deadline_s if "deadline_s" in is_given else LONGEST_STEP_S
    path = policy.path if "path" in is_given else "health" if delay_s > longest_s else "labels"
    # A label may take twice as long as 95% of them do.
    derived: dict[str, Any] = {
        "path": path, "label_delay_s": delay_s, "label_wait_s": max(policy.label_wait_s, 2.0 * delay_s)
    }  # fmt: skip
    if path == "health":
        derived |= {"bake_s": min(_HEALTH_BAKE_S, longest_s / 2.0), "deadline_s": _HEALTH_DEADLINE_S}
        derived["latency_to_advance"] = policy.latency_quantile is not None
    else:
        derived["deadline_s"] = policy.deadline_s + 2.0 * delay_s
    return policy.model_copy(update={name: value for name, value in derived.items() if name not in is_given})
