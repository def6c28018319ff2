"""The door to those who want a say, or word, when a rollout takes a step: HTTP POST of the state and the decision.

The body is JSON: {"moment": "before" | "after", "state": RolloutState, "decision": Decision}; where a secret is named,
header ``x-rayloop-signature`` is "sha256=" and the hex HMAC-SHA256 of the body under it. The state is the one that the
decision leads to. Only an answer 2xx in time agrees.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Literal

import httpx

from cluster.errors import RolloutError
from cluster.signing import SIGNATURE, signature
from cluster.values import Decision
from deployments.rollout.state_machine import RolloutState
from deployments.rollout_policy import Webhook

Moment = Literal["before", "after"]


def check(hooks: Sequence[Webhook]) -> None:
    """Raises RolloutError when a secret that a webhook names is not in this process's environment."""
    for hook in hooks:
        if hook.secret_env and not os.environ.get(hook.secret_env):
            raise RolloutError(
                f"webhook {hook.url} is to be signed with {hook.secret_env}, which the cluster's processes do not have",
                "set it where the cluster is started",
            )


async def post(hooks: Sequence[Webhook], moment: Moment, state: RolloutState, decision: Decision) -> list[str]:
    """Tell all hooks of that moment, at once. Returns a sentence about each that did not agree."""
    content = {"moment": moment, "state": state.model_dump(mode="json"), "decision": decision.model_dump(mode="json")}
    body = json.dumps(content).encode()
    told = await asyncio.gather(*(_told(hook, body) for hook in hooks if hook.moment == moment))
    return [failure for failure in told if failure]


async def _told(hook: Webhook, body: bytes) -> str:
    try:
        check([hook])
        status = await asyncio.wait_for(_status(hook, body), hook.timeout_s)
    except TimeoutError:
        return f"webhook {hook.url}: no answer within {hook.timeout_s:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, RolloutError) as error:
        return f"webhook {hook.url}: {error or type(error).__name__}"
    return "" if 200 <= status < 300 else f"webhook {hook.url}: HTTP {status}"


async def _status(hook: Webhook, body: bytes) -> int:
    headers = {"content-type": "application/json"}
    if hook.secret_env:
        headers[SIGNATURE] = signature(os.environ[hook.secret_env], body)
    # The limit is on the whole call, and is kept by who calls.
    async with httpx.AsyncClient(timeout=None) as client:
        return (await client.post(hook.url, content=body, headers=headers)).status_code
