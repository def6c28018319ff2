"""Act: a detached actor per model that takes a challenger through its rollout.

One pass: evidence, verdict, journal entry, Serve's configuration, aliases. The entry comes first, and states what shall
be so; everything after it is made so again by any later pass. A controller that dies between any two of them resumes
from the journal, compares with what Serve is told, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any
from uuid import uuid4

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from cluster.contracts import ACTOR_NAMESPACE, CHALLENGER, CHAMPION, Decision, Frozen, ModelVersion, Task, rollout_actor
from cluster.errors import ClusterUnavailable, RolloutError
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.tables import Tables
from deployments.config import ServingOptions
from deployments.config import connect as connect_config
from deployments.evidence import RolloutEvidence
from deployments.journal import Journal
from deployments.judge import Verdict, judge
from deployments.ledger import connect as connect_ledger
from deployments.policy import RolloutPolicy
from deployments.predictor import bundle_folder
from deployments.rollout import Command, RolloutState, advance, begin, command, entry
from deployments.user_config import ServerConfig, Trial
from features.bundle import Manifest

_log = logging.getLogger(__name__)


class RolloutStatus(Frozen):
    """``state`` is None before a model's first rollout; ``decisions`` are those of the newest one.

    ``settled`` tells whether Serve and the aliases are as the state says they shall be.
    """

    state: RolloutState | None
    settled: bool
    evidence: RolloutEvidence
    decisions: tuple[Decision, ...]

    @property
    def over(self) -> bool:
        """Whether there was a rollout, and it has ended in all its effects."""
        return self.state is not None and self.settled and not self.state.active


def connect(model: str, settings: Settings) -> ActorHandle:
    """The rollout controller of ``model``, started when absent."""
    options = {
        "name": rollout_actor(model),
        "namespace": ACTOR_NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "num_cpus": 0,
    }
    actor: Any = ray.remote(Controller)
    handle: ActorHandle = actor.options(**options).remote(model, settings)
    return handle


class Controller:
    """See the module. Commands and passes take turns."""

    async def __init__(self, model: str, settings: Settings) -> None:  # type: ignore[misc]
        self._model = model
        self._settings = settings
        self._registry = Registry(settings)
        self._journal = Journal(model, Tables(settings))
        self._config = connect_config(settings)
        self._ledger = connect_ledger(model, settings)
        self._turn = asyncio.Lock()
        self._evidence = RolloutEvidence()
        self._options = ServingOptions()
        self._task: Task | None = None
        self._state = await asyncio.to_thread(self._journal.last)
        # Also after a rollout that ended: its last effects may not have been applied.
        self._applied = self._state is None
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def start(
        self, challenger: ModelVersion, policy: RolloutPolicy, options: ServingOptions | None = None
    ) -> RolloutStatus:
        """Put ``challenger`` on trial against the version that is served.

        Raises RolloutError while another rollout is under way, when nothing is served, and, the rollout being journaled
        as aborted, when the challenger cannot be served.
        """
        async with self._turn:
            if self._state is not None and (self._state.active or not self._applied):
                raise RolloutError(
                    f"{self._model} has a rollout under way: v{self._state.challenger} at {self._state.share:.0%}",
                    "abort it or let it end first",
                )
            served: ServerConfig | None = await self._config.current.remote(self._model)
            if served is None:
                raise RolloutError(f"{self._model} is not served", "deploy a champion first")
            name = f"{self._model}-{challenger.version}-{uuid4().hex[:8]}"
            state = begin(name, self._model, served.champion.version, challenger.version, policy, time.time())
            self._options = options or ServingOptions()
            self._task, self._evidence = None, RolloutEvidence()
            await self._enter(state, entry(state, "start", state.since, {}))
            await self._make_so()
        if self._state is not None and self._state.status == "aborted":
            raise RolloutError(self._state.reason)
        return await self.status()

    async def status(self) -> RolloutStatus:
        decisions = await asyncio.to_thread(self._journal.decisions)
        mine = tuple(d for d in decisions if self._state is not None and d.rollout == self._state.id)
        return RolloutStatus(state=self._state, settled=self._applied, evidence=self._evidence, decisions=mine)

    async def pause(self, reason: str = "by hand") -> RolloutStatus:
        """Hold the share where it is; harm still aborts."""
        return await self._command("pause", reason)

    async def resume(self, reason: str = "by hand") -> RolloutStatus:
        return await self._command("resume", reason)

    async def abort(self, reason: str = "by hand") -> RolloutStatus:
        """All requests to the champion, now."""
        return await self._command("abort", reason)

    async def promote(self, reason: str = "by hand") -> RolloutStatus:
        """The challenger becomes champion, now, whatever the evidence."""
        return await self._command("promote", reason)

    async def pid(self) -> int:
        return os.getpid()

    async def _command(self, order: Command, reason: str) -> RolloutStatus:
        async with self._turn:
            if self._state is None:
                raise RolloutError(f"{self._model} has had no rollout", "start one first")
            await self._enter(*command(self._state, order, reason, time.time()))
            await self._make_so()
        return await self.status()

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
        verdict = await self._verdict(self._state)
        state, decision = advance(self._state, verdict, time.time())
        if decision.action == "hold":
            self._state = state
            return
        await self._enter(state, decision)
        await self._make_so()

    async def _verdict(self, state: RolloutState) -> Verdict:
        if self._task is None:
            self._task = await asyncio.to_thread(self._read_task, state.champion)
        self._evidence = await self._ledger.evidence.remote(state.id, self._task)
        return judge(self._evidence, state.share, state.step_age_s(time.time()), state.policy)

    async def _enter(self, state: RolloutState, decision: Decision) -> None:
        """From here on the new state is what shall be."""
        await asyncio.to_thread(self._journal.record, decision, state.policy)
        self._state, self._applied = state, False

    async def _make_so(self) -> None:
        """Bring Serve and the aliases to what the state says. Safe to repeat."""
        assert self._state is not None
        state = self._state
        if state.active:
            await self._make_trial(state)
        elif state.status == "promoted":
            await self._end(state, state.challenger)
        else:
            await self._end(state, state.champion)
        self._applied = True

    async def _make_trial(self, state: RolloutState) -> None:
        challenger = await asyncio.to_thread(self._registry.version, self._model, state.challenger)
        try:
            if not await self._config.has_challenger.remote(self._model, state.id):
                await self._config.start_challenger.remote(state.id, challenger, self._options)
        except RayTaskError as error:
            if isinstance(error.cause, ClusterUnavailable):
                raise
            reason = f"the challenger cannot be served: {error.cause}"
            await self._enter(*command(state, "abort", reason, time.time()))
            await self._make_so()
            return
        timeout_s = state.policy.challenger_timeout_s
        trial = Trial(rollout=state.id, challenger=challenger, share=state.share, timeout_s=timeout_s)
        await self._config.set_rollout.remote(self._model, trial)
        await asyncio.to_thread(self._registry.set_alias, challenger, CHALLENGER)

    async def _end(self, state: RolloutState, champion: str) -> None:
        """One version answers, the challenger's application and alias are gone."""
        version = await asyncio.to_thread(self._registry.version, self._model, champion)
        if await self._config.current.remote(self._model) is not None:
            await self._config.set_champion.remote(version)
        await self._config.stop_challenger.remote(self._model)
        if state.status == "promoted":
            await asyncio.to_thread(self._registry.set_alias, version, CHAMPION)
        await asyncio.to_thread(self._registry.clear_alias, self._model, CHALLENGER)

    def _read_task(self, champion: str) -> Task:
        version = self._registry.version(self._model, champion)
        return Manifest.load(bundle_folder(version, self._settings)).task
