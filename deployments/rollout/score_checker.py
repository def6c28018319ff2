"""Has samples of logged rows scored again by their versions, in the background: no pass and no request waits for it.

A task of its own loads the bundles, so that a model that crashes takes neither the controller nor the log writer along.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.limits import within
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.validity.validity_evidence import Suspects
from deployments.inference.rescoring import RescoredRows, rescore
from deployments.rollout.state_machine import RolloutState

EVERY_S = 30.0
"""Seconds between two samples."""
_LIMIT_S = 120.0

_log = logging.getLogger(__name__)


class ScoreChecker:
    """Scores samples of one rollout's rows again.

    Args:
        settings: Where bundles are.
        version: Looks up a version by its number.
    """

    def __init__(self, settings: Settings, version: Callable[[str], Awaitable[ModelVersion]]) -> None:
        self._settings, self._version = settings, version
        self._task: Any = ray.remote(num_cpus=0, max_retries=0)(rescore)
        self._about: tuple[str, float] = ("", 0.0)
        self._next = 0.0
        self._running: asyncio.Task[None] | None = None
        self._rows, self._differing = 0, Suspects()

    def poll(self, log_writer: ActorHandle[Any], state: RolloutState) -> None:
        """Begin with the next sample if it is due, and the one before has ended."""
        about = (state.id, state.evidence_since)
        if about != self._about:
            self._about, self._rows, self._differing = about, 0, Suspects()
        if time.monotonic() >= self._next and (self._running is None or self._running.done()):
            self._next = time.monotonic() + EVERY_S
            self._running = asyncio.get_running_loop().create_task(self._check(log_writer, state, about))

    def annotate(self, evidence: Mapping[str, RolloutEvidence]) -> dict[str, RolloutEvidence]:
        """Add what was found to the evidence on each challenger: logged rows are those of all of them."""
        update = {"rescored": self._rows, "differing": self._differing}
        return {
            version: each.model_copy(update={"validity": each.validity.model_copy(update=update)})
            if each.validity is not None
            else each
            for version, each in evidence.items()
        }

    async def _check(self, log_writer: ActorHandle[Any], state: RolloutState, about: tuple[str, float]) -> None:
        try:
            data: bytes = await within(_LIMIT_S, "the log writer", log_writer.take_sample.remote(state.id))
            if not data:
                return
            champion, *challengers = [await self._version(number) for number in (state.champion, *state.challengers)]
            call = self._task.remote(data, champion, challengers, self._settings)
            result: RescoredRows = await within(_LIMIT_S, "scoring logged rows again", call)
        except Exception:
            # Bundles, the registry or a worker may be away for a while; there is a next sample.
            _log.exception("rollout of %s: cannot score logged rows again", state.model)
            return
        if about == self._about:
            self._rows += result.rows
            self._differing = self._differing.add(result.differing)
