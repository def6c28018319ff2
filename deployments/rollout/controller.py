"""A detached actor per model that takes its challengers through a rollout.

One pass: evidence, verdicts, approvals, journal entry, Serve's configuration, aliases. The entry states what should be
true; every later pass reconciles the rest with it. Before the entry of a drop or an abort, the challenger is taken out
of the traffic: that must not wait for a store. A controller that dies between any two of them
resumes from the journal, compares it with Serve's configuration, and continues; so does one that got no clear answer.

A controller claims its model: one that was cut off, and replaced, writes nothing when it returns, and ends. After an
answer that was not clear, it takes a new epoch, so that what is still under way cannot arrive after it has read the
journal.

An abort takes precedence over a promotion: if the challenger is shown to be worse when a person asks to promote it, it
is aborted instead; and an abort that arrives while a step waits for approval, or a promotion for its turn, goes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.metrics import Counter

from cluster.actors import end_actor, get_or_create
from cluster.errors import CallTimeout, RolloutError, WriterReplaced
from cluster.limits import STORE_S, in_thread, within
from cluster.names import rollout_actor
from cluster.persistent_gauge import PersistentGauge
from cluster.row_losses import check_metric
from cluster.settings import Settings
from cluster.storage.claims import Claim
from cluster.storage.tables import Tables
from cluster.times import epoch_microseconds
from cluster.values import Decision, ModelVersion, Task
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.paired_predictions import LabelWaits
from deployments.analysis.validity.validity_evidence import NOTHING_HELD_OUT
from deployments.analysis.verdict import Verdict
from deployments.rollout import probation, state_machine, webhook_client
from deployments.rollout.advance_guards import hold_decision
from deployments.rollout.approvals import Approvals
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.multi_challenger import decide, judge_all
from deployments.rollout.probation import LateVerdict
from deployments.rollout.reconciler import Reconciler
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.score_checker import ScoreChecker
from deployments.rollout.serve_config import ServingOptions
from deployments.rollout.state_machine import Command, RolloutState
from deployments.rollout_policy import RolloutPolicy
from deployments.telemetry.log_writer import connect_log_writer

_log = logging.getLogger(__name__)
EVIDENCE_S = 30.0
"""Within which the log writer must answer; a pass that waits for it keeps commands waiting."""


def connect_controller(model: str, settings: Settings) -> ActorHandle[Any]:
    """Connect to the rollout controller of a model; start it if absent."""
    return get_or_create(rollout_actor(model), RolloutController, model, settings)


class RolloutController:
    """Runs the rollouts of one model; commands and passes take turns.

    A command may name the rollout that it is for; it is refused if another one is the newest.
    """

    async def __init__(self, model: str, settings: Settings) -> None:  # type: ignore[misc]
        self._model = model
        self._settings = settings
        self._holder = uuid4().hex
        self._claim: Claim | None = None
        self._replaced = False
        self._journal = RolloutJournal(model, Tables(settings))
        self._reconciler = Reconciler(model, settings)
        self._log_writer = connect_log_writer(model, settings)
        self._score_checker = ScoreChecker(settings, self._reconciler.version)
        self._approvals = Approvals(self._report)
        self._turn = asyncio.Lock()
        self._evidence: dict[str, RolloutEvidence] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._late_verdict: LateVerdict | None = None
        self._options = ServingOptions()
        self._task: Task | None = None
        self._held_out = NOTHING_HELD_OUT
        self._invalid = PersistentGauge(
            "rayloop_rollout_invalid", "1 while this check of a rollout's evidence has failed.", ("model", "check")
        )
        self._late_harm = PersistentGauge(
            "rayloop_late_harm", "1 from late labels that show harm to a rollback or rollout.", ("model", "version")
        )
        self._pending_notifications: list[Decision] = []
        self._pass_failures = Counter("rayloop_rollout_pass_failures", "Passes that failed.", ("model",))
        self._state: RolloutState | None = None
        self._applied = True
        self._in_doubt = True
        """Whether the journal may have other entries than those that led to the state."""
        self._next_look = 0.0
        """When labels are looked at again, of a version on probation; of the monotonic clock."""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def start(
        self,
        challengers: ModelVersion | Sequence[ModelVersion],
        policy: RolloutPolicy,
        options: ServingOptions | None = None,
    ) -> RolloutStatus:
        """Put one challenger, or several, on trial against the version that is served.

        Args:
            challengers: The versions.
            policy: Steps and criteria.
            options: Resources of the challengers; None for the defaults.

        Raises:
            RolloutError: Another rollout is in progress, nothing is served, the model is moving to another cluster, the
                policy does not fit, a webhook objects, or no challenger can be served; the last case is journaled as an
                aborted rollout.
        """
        several = [challengers] if isinstance(challengers, ModelVersion) else challengers
        versions = [challenger.version for challenger in several]
        async with self._take_turn():
            if self._state is not None and (self._state.active or not self._applied):
                raise RolloutError("rollout.in_progress", model=self._model, rollout=self._state.id)
            webhook_client.check_secrets(policy.webhooks)
            await self._reconciler.require_no_move()
            champion = (await self._reconciler.champion()).version
            task = await self._reconciler.task(champion)
            check_metric(task, policy.metric)
            held_out = await self._reconciler.held_out(champion)
            name = f"{self._model}-{'-'.join(versions)}-{uuid4().hex[:8]}"
            state = state_machine.begin(name, self._model, champion, versions, policy, time.time())
            decision = state_machine.journal_entry(state, "start", state.since, {})
            self._approvals.reset()
            if refusal := await self._approvals.objection(state, decision):
                raise RolloutError("rollout.not_approved", model=self._model, refusal=refusal)
            self._options, self._task, self._held_out = options or ServingOptions(), task, held_out
            if self._state is not None and self._state.on_probation:
                verdict = probation.supersede(self._state, name)
                await self._record(*probation.apply_late_verdict(self._state, verdict, time.time()))
            self._evidence, self._verdicts, self._late_verdict = {}, {}, None
            await self._record(state, decision)
            await self._reconcile()
        if self._state is not None and self._state.status == "aborted":
            raise RolloutError("rollout.challengers_not_served", rollout=self._state.id, reason=self._state.reason)
        return await self.status()

    async def status(self) -> RolloutStatus:
        """Return the newest rollout with its evidence and journal."""
        if self._state is None:
            async with self._take_turn():
                pass
        decisions = await in_thread(STORE_S, "the rollout journal", self._journal.decisions)
        newest = tuple(d for d in decisions if self._state is not None and d.rollout == self._state.id)
        return RolloutStatus(
            state=self._state,
            applied=self._applied,
            evidence=self._evidence,
            verdicts=self._verdicts,
            decisions=newest,
            late_verdict=self._late_verdict if self._state is not None and self._state.on_probation else None,
        )

    async def pause(self, reason: str = "by hand", *, rollout: str = "") -> RolloutStatus:
        """Keep the current share; a challenger that is worse is still aborted."""
        return await self._command("pause", reason, rollout=rollout)

    async def resume(self, reason: str = "by hand", *, rollout: str = "") -> RolloutStatus:
        """Continue after a pause, or open the gate at which the rollout waits.

        After an invalid rollout, the evidence from before is set aside.
        """
        return await self._command("resume", reason, rollout=rollout)

    async def abort(self, reason: str = "by hand", version: str = "", *, rollout: str = "") -> RolloutStatus:
        """Send all requests to the champion immediately; with ``version``, those of that challenger."""
        with self._approvals:
            halted = await self._halt(reason, version, rollout)
            # Should the journal not answer, later passes find what was halted, and record it.
            self._applied = False
            async with self._take_turn():
                state = self._require_state()
                # A pass that had the turn may have recorded the abort already.
                if state.active and {*halted} & {*state.challengers}:
                    await self._record(*state_machine.apply_command(state, "abort", reason, time.time(), version))
                    await self._reconcile()
        return await self.status()

    async def promote(self, reason: str = "by hand", version: str = "", *, rollout: str = "") -> RolloutStatus:
        """Make the challenger champion immediately, even if the evidence is undecided.

        Args:
            reason: The person's reason.
            version: Which one, of several challengers.
            rollout: The rollout that the command is for; empty: the newest.

        Raises:
            RolloutError: An abort was also requested, or the challenger is shown to be worse: it is then dropped, and
                the rollout aborted if it was the last one.
        """
        status = await self._command("promote", reason, version, rollout)
        if status.state is not None and status.state.status != "promoted":
            reason = status.decisions[-1].reason
            raise RolloutError("rollout.promotion_refused", rollout=status.state.id, reason=reason)
        return status

    async def roll_back(self, champion: str, reason: str) -> RolloutStatus:
        """Restore an earlier champion.

        Args:
            champion: Version to restore.
            reason: Why.

        Raises:
            RolloutError: The model has had no rollout, one is in progress, or the model is moving.
        """
        async with self._take_turn():
            state = self._require_state()
            await self._reconciler.require_no_move()
            await self._record(*state_machine.roll_back(state, champion, reason, time.time()))
            await self._reconcile()
        return await self.status()

    async def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    async def _halt(self, reason: str, version: str, rollout: str) -> tuple[str, ...]:
        """Take challengers out of the traffic, without a turn: a pass may hold it while it waits for a store.

        Returns:
            Their versions.
        """
        if self._state is None:
            # The journal has not been read, and may not answer: Serve knows who is on trial.
            await self._reconciler.halt_served(reason, version, rollout)
            async with self._take_turn():
                pass
        state = self._require_state()
        _, decision = state_machine.apply_command(state, "abort", reason, time.time(), version, rollout)
        await self._halt_before(state, decision)
        return decision.challengers

    async def _halt_before(self, state: RolloutState, decision: Decision) -> None:
        """Before a drop or an abort is journaled, take its challengers out of the traffic."""
        if decision.action not in ("drop", "abort"):
            return
        try:
            await self._reconciler.halt(state, decision.challengers, decision.reason)
        except (RayError, CallTimeout):
            # Serve does not answer. Once the decision is in the journal, every pass tries again.
            _log.exception("rollout of %s: cannot halt %s", self._model, decision.challengers)

    @asynccontextmanager
    async def _take_turn(self) -> AsyncIterator[None]:
        """Wait for the turn. Nothing in a turn is called without a time limit: an abort waits for it."""
        async with self._turn:
            try:
                if self._in_doubt:
                    await self._resume()
                yield
            except WriterReplaced as error:
                if self._claim is not None and error.fields["writer"] == self._claim.writer:
                    self._replaced = True
                    end_actor()
                raise

    async def _resume(self) -> None:
        """Continue from the journal, to which nothing from before can be added any more."""
        writer = (rollout_actor(self._model), self._holder)
        self._claim = await in_thread(STORE_S, "the catalog", Claim.take, self._settings, *writer, self._claim)
        self._reconciler.epoch = self._claim.epoch
        self._journal = RolloutJournal(self._model, Tables(self._settings, self._claim), self._claim.epoch)
        self._state = await in_thread(STORE_S, "the rollout journal", self._journal.last_state)
        # Also after a rollout that ended: its last step may not have been applied.
        self._applied, self._in_doubt = self._state is None, False

    def _require_state(self) -> RolloutState:
        if self._state is None:
            raise RolloutError("rollout.not_found", model=self._model)
        return self._state

    async def _command(self, command: Command, reason: str, version: str = "", rollout: str = "") -> RolloutStatus:
        async with self._take_turn():
            before = self._require_state()
            state, decision = state_machine.apply_command(before, command, reason, time.time(), version, rollout)
            if command == "promote":
                state, decision = await self._promote_unless_worse(before, state, decision)
            await self._halt_before(before, decision)
            await self._record(state, decision)
            await self._reconcile()
        return await self.status()

    async def _promote_unless_worse(
        self, before: RolloutState, state: RolloutState, decision: Decision
    ) -> tuple[RolloutState, Decision]:
        """Return the requested promotion, or the drop of a challenger that is shown to be worse."""
        # With age 0 no deadline is over: only a challenger that is worse aborts.
        await self._refresh_evidence(before, 0.0)
        if self._approvals.aborting:
            raise RolloutError("rollout.abort_requested", rollout=before.id, model=self._model)
        (version,) = state.challengers
        verdict = self._verdicts[version]
        if verdict.kind != "abort":
            return state, decision
        reason = f"promotion was requested, but {verdict.reason}"
        return state_machine.drop_challenger(before, version, reason, time.time(), verdict.figures)

    async def _run(self) -> None:
        while not self._replaced:
            try:
                async with self._take_turn():
                    await self._pass()
            except Exception:
                # Log writer, Serve, catalog or MLflow may be down for a while; the next pass starts from this state.
                self._pass_failures.inc(tags={"model": self._model})
                _log.exception("rollout of %s: pass failed", self._model)
            await asyncio.sleep(self._state.policy.poll_s if self._state is not None else 1.0)

    async def _pass(self) -> None:
        self._export_faults()
        if not self._applied:
            await self._reconcile()
        if self._state is not None and self._state.on_probation and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._state.policy.probation_poll_s
            await self._look_at_labels(self._state)
        if self._state is None or not self._state.active:
            return
        await self._refresh_evidence(self._state, self._state.step_age_s(time.time()))
        # Each iteration drops one challenger, or is the last.
        while self._state.active and await self._step(self._state) == "drop":
            pass

    def _export_faults(self) -> None:
        for gauge in (self._invalid, self._late_harm):
            gauge.clear()
        if check := self._failed_check():
            self._invalid.set(1.0, {"model": self._model, "check": check})
        if self._state is not None and self._state.late_harm:
            self._late_harm.set(1.0, {"model": self._model, "version": self._state.answering_version})

    def _failed_check(self) -> str:
        """Name the check that the evidence fails, during the rollout or on probation; empty for none."""
        if self._state is None:
            return ""
        if self._state.on_probation:
            return self._late_verdict.check if self._late_verdict is not None else ""
        return self._state.check if self._state.status == "invalid" else ""

    async def _look_at_labels(self, state: RolloutState) -> None:
        """Judge a version on probation."""
        await self._refresh_evidence(state, 0.0)
        verdict = probation.judge_probation(state, self._evidence[state.answering_version], time.time())
        self._late_verdict = verdict
        if verdict.action != "hold":
            await self._record(*probation.apply_late_verdict(state, verdict, time.time()))
            await self._reconcile()

    async def _step(self, before: RolloutState) -> str:
        """Take the step that the verdicts ask for. Returns the action; empty if an abort goes first."""
        decision = decide(before, self._verdicts, self._evidence)
        state, entry = state_machine.apply_decision(before, decision, time.time())
        if entry.action in ("advance", "promote") and (refusal := await self._approvals.objection(state, entry)):
            if self._approvals.aborting:
                return ""
            hold = hold_decision(decision, f"{refusal}; {decision.reason}", refusal)
            state, entry = state_machine.apply_decision(before, hold, time.time())
        if entry.action == "hold":
            await self._record_hold(state, entry)
        else:
            await self._halt_before(before, entry)
            await self._record(state, entry)
            await self._reconcile()
        return entry.action

    async def _refresh_evidence(self, state: RolloutState, step_age_s: float) -> None:
        if self._task is None:
            self._held_out = await self._reconciler.held_out(state.champion)
            self._task = await self._reconciler.task(state.champion)
        waits = LabelWaits(state.policy.label_wait_s, state.policy.label_delay_s or 0.0)
        rows = (self._held_out, epoch_microseconds(state.evidence_since), waits, state.policy.disparity)
        arguments = (state.id, state.initial_challengers, self._task, state.policy.metric, *rows)
        try:
            evidence: dict[str, RolloutEvidence] = await within(
                EVIDENCE_S, "the log writer", self._log_writer.evidence.remote(*arguments)
            )
        except RayActorError:
            self._log_writer = connect_log_writer(self._model, self._settings)
            raise
        self._score_checker.poll(self._log_writer, state)
        # What arrives after a challenger was dropped is not evidence about it.
        self._evidence |= self._score_checker.annotate({version: evidence[version] for version in state.challengers})
        self._verdicts |= judge_all(state, self._evidence, step_age_s)

    async def _record_hold(self, state: RolloutState, decision: Decision) -> None:
        """Journal a hold only if its remark is new."""
        assert self._state is not None
        if state.remark and state.remark != self._state.remark:
            await self._append_entry(state, decision)
        self._state = state

    async def _record(self, state: RolloutState, decision: Decision) -> None:
        """Journal a step; from here on its state is the desired one."""
        await self._append_entry(state, decision)
        self._state, self._applied = state, False
        self._pending_notifications.append(decision)

    async def _append_entry(self, state: RolloutState, decision: Decision) -> None:
        # Until the answer is clear: the entry may be in the journal although there was none.
        self._in_doubt = True
        await in_thread(STORE_S, "the rollout journal", self._journal.record, decision, state.policy)
        self._in_doubt = False

    async def _reconcile(self) -> None:
        """Bring Serve and the aliases to the desired state, then notify the webhooks. Safe to repeat."""
        assert self._state is not None
        while refusals := await self._reconciler.reconcile(self._state, self._options):
            for version, refusal in refusals.items():
                await self._record(*state_machine.drop_challenger(self._state, version, refusal, time.time(), {}))
        self._applied = True
        decisions, self._pending_notifications = self._pending_notifications, []
        for decision in decisions:
            self._approvals.notify(self._state, decision)

    async def _report(self, state: RolloutState, failure: str) -> None:
        """Journal a webhook's failure, which is not a step of the rollout."""
        async with self._take_turn():
            decision = state_machine.journal_entry(
                state.model_copy(update={"reason": failure}), "hold", time.time(), {}
            )
            await self._append_entry(state, decision)
