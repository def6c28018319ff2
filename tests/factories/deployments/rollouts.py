"""Steps of a rollout with webhooks."""

from cluster.values import Decision
from deployments.rollout.state_machine import RolloutState, begin, journal_entry
from deployments.rollout_policy import RolloutPolicy, Webhook


def webhook_step(*hooks: Webhook) -> tuple[RolloutState, Decision]:
    """An advance of a rollout whose policy has these webhooks."""
    state = begin("r1", "trips", "1", ("2",), RolloutPolicy(webhooks=hooks), 100.0)
    return state, journal_entry(state, "advance", 101.0, {"loss": 0.5})
