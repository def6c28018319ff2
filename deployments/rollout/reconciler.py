"""Bring Serve and the MLflow aliases to the state of a rollout. Safe to repeat."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

from cluster.actors import session_name
from cluster.errors import ClusterUnavailable, RolloutError, WriterReplaced
from cluster.limits import STORE_S, in_thread, within
from cluster.names import CHALLENGER, CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import ModelVersion, Task
from deployments.analysis.validity.validity_evidence import HeldOut
from deployments.inference.predictor import fetch_bundle
from deployments.rollout.serve_config import ServingOptions, connect_config_writer
from deployments.rollout.state_machine import RolloutState
from deployments.serve_schema import Halt, ServerConfig, TrafficSplit
from features.manifest import Manifest

_log = logging.getLogger(__name__)
_HALT_S = 10.0
_CHANGE_S = 45.0
"""For a change of Serve's configuration that every replica applies; the writer itself gives up earlier."""
_BUNDLE_S = 60.0


class Reconciler:
    """Applies the rollout states of one model.

    Args:
        model: Name of the model.
        settings: Where Serve and MLflow are.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._registry = Registry(settings)
        self._config = connect_config_writer(settings)
        self.epoch = 0
        """Epoch of the controller, which Serve's configuration and the aliases keep."""

    async def champion(self) -> ModelVersion:
        """Return the version that is served.

        Raises:
            RolloutError: No version is served.
        """
        config = await self._current_config()
        if config is None:
            raise RolloutError("rollout.model_not_served", model=self._model)
        return config.champion

    async def require_no_move(self) -> None:
        """Check that the model's requests are not on their way to or from this cluster.

        Raises:
            RolloutError: They are.
        """
        mark = await in_thread(STORE_S, "MLflow", self._registry.move, self._model)
        if mark is not None and mark.forbids_rollouts(session_name()):
            raise RolloutError("rollout.model_moving", model=self._model, percent=100 * mark.share)

    async def task(self, champion: str) -> Task:
        """Return the prediction task of a champion."""
        return await in_thread(_BUNDLE_S, f"the bundle of v{champion}", self._read_task, champion)

    async def held_out(self, champion: str) -> HeldOut:
        """Return what the registry says of a champion on held-out rows."""
        return await in_thread(_BUNDLE_S, f"the bundle of v{champion}", self._read_held_out, champion)

    async def reconcile(self, state: RolloutState, options: ServingOptions) -> dict[str, str]:
        """Apply a state to Serve and the aliases.

        Args:
            state: The desired state.
            options: Resources of the challengers.

        Returns:
            By version, why a challenger cannot be served, or was halted. If it is not empty, at most the others were
            started.
        """
        if state.active:
            return await self._apply_split(state, options)
        await self._end(state, state.answering_version)
        if state.on_probation:
            await self._send_copies(state, options)
        return {}

    async def halt(self, state: RolloutState, versions: tuple[str, ...], reason: str) -> None:
        """Take challengers out of the traffic, before the journal is written: harm ends whatever else is broken."""
        halt = Halt(rollout=state.id, versions=versions, reason=reason)
        await self._ask(_HALT_S, "halt_challengers", self._model, halt, self.epoch)

    async def halt_served(self, reason: str, version: str, rollout: str) -> None:
        """Take challengers out of the traffic by Serve's configuration alone.

        Args:
            reason: The person's reason.
            version: The challenger; empty: all.
            rollout: The rollout that the order is for; empty: the one that is served.
        """
        config = await self._current_config()
        split = config.split if config else None
        if split is not None and rollout in ("", split.rollout):
            versions = tuple(v.version for v in split.challengers if version in ("", v.version))
            halt = Halt(rollout=split.rollout, versions=versions, reason=reason)
            await self._ask(_HALT_S, "halt_challengers", self._model, halt)

    async def _ask(self, limit_s: float, method: str, *args: object) -> Any:
        """Call the writer of Serve's configuration."""
        call = getattr(self._config, method).remote(*args)
        try:
            return await within(limit_s, f"the writer of Serve's configuration ({method})", call)
        except RayActorError:
            self._config = connect_config_writer(self._settings)
            raise

    async def _current_config(self) -> ServerConfig | None:
        config: ServerConfig | None = await self._ask(STORE_S, "current_config", self._model)
        return config

    async def version(self, version: str) -> ModelVersion:
        """Look a version up by its number."""
        return await in_thread(STORE_S, "MLflow", self._registry.version, self._model, version)

    async def _apply_split(self, state: RolloutState, options: ServingOptions) -> dict[str, str]:
        config = await self._current_config()
        halt = config.halt if config and config.halt and config.halt.rollout == state.id else None
        # The controller, or what it writes to, failed after the traffic was off.
        if halt and (halted := [version for version in state.challengers if version in halt.versions]):
            return dict.fromkeys(halted, halt.reason)
        versions = [await self.version(version) for version in state.challengers]
        refusals = await asyncio.gather(*(self._start(state, version, options) for version in versions))
        if any(refusals):
            return {v.version: refusal for v, refusal in zip(versions, refusals, strict=True) if refusal}
        split = TrafficSplit(
            rollout=state.id,
            challengers=tuple(versions),
            starts=state.starts,
            share=state.share,
            timeout_s=state.policy.challenger_timeout_s,
            shadow=state.policy.shadow,
            copies=0.0 if state.policy.shadow else state.policy.copies,
            copy_cpus=state.policy.copy_cpus,
        )
        await self._ask(_CHANGE_S, "set_rollout", self._model, split, self.epoch)
        await self._ask(_CHANGE_S, "retain_challengers", self._model, state.id, state.challengers, self.epoch)
        if len(versions) == 1:
            # An alias names one version.
            await in_thread(STORE_S, "MLflow", self._registry.set_alias, versions[0], CHALLENGER, self.epoch)
        return {}

    async def _start(self, state: RolloutState, challenger: ModelVersion, options: ServingOptions) -> str:
        """Start a challenger unless it runs. Returns why it cannot be served; empty if it can."""
        try:
            if not await self._ask(STORE_S, "has_challenger", self._model, state.id, challenger.version):
                limit_s, growth_mib = options.deadline_s + _CHANGE_S, state.policy.max_growth_mib
                await self._ask(limit_s, "start_challenger", state.id, challenger, options, growth_mib, self.epoch)
        except RayTaskError as error:
            if isinstance(error.cause, ClusterUnavailable | WriterReplaced):
                raise
            return f"v{challenger.version} cannot be served: {error.cause}"
        return ""

    async def _end(self, state: RolloutState, champion: str) -> None:
        """Have one version answer; remove the challengers' applications and alias."""
        config = await self._current_config()
        if config is not None and config.champion.version == champion:
            # Not looked up: it gets the traffic back although MLflow does not answer.
            version = config.champion
        else:
            version = await self.version(champion)
        if config is not None:
            await self._ask(_CHANGE_S, "set_champion", version, self.epoch)
        kept = (state.champion,) if state.on_probation else ()
        await self._ask(_CHANGE_S, "retain_challengers", self._model, state.id, kept, self.epoch)
        if state.status in ("promoted", "rolled back"):
            await in_thread(STORE_S, "MLflow", self._registry.set_alias, version, CHAMPION, self.epoch)
        await in_thread(STORE_S, "MLflow", self._registry.clear_alias, self._model, CHALLENGER, self.epoch)

    async def _send_copies(self, state: RolloutState, options: ServingOptions) -> None:
        """Have the former champion score copies of a sample of the requests. Without it, fewer rows decide."""
        former = await self.version(state.champion)
        if refusal := await self._start(state, former, options):
            _log.warning("rollout %s: no copies for the former champion during the probation: %s", state.id, refusal)
            return
        split = TrafficSplit(
            rollout=state.id,
            challengers=(former,),
            share=0.0,
            timeout_s=state.policy.challenger_timeout_s,
            copies=state.policy.probation_share,
            copy_cpus=state.policy.copy_cpus,
        )
        await self._ask(_CHANGE_S, "set_rollout", self._model, split, self.epoch)

    def _read_task(self, champion: str) -> Task:
        return self._manifest(champion).task

    def _read_held_out(self, champion: str) -> HeldOut:
        manifest = self._manifest(champion)
        return HeldOut.from_manifest(manifest.task, manifest.metrics, manifest.class_shares)

    def _manifest(self, champion: str) -> Manifest:
        return Manifest.load(fetch_bundle(self._registry.version(self._model, champion), self._settings))
