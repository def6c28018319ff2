"""Approval of rollout steps by webhooks, and notifications after them. An abort does not wait for approval.

The journal (journal.py) records the decisions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from cluster.values import Decision
from deployments.rollout.state_machine import RolloutState
from deployments.rollout.webhook_client import post_step

_ABORT_REQUESTED = "an abort was requested"

Report = Callable[[RolloutState, str], Awaitable[None]]


class Approvals:
    """Asks a rollout's webhooks for approval of its steps, and notifies them.

    Args:
        report: Called with the state and a sentence when a notification fails.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stopped = asyncio.Event()
        self._aborts = 0
        self._refusal, self._next_request = "", 0.0
        self._notifications: set[asyncio.Task[None]] = set()

    @property
    def aborting(self) -> bool:
        """Whether a requested abort waits for its turn."""
        return self._aborts > 0

    def __enter__(self) -> None:
        """Begin an abort: until the exit, no approval is waited for."""
        self._aborts += 1
        self._stopped.set()

    def __exit__(self, *unused: object) -> None:
        self._aborts -= 1
        if not self._aborts:
            self._stopped.clear()

    def reset(self) -> None:
        """Clear the last refusal, for another rollout."""
        self._refusal, self._next_request = "", 0.0

    async def objection(self, state: RolloutState, decision: Decision) -> str:
        """Ask for approval of a step.

        After a refusal, the webhooks are called again only after ``retry_s``; until then the refusal stands.

        Args:
            state: State that the step leads to.
            decision: Its journal entry.

        Returns:
            Why the step must not be taken; empty if all webhooks approve.
        """
        hooks = [hook for hook in state.policy.webhooks if hook.moment == "before"]
        if not hooks or self.aborting:
            return _ABORT_REQUESTED if self.aborting else ""
        if self._refusal and time.monotonic() < self._next_request:
            return self._refusal
        request = asyncio.ensure_future(post_step(hooks, "before", state, decision))
        abort = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait({request, abort}, return_when=asyncio.FIRST_COMPLETED)
        abort.cancel()
        if not request.done():
            request.cancel()
            return _ABORT_REQUESTED
        self._refusal = "; ".join(await request)
        self._next_request = time.monotonic() + min(hook.retry_s for hook in hooks)
        return self._refusal

    def notify(self, state: RolloutState, decision: Decision) -> None:
        """Notify the webhooks of a step, in the background."""
        task = asyncio.ensure_future(self._notify(state, decision))
        self._notifications.add(task)
        task.add_done_callback(self._notifications.discard)

    async def _notify(self, state: RolloutState, decision: Decision) -> None:
        failures = await post_step(state.policy.webhooks, "after", state, decision)
        if failures:
            await self._report(state, f"after {decision.action}, {'; '.join(failures)}")
