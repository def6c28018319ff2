"""Ask those who have a say before a step, and tell the others after it. An abort asks nobody and waits for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from cluster.values import Decision
from deployments.rollout.state_machine import RolloutState
from deployments.rollout.webhook_client import post_step

Report = Callable[[RolloutState, str], Awaitable[None]]


class Approvals:
    """A rollout's webhooks. ``report`` is called with what became of those that were told in vain."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._stopped = asyncio.Event()
        self._aborts = 0
        self._refusal, self._ask_again = "", 0.0
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def aborting(self) -> bool:
        """Whether an abort has been ordered that waits for its turn."""
        return self._aborts > 0

    def __enter__(self) -> None:
        """While it is entered an abort is under way: whoever is being asked is not waited for."""
        self._aborts += 1
        self._stopped.set()

    def __exit__(self, *unused: object) -> None:
        self._aborts -= 1
        if not self._aborts:
            self._stopped.clear()

    def reset(self) -> None:
        """Forget who refused what: another rollout begins."""
        self._refusal, self._ask_again = "", 0.0

    async def objection(self, state: RolloutState, decision: Decision) -> str:
        """Why the step must not be taken; empty when everybody agrees. After a refusal one is asked again later."""
        hooks = [hook for hook in state.policy.webhooks if hook.moment == "before"]
        if not hooks or self.aborting:
            return "an abort was ordered" if self.aborting else ""
        if self._refusal and time.monotonic() < self._ask_again:
            return self._refusal
        asked = asyncio.ensure_future(post_step(hooks, "before", state, decision))
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not asked.done():
            asked.cancel()
            return "an abort was ordered"
        self._refusal = "; ".join(await asked)
        self._ask_again = time.monotonic() + min(hook.retry_s for hook in hooks)
        return self._refusal

    def notify(self, state: RolloutState, decision: Decision) -> None:
        """Tell of a step that was taken, in the background."""
        telling = asyncio.ensure_future(self._tell(state, decision))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self, state: RolloutState, decision: Decision) -> None:
        failures = await post_step(state.policy.webhooks, "after", state, decision)
        if failures:
            await self._report(state, f"after {decision.action}, {'; '.join(failures)}")
