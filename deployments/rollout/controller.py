"""Act: a detached actor per model that takes its challengers through a rollout.

One pass: evidence, verdicts, consent, journal entry, Serve's configuration, aliases. The entry comes first, and states
what shall be so; everything after it is made so again by any later pass. A controller that dies between any two of them
resumes from the journal, compares with what Serve is told, and goes on.

An abort beats a promotion: harm that is shown when a person asks to promote aborts instead, and an abort that is
ordered while a step waits for consent, or a promotion for its turn, goes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from uuid import uuid4

from ray.actor import ActorHandle

from cluster.actors import get_or_create
from cluster.errors import RolloutError
from cluster.names import rollout_actor
from cluster.row_losses import check_metric
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Decision, Frozen, ModelVersion, Task
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.verdict import Verdict
from deployments.rollout import webhook_client
from deployments.rollout.approvals import Approvals
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.multi_challenger import decide, judge_all
from deployments.rollout.reconciler import Reconciler
from deployments.rollout.serve_config import ServingOptions
from deployments.rollout.state_machine import (
    Command,
    RolloutState,
    apply_command,
    apply_decision,
    begin,
    drop_challenger,
    format_versions,
    journal_entry,
    roll_back,
)
from deployments.rollout_policy import RolloutPolicy
from deployments.telemetry.log_writer import connect as connect_ledger

_log = logging.getLogger(__name__)


class RolloutStatus(Frozen):
    """``state`` is None before a model's first rollout; ``decisions`` are those of the newest one.

    ``settled`` tells whether Serve and the aliases are as the state says they shall be. ``evidence`` and the newest
    ``verdicts`` are by the challenger's version.
    """

    state: RolloutState | None
    applied: bool
    evidence: dict[str, RolloutEvidence]
    verdicts: dict[str, Verdict]
    decisions: tuple[Decision, ...]

    @property
    def finished(self) -> bool:
        """Whether there was a rollout, and it has ended in all its effects."""
        return self.state is not None and self.applied and not self.state.active

    @property
    def requests(self) -> int:
        """Requests that were dealt, as far as is known."""
        totals = [one.total for one in self.evidence.values()]
        return max((one.champion.requests for one in totals), default=0) + sum(
            one.challenger.requests for one in totals
        )


def connect(model: str, settings: Settings) -> ActorHandle:
    """The rollout controller of ``model``, started when absent."""
    return get_or_create(rollout_actor(model), RolloutController, model, settings)


class RolloutController:
    """See the module. Commands and passes take turns."""

    async def __init__(self, model: str, settings: Settings) -> None:  # type: ignore[misc]
        self._model = model
        self._journal = RolloutJournal(model, Tables(settings))
        self._effects = Reconciler(model, settings)
        self._ledger = connect_ledger(model, settings)
        self._consent = Approvals(self._report)
        self._turn = asyncio.Lock()
        self._evidence: dict[str, RolloutEvidence] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._options = ServingOptions()
        self._task: Task | None = None
        self._untold: list[Decision] = []
        self._state = await asyncio.to_thread(self._journal.last_state)
        # Also after a rollout that ended: its last effects may not have been applied.
        self._applied = self._state is None
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def start(
        self,
        challengers: ModelVersion | Sequence[ModelVersion],
        policy: RolloutPolicy,
        options: ServingOptions | None = None,
    ) -> RolloutStatus:
        """Put one challenger, or several, on trial against the version that is served.

        Raises RolloutError while another rollout is under way, when nothing is served, when the policy does not fit or
        a webhook objects, and, the rollout being journaled as aborted, when no challenger can be served.
        """
        several = [challengers] if isinstance(challengers, ModelVersion) else challengers
        versions = [challenger.version for challenger in several]
        async with self._turn:
            if self._state is not None and (self._state.active or not self._applied):
                raise RolloutError(
                    f"{self._model} has a rollout under way: {format_versions(self._state.challengers)} at {self._state.share:.0%}",
                    "abort it or let it end first",
                )
            webhook_client.check_secrets(policy.webhooks)
            champion = (await self._effects.champion()).version
            task = await self._effects.task(champion)
            check_metric(task, policy.metric)
            name = f"{self._model}-{'-'.join(versions)}-{uuid4().hex[:8]}"
            state = begin(name, self._model, champion, versions, policy, time.time())
            decision = journal_entry(state, "start", state.since, {})
            self._consent.reset()
            if refusal := await self._consent.objection(state, decision):
                raise RolloutError(f"the rollout may not start: {refusal}")
            self._options, self._task = options or ServingOptions(), task
            self._evidence, self._verdicts = {}, {}
            await self._enter(state, decision)
            await self._make_so()
        if self._state is not None and self._state.status == "aborted":
            raise RolloutError(self._state.reason)
        return await self.status()

    async def status(self) -> RolloutStatus:
        decisions = await asyncio.to_thread(self._journal.decisions)
        mine = tuple(d for d in decisions if self._state is not None and d.rollout == self._state.id)
        return RolloutStatus(
            state=self._state,
            applied=self._applied,
            evidence=self._evidence,
            verdicts=self._verdicts,
            decisions=mine,
        )

    # Orders may name the rollout that they are for; another one then refuses them.

    async def pause(self, reason: str = "by hand", *, rollout: str = "") -> RolloutStatus:
        """Hold the share where it is; harm still aborts."""
        return await self._command("pause", reason, rollout=rollout)

    async def resume(self, reason: str = "by hand", *, rollout: str = "") -> RolloutStatus:
        """Go on after a pause, or open the gate that the rollout waits at."""
        return await self._command("resume", reason, rollout=rollout)

    async def abort(self, reason: str = "by hand", version: str = "", *, rollout: str = "") -> RolloutStatus:
        """All requests to the champion, now; or those of one ``version`` of several."""
        with self._consent:
            return await self._command("abort", reason, version, rollout)

    async def promote(self, reason: str = "by hand", version: str = "", *, rollout: str = "") -> RolloutStatus:
        """The challenger becomes champion, now, whatever is undecided; of several the ``version`` that is named.

        Raises RolloutError when an abort was ordered as well, and when harm is shown: that version is then dropped, and
        with the last one the rollout aborted.
        """
        status = await self._command("promote", reason, version, rollout)
        if status.state is not None and status.state.status != "promoted":
            raise RolloutError(status.decisions[-1].reason)
        return status

    async def roll_back(self, champion: str, reason: str) -> RolloutStatus:
        """Have an earlier champion answer again. Raises RolloutError before the first rollout, and while one is under way."""
        async with self._turn:
            if self._state is None:
                raise RolloutError(f"{self._model} has had no rollout", "there is no champion to go back to")
            await self._enter(*roll_back(self._state, champion, reason, time.time()))
            await self._make_so()
        return await self.status()

    async def pid(self) -> int:
        return os.getpid()

    async def _command(self, order: Command, reason: str, version: str = "", rollout: str = "") -> RolloutStatus:
        async with self._turn:
            if self._state is None:
                raise RolloutError(f"{self._model} has had no rollout", "start one first")
            state, decision = apply_command(self._state, order, reason, time.time(), version, rollout)
            if order == "promote":
                state, decision = await self._unharmed(self._state, state, decision)
            await self._enter(state, decision)
            await self._make_so()
        return await self.status()

    async def _unharmed(
        self, before: RolloutState, state: RolloutState, decision: Decision
    ) -> tuple[RolloutState, Decision]:
        """The promotion that a person asks for; or the abort, when harm is shown."""
        # At no age is a deadline over: only harm aborts.
        await self._look(before, 0.0)
        if self._consent.aborting:
            raise RolloutError(f"{self._model}: an abort was ordered as well, and goes first")
        (version,) = state.challengers
        verdict = self._verdicts[version]
        if verdict.kind != "abort":
            return state, decision
        reason = f"promotion was asked for, but {verdict.reason}"
        return drop_challenger(before, version, reason, time.time(), verdict.figures)

    async def _run(self) -> None:
        while True:
            try:
                async with self._turn:
                    await self._pass()
            except Exception:
                # Ledger, Serve, catalog and MLflow may be away for a while; the next pass starts from the same state.
                _log.exception("rollout of %s: pass failed", self._model)
            await asyncio.sleep(self._state.policy.poll_s if self._state is not None else 1.0)

    async def _pass(self) -> None:
        if not self._applied:
            await self._make_so()
        if self._state is None or not self._state.active:
            return
        await self._look(self._state, self._state.step_age_s(time.time()))
        # Each turn drops one challenger, or is the last.
        while self._state.active and await self._step(self._state) == "drop":
            pass

    async def _step(self, before: RolloutState) -> str:
        """Take the step that the verdicts ask for. Returns the action; empty when an abort goes first."""
        ruling = decide(before, self._verdicts, self._evidence)
        state, decision = apply_decision(before, ruling, time.time())
        if decision.action in ("advance", "promote") and (refusal := await self._consent.objection(state, decision)):
            if self._consent.aborting:
                return ""
            held = ruling.model_copy(
                update={"kind": "hold", "reason": f"{refusal}; {ruling.reason}", "remark": refusal}
            )
            state, decision = apply_decision(before, held, time.time())
        if decision.action == "hold":
            await self._hold(state, decision)
        else:
            await self._enter(state, decision)
            await self._make_so()
        return decision.action

    async def _look(self, state: RolloutState, step_age_s: float) -> None:
        """Evidence and verdicts as they are now."""
        if self._task is None:
            self._task = await self._effects.task(state.champion)
        seen = await self._ledger.evidence.remote(state.id, state.initial_challengers, self._task, state.policy.metric)
        # What came after a challenger was dropped is no evidence on it.
        self._evidence |= {version: seen[version] for version in state.challengers}
        self._verdicts |= judge_all(state, self._evidence, step_age_s)

    async def _hold(self, state: RolloutState, decision: Decision) -> None:
        """Nothing changes; what a person should know of why is journaled, once."""
        assert self._state is not None
        if state.remark and state.remark != self._state.remark:
            await asyncio.to_thread(self._journal.record, decision, state.policy)
        self._state = state

    async def _enter(self, state: RolloutState, decision: Decision) -> None:
        """From here on the new state is what shall be."""
        await asyncio.to_thread(self._journal.record, decision, state.policy)
        self._state, self._applied = state, False
        self._untold.append(decision)

    async def _make_so(self) -> None:
        """Bring Serve and the aliases to what the state says, then tell of it. Safe to repeat."""
        assert self._state is not None
        while refusals := await self._effects.reconcile(self._state, self._options):
            for version, refusal in refusals.items():
                await self._enter(*drop_challenger(self._state, version, refusal, time.time(), {}))
        self._applied = True
        told, self._untold = self._untold, []
        for decision in told:
            self._consent.notify(self._state, decision)

    async def _report(self, state: RolloutState, failure: str) -> None:
        """Journal what is no step of the rollout."""
        async with self._turn:
            decision = journal_entry(state.model_copy(update={"reason": failure}), "hold", time.time(), {})
            await asyncio.to_thread(self._journal.record, decision, state.policy)
