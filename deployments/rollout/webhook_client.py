"""Ask or notify the webhooks of a rollout about a step: HTTP POST of the state and the decision.

The body is JSON: {"moment": "before" | "after", "state": RolloutState, "decision": Decision}, signed where the policy
names a secret (cluster/webhooks.py). The state is the one that the decision leads to. Only a 2xx answer in time agrees.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Literal

from cluster import webhooks
from cluster.errors import RolloutError
from cluster.values import Decision
from deployments.rollout.state_machine import RolloutState
from deployments.rollout_policy import Webhook

Moment = Literal["before", "after"]


def check_secrets(hooks: Sequence[Webhook]) -> None:
    """Check that this process can sign for every webhook.

    Raises:
        RolloutError: A webhook's ``secret_env`` is not set in this process's environment.
    """
    for hook in hooks:
        if hook.secret_env and not os.environ.get(hook.secret_env):
            raise RolloutError("rollout.webhook_secret_missing", url=hook.url, secret_env=hook.secret_env)


async def post_step(hooks: Sequence[Webhook], moment: Moment, state: RolloutState, decision: Decision) -> list[str]:
    """POST a step to all webhooks of one moment, concurrently.

    Returns:
        A sentence for each webhook that did not agree.
    """
    content = {"moment": moment, "state": state.model_dump(mode="json"), "decision": decision.model_dump(mode="json")}
    body = json.dumps(content).encode()
    chosen = [hook for hook in hooks if hook.moment == moment]
    failures = await asyncio.gather(
        *(webhooks.send(hook.url, body, timeout_s=hook.timeout_s, secret_env=hook.secret_env) for hook in chosen)
    )
    return [f"webhook {hook.url}: {failure}" for hook, failure in zip(chosen, failures, strict=True) if failure]
