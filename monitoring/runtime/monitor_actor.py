"""The actor that runs a model's drift monitor: one detached actor per model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.actor import ActorHandle

from cluster.actors import get_or_create
from cluster.errors import RayloopError
from cluster.names import CHAMPION, monitor_actor
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import Usage
from features.manifest import PROFILE_FILE
from monitoring.analysis.analysis_scheduler import SchedulerState
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult
from monitoring.detection.alarm_actions import AlarmAction, AlarmEntry
from monitoring.detection.detector import WindowResult
from monitoring.detection.notifier import Notifier
from monitoring.drift_policy import Action, DriftPolicy
from monitoring.export.cost import ResourcePrices
from monitoring.export.prometheus import PrometheusExporter
from monitoring.export.ray_metrics import RayMetricsExporter
from monitoring.retraining.retrain_scheduler import ScheduleStatus
from monitoring.retraining.triggers import RetrainPolicy
from monitoring.runtime.analysis_task import RayAnalysisRunner
from monitoring.runtime.facts_reader import RetrainHandlers, ThreadFactsReader
from monitoring.runtime.monitor import DriftMonitor
from monitoring.runtime.state_store import MonitorStore

FOLLOW_S = 2.0
"""Seconds between two requests to the registry for the champion, at least."""


class DriftMonitorActor:
    """A drift monitor in an actor: files in the settings' state, metrics exported, and the champion followed.

    Methods without a docstring here are those of DriftMonitor.
    """

    def __init__(
        self,
        settings: Settings,
        model: str,
        handlers: Mapping[Action, AlarmAction],
        analyze: Callable[[AnalysisRequest], AnalysisResult] | None,
        metrics_port: int | None,
        retraining: RetrainHandlers | None = None,
    ) -> None:
        """Continue from the files of an earlier process, if there are any; arguments as in ``start_monitor``."""
        self._registry = Registry(settings)
        self._champion_checked_at = -math.inf
        prometheus = PrometheusExporter()
        self._metrics_address = prometheus.serve(metrics_port) if metrics_port is not None else ""
        self._monitor = DriftMonitor(
            model,
            monitor_store(settings, model),
            handlers,
            (prometheus, RayMetricsExporter()),
            RayAnalysisRunner(analyze) if analyze else None,
            Notifier(),
            ResourcePrices(cpu=settings.price_cpu_hour, gpu=settings.price_gpu_hour, gib=settings.price_gib_hour),
            ThreadFactsReader(retraining.read) if retraining else None,
            retraining.submit if retraining else None,
        )

    def observe(self, version: str, window_s: float, profile: bytes) -> None:
        """Add a live profile. Traffic of another version than the monitored one may mean that it was promoted."""
        if version != self._monitor.version:
            self._follow_champion()
        self._monitor.observe(version, window_s, profile)

    def record_usage(self, usage: Usage) -> None:
        self._monitor.record_usage(usage)

    def watch(self, version: str, reference: bytes, policy: DriftPolicy, tags: Mapping[str, str] | None = None) -> None:
        self._monitor.watch(version, reference, policy, tags)

    def schedule(self, policy: RetrainPolicy) -> None:
        self._monitor.schedule(policy)

    def pause_retraining(self, by: str, reason: str) -> ScheduleStatus:
        return self._monitor.pause_retraining(by, reason)

    def resume_retraining(self, by: str, reason: str) -> ScheduleStatus:
        return self._monitor.resume_retraining(by, reason)

    def schedule_status(self) -> ScheduleStatus:
        return self._monitor.schedule_status()

    def close(self, before_s: float) -> int:
        return self._monitor.close(before_s)

    def status(self) -> dict[str, Any]:
        """The monitor's status, with the address of its metrics."""
        return {**self._monitor.status(), "metrics": self._metrics_address}

    def history(self) -> list[WindowResult]:
        return self._monitor.history()

    def journal(self) -> list[AlarmEntry]:
        return self._monitor.journal()

    def analyses(self) -> SchedulerState:
        return self._monitor.analyses()

    def _follow_champion(self) -> None:
        """Monitor the champion, regardless of which process promoted it."""
        monitored = self._monitor.version
        if not monitored or time.monotonic() - self._champion_checked_at < FOLLOW_S:
            return
        self._champion_checked_at = time.monotonic()
        try:
            champion = self._registry.version_by_alias(self._monitor.model, CHAMPION)
            if champion is not None and champion.version != monitored:
                reference = (self._registry.fetch(champion) / PROFILE_FILE).read_bytes()
                self._monitor.watch(champion.version, reference, self._monitor.policy)
        except (RayloopError, OSError) as error:
            # The registry may be unavailable for a while; the next profile tries again.
            self._monitor.record_failure(error)


def monitor_store(settings: Settings, model: str) -> MonitorStore:
    """Return the store of a model's monitor."""
    return MonitorStore(f"{settings.state}/monitors/{model}")


def start_monitor(
    settings: Settings,
    model: str,
    handlers: Mapping[Action, AlarmAction] | None = None,
    analyze: Callable[[AnalysisRequest], AnalysisResult] | None = None,
    metrics_port: int | None = 0,
    retraining: RetrainHandlers | None = None,
) -> ActorHandle[Any]:
    """Return the model's monitor; start it when there is none. It outlives its creator and restarts when it dies.

    Args:
        settings: Home, stores and prices.
        model: Name of the model.
        handlers: What each action of an alarm does; an action without one only notifies.
        analyze: Analysis of logged rows, run as a Ray task; None: there is none.
        metrics_port: Port at which the actor answers Prometheus on its own machine; 0 a free one (``status`` has the
            address), None for no endpoint.
        retraining: What triggers of retraining need; None: only alarms retrain.
    """
    return get_or_create(
        monitor_actor(model), DriftMonitorActor, settings, model, handlers or {}, analyze, metrics_port, retraining
    )
