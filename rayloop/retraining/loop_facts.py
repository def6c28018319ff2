"""What the triggers of retraining depend on: rows that landed, labels, a rollout in progress, jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cluster import jobs
from cluster.actors import find_actor, get_result
from cluster.names import labels_table, rollout_actor
from cluster.settings import Settings
from cluster.storage.tables import Tables
from monitoring.retraining.decision import JobFacts, LoopFacts

_LIMIT_S = 10.0


@dataclass(frozen=True)
class LoopFactsTask:
    """Reads the facts of one model where the monitor runs."""

    settings: Settings
    model: str
    sources: Mapping[str, str]
    """Tables by the names that triggers have for them; "" is the examples' source."""

    def __call__(self, job_ids: tuple[str, ...]) -> LoopFacts:
        """Read what the stores and the cluster know now."""
        # Before the rollout: a job that ends in between has started one.
        ended = {job: _job_facts(self.settings, job) for job in job_ids}
        return LoopFacts(
            rows={name: self._count(table) for name, table in self.sources.items()},
            labels=self._count(labels_table(self.model)),
            rolling_out=_is_rolling_out(self.model),
            jobs=ended,
        )

    @cached_property
    def _tables(self) -> Tables:
        return Tables(self.settings)

    def _count(self, table: str) -> int:
        latest = self._tables.latest(table)
        return latest.rows if latest is not None else 0


def _is_rolling_out(model: str) -> bool:
    actor = find_actor(rollout_actor(model))
    if actor is None:
        return False
    state = get_result(actor.status.remote(), _LIMIT_S).state
    return state is not None and bool(state.active)


def _job_facts(settings: Settings, job: str) -> JobFacts:
    state, message, minutes = jobs.run_time(settings, job)
    return JobFacts(state=f"{state}: {message}" if state == "failed" and message else state, minutes=minutes)
